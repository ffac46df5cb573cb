"""The application of the servers of this folder."""

from __future__ import annotations

import json
from typing import Any

from pushserver import PushServer, Unavailable

app = PushServer()


@app.fragment(namespace="open")
@app.fragment(namespace="short")
@app.fragment(namespace="few")
@app.fragment(namespace="closed")
def fragment(publication: Any) -> str:
    # Characters that no form of HTML escapes.
    return f"~{json.dumps(publication.data).encode().hex()}~"


@app.on("say")
def say(client: Any, data: Any) -> int:
    """Publish in a thread; returns a status."""
    try:
        app.publish(data["channel"], data["data"], event=data["event"])
    except Unavailable:
        return 503
    return 201


@app.on("rpc", thread=False)
async def rpc(client: Any, data: Any) -> int:
    """Publish in a coroutine; returns a status."""
    try:
        await app.publish(data["channel"], data["data"], event=data["event"])
    except Unavailable:
        return 503
    return 201
