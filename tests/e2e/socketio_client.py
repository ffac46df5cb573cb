"""The clients of python-socketio, with the story of `tests/node/socketio_story.mjs`.

usage: python -m tests.e2e.socketio_client Client|AsyncClient URL NAMESPACE TRANSPORT...

They have no recovery: after a restart they get the next publications.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import sys
from typing import Any

import socketio

MANY = 500
SECONDS = 60


def say(name: str, value: object) -> None:
    sys.stdout.write(json.dumps([name, value]) + "\n")
    sys.stdout.flush()


async def resolved(value: Any) -> Any:
    """The value of a call: AsyncClient has a coroutine, Client has waited."""
    return await value if inspect.isawaitable(value) else value


class Inbox:
    """The values of events, in their order."""

    def __init__(self, kind: str):
        self._queue: Any = asyncio.Queue() if kind == "AsyncClient" else queue.Queue()

    def put(self, *values: Any) -> None:
        self._queue.put_nowait(values[0] if values else None)

    async def next(self) -> Any:
        if isinstance(self._queue, asyncio.Queue):
            return await asyncio.wait_for(self._queue.get(), SECONDS)
        return self._queue.get(timeout=SECONDS)


async def play(kind: str, url: str, namespace: str, *transports: str) -> None:
    name = f"/{namespace}"
    client = getattr(socketio, kind)(
        reconnection_delay=0.05, reconnection_delay_max=0.1, randomization_factor=0
    )

    def on(event: str, function: Any, namespace: str = name) -> None:
        client.on(event, function, namespace=namespace)

    async def ask(event: str, value: Any = None, seconds: int = SECONDS) -> Any:
        return await resolved(client.call(event, value, namespace=name, timeout=seconds))

    inboxes = {event: Inbox(kind) for event in ("welcome", "blob", "count", "publish", "connect")}
    for event, inbox in inboxes.items():
        on(event, inbox.put)
    on("question", lambda value: {"n": value["n"] + 1})
    on("bytes_question", lambda value: (value[1:], "and", value))
    on("silence", lambda: None)
    on("published", lambda value, *more: say("published", value))
    on("published", lambda value, *more: say("quiet", value), f"{name}-quiet")

    namespaces = [name, f"{name}-quiet", "/other"]
    await resolved(
        client.connect(
            url,
            auth={"name": "ada"},
            namespaces=namespaces,
            transports=list(transports),
            wait_timeout=SECONDS,
        )
    )
    say("welcome", await inboxes["welcome"].next())
    say("transport", client.transport())
    back = await ask("same", {"bytes": b"\0\x1e\xff", "text": "gr\u00fcn", "list": [1, [None]]})
    say("same", {**back, "bytes": list(back["bytes"])})
    await resolved(client.emit("send_blob", namespace=name))
    say("blob", list(await inboxes["blob"].next()))
    say(
        "asked",
        [await ask("ask", {"n": 1}), await ask("ask_async", {"n": 2}), await ask("ask_bytes")],
    )
    try:
        await ask("refuse", seconds=1)
    except socketio.exceptions.TimeoutError:
        say("refused", "operation has timed out")
    for event in ("count", "publish"):
        await resolved(client.emit(f"{event}_many", (namespace, MANY), namespace=name))
        numbers = [await inboxes[event].next() for _ in range(MANY)]
        # Client handles each event in a thread of its own, so it does not keep their order.
        say(event, (sorted(numbers) if kind == "Client" else numbers) == list(range(MANY)))
    answer = client.call("same", ("x", "y"), namespace="/other", timeout=SECONDS)
    say("other", await resolved(answer))
    await inboxes["connect"].next()
    on("connect", lambda: say("connect", False))
    on("connect", lambda: say("quiet connect", False), f"{name}-quiet")
    on("disconnect", lambda reason: say("disconnect", reason))
    say("ready", True)
    # Not `client.wait()`, which may return while the client reconnects (python-socketio 5.18.1).
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(play(*sys.argv[1:]))
