"""Readers of one URL with libraries of Python: `python -m tests.peers.reader URL LAST CLIENT...`.

Prints a JSON list a line for each event: the client, the kind and the content. The kind is `begin`
or `reset` at the start of each connection, then `publication`. A reader connects again in a loop,
with the last id that it saw; it begins after the id LAST, which may be empty.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import centrifuge
import httpx
import requests
import sseclient
import websocket
import websockets
from httpx_sse import aconnect_sse, connect_sse

PAUSE = 0.1
"""Seconds between two attempts."""

SECONDS = 60
"""Limits of time that no test waits for, since none may depend on the speed of the machine."""

PRINTING = threading.Lock()
KINDS = {"pushserver-subscribed": "begin", "pushserver-reset": "reset"}


class Reader:
    """Prints the events and remembers the last id."""

    def __init__(self, name: str, url: str, last: str):
        self.url = url
        self.last = last
        self._name = name

    @property
    def headers(self) -> dict[str, str]:
        """Of a request for Server-Sent Events."""
        return {"Last-Event-ID": self.last} if self.last else {}

    @property
    def since(self) -> str:
        """The URL with the last id."""
        return f"{self.url}?since={self.last}" if self.last else self.url

    def say(self, kind: str, content: Any) -> None:
        with PRINTING:
            sys.stdout.write(f"{json.dumps([self._name, kind, content])}\n")
            sys.stdout.flush()

    def event(self, name: str, text: str, event_id: str) -> None:
        """An event of a stream."""
        self.last = event_id or self.last
        self.say(KINDS.get(name, "publication"), json.loads(text))

    def frame(self, text: str | bytes) -> None:
        """A frame of a raw WebSocket."""
        content = json.loads(text)
        if "subscribed" in content:
            self.say("begin", content["subscribed"])
            self.last = self.last or content["subscribed"]["id"]
        elif "reset" in content:
            self.last = content["reset"]["id"]
            self.say("reset", content["reset"])
        else:
            self.last = content["id"]
            self.say("publication", content)


def httpx_sse(reader: Reader) -> None:
    with (
        httpx.Client(timeout=httpx.Timeout(SECONDS), trust_env=False) as client,
        connect_sse(client, "GET", reader.url, headers=reader.headers) as source,
    ):
        for event in source.iter_sse():
            reader.event(event.event, event.data, event.id)


def httpx_sse_async(reader: Reader) -> None:
    async def read() -> None:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(SECONDS), trust_env=False) as client,
            aconnect_sse(client, "GET", reader.url, headers=reader.headers) as source,
        ):
            async for event in source.aiter_sse():
                reader.event(event.event, event.data, event.id)

    asyncio.run(read())


def sseclient_py(reader: Reader) -> None:
    headers = {"Accept": "text/event-stream", **reader.headers}
    with requests.get(reader.url, stream=True, headers=headers, timeout=SECONDS) as response:
        for event in sseclient.SSEClient(iter(response)).events():
            reader.event(event.event, event.data, event.id or "")


def aiohttp_sse(reader: Reader) -> None:
    async def read() -> None:
        headers = {"Accept": "text/event-stream", **reader.headers}
        limits = aiohttp.ClientTimeout(total=None, sock_read=SECONDS)
        async with (
            aiohttp.ClientSession(timeout=limits) as session,
            session.get(reader.url, headers=headers) as response,
        ):
            response.raise_for_status()
            fields = {"event": "", "data": "", "id": ""}
            async for line in response.content:
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name:
                    fields[name] = value
                elif fields["data"]:
                    reader.event(fields["event"], fields["data"], fields["id"])
                    fields = {"event": "", "data": "", "id": ""}

    asyncio.run(read())


def aiohttp_ws(reader: Reader) -> None:
    async def read() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(reader.since, heartbeat=SECONDS, compress=15) as socket,
        ):
            async for message in socket:
                reader.frame(message.data)
            reader.say("closed", socket.close_code)

    asyncio.run(read())


def websocket_client(reader: Reader) -> None:
    # It sends its own Origin.
    app = websocket.WebSocketApp(
        reader.since.replace("http", "ws", 1),
        on_message=lambda app, text: reader.frame(text),
        on_close=lambda app, code, reason: reader.say("closed", code),
    )
    app.run_forever(ping_interval=SECONDS, ping_timeout=SECONDS - 1)


def websocket_client_loop(reader: Reader) -> None:
    url = reader.since.replace("http", "ws", 1)
    socket = websocket.create_connection(url, timeout=SECONDS, suppress_origin=True)
    try:
        while text := socket.recv():
            reader.frame(text)
    finally:
        socket.close()


def websockets_loop(reader: Reader) -> None:
    async def read() -> None:
        # The list of attempts is the library's; its URL is a new one each time.
        async with websockets.connect(
            reader.since.replace("http", "ws", 1), ping_interval=0.5, proxy=None
        ) as socket:
            async for text in socket:
                reader.frame(text)
            reader.say("closed", socket.close_code)

    asyncio.run(read())


def centrifuge_python(reader: Reader) -> None:
    class Events(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]
        async def on_subscribed(self, context: Any) -> None:
            kind = "reset" if context.was_recovering and not context.recovered else "begin"
            reader.say(kind, repr(context))

        async def on_publication(self, context: Any) -> None:
            reader.say("publication", {"data": context.pub.data, "offset": context.pub.offset})

    async def read() -> None:
        root, _, channel = reader.url.replace("http", "ws", 1).partition("channels/")
        client = centrifuge.Client(
            f"{root}connection/websocket", min_reconnect_delay=0.1, max_reconnect_delay=0.5
        )
        await client.connect()
        await client.new_subscription(channel, events=Events()).subscribe()
        await asyncio.Event().wait()

    asyncio.run(read())


CLIENTS: dict[str, Callable[[Reader], None]] = {
    "httpx-sse": httpx_sse,
    "httpx-sse, async": httpx_sse_async,
    "sseclient-py": sseclient_py,
    "aiohttp, SSE": aiohttp_sse,
    "aiohttp, WebSocket": aiohttp_ws,
    "websocket-client": websocket_client,
    "websocket-client, a loop": websocket_client_loop,
    "websockets": websockets_loop,
    "centrifuge-python": centrifuge_python,
}
LOST = (
    OSError,
    httpx.TransportError,
    requests.RequestException,
    aiohttp.ClientError,
    websocket.WebSocketException,
    websockets.WebSocketException,
)
"""What the libraries raise when there is no connection."""


def read(name: str, url: str, last: str) -> None:
    reader = Reader(name, url, last)
    while True:
        try:
            CLIENTS[name](reader)
        except LOST as error:
            reader.say("lost", repr(error))
        except BaseException as error:
            reader.say("failed", repr(error))
            raise
        time.sleep(PAUSE)


def main(url: str, last: str, *names: str) -> None:
    for name in names:
        threading.Thread(target=read, args=(name, url, last)).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
