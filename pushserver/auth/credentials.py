"""The credentials of a request, as they were sent."""

from __future__ import annotations

from msgspec import Struct


class Credentials(Struct, frozen=True):
    """The texts that prove an identity; None where the request has none.

    `key` is an API key, `token` a token, `bearer` either of them (RFC 6750). `address` is the IP
    address of the client, behind trusted proxies; None on a Unix socket. `problem`: why they are
    not valid; empty without one.
    """

    address: str | None = None
    problem: str = ""
    key: str | None = None
    token: str | None = None
    bearer: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the request proves nothing."""
        return self.key is None and self.token is None and self.bearer is None and not self.problem


NOTHING = Credentials()


def looks_like_token(text: str) -> bool:
    """Whether a text has the three parts of a token (RFC 7515, 7.1)."""
    return text.count(".") == 2
