"""Names publishers, for bounds of each."""

from __future__ import annotations

from pushserver.auth.identity import Identity
from pushserver.auth.keys import LOCAL
from pushserver.auth.wrong_keys import group
from pushserver.channels.idempotency import ADDRESS, THIS_MACHINE, USER


def publisher(identity: Identity, address: str | None) -> str:
    """The name of a publisher: its API key's, else its user's, else its address's.

    `address` is that of the client, None on a Unix socket.
    """
    key = identity.key
    if key is not None and key is not LOCAL:
        return f"key {key.name}"
    if identity.user:
        return f"{USER}{identity.user}"
    return f"{ADDRESS if key is None else THIS_MACHINE}{group(address)}"
