"""The identity of a peer is one of the present configuration."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from pushserver.auth.credentials import Credentials
from pushserver.auth.identity import Grant, Identity
from pushserver.auth.keys import Keys
from pushserver.auth.token_keys import TokenKey, key_of_jwk
from pushserver.auth.wrong_keys import WrongKeys
from pushserver.hub.metrics import Metrics
from pushserver.sessions.callbacks import NoHandlers
from pushserver.sessions.identification import Identification, TokenRemoved
from tests.unit.fakes.tokens import jwk

KEY = key_of_jwk(jwk("ES256"))


class SlowTokens:
    """Keys of a URL, which are read when a token comes."""

    def __init__(self, *accepted: TokenKey):
        self.read: Deferred[None] = Deferred()
        self._accepted = accepted

    async def connection(self, text: str) -> Identity:
        await self.read
        return Identity("ann", proof=KEY)

    async def subscription(self, text: str, channel: str, user: str) -> Grant:
        raise AssertionError

    def accepts(self, key: TokenKey) -> bool:
        return key in self._accepted


def test_token_whose_key_is_removed_while_the_keys_are_read_is_refused() -> None:
    for after, problem in ((SlowTokens(), TokenRemoved), (SlowTokens(KEY), type(None))):
        before = SlowTokens(KEY)
        identification = Identification(
            Keys(), before, WrongKeys(60), NoHandlers(), Metrics(), lambda: 0.0
        )
        found: list[Any] = []
        call = identification.identify(Credentials("192.0.2.7", token="a.b.c"))
        Deferred.fromCoroutine(call).addBoth(found.append)
        identification.reconfigure(Keys(), after, 60)
        before.read.callback(None)
        assert type(found[0].problem) is problem
        assert found[0].user == ("" if found[0].problem else "ann")
