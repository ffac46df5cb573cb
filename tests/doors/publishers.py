"""All ways to publish, on asyncio: each is a function that raises Refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.doors.readers import Refused

KEY = "correct-horse-battery-staple"
HOOK = "a-secret-of-the-hook"
EVENT = "said"


async def _posted(http: Any, port: int, path: str, body: bytes, **headers: str) -> Any:
    """The answer."""
    url = f"http://127.0.0.1:{port}/{path}"
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(url, data=body, headers=fields) as answer:
        value = json.loads(await answer.text() or "null")
        if answer.status not in (200, 201, 202, 204):
            raise Refused(answer.status)
        if isinstance(value, dict) and "error" in value:
            # The server API answers 200.
            raise Refused(value["error"]["code"])
        return value


def _path(channel: str) -> str:
    return f"channels/{quote(channel, safe='')}?event={EVENT}"


def _auth(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _text(channel: str, body: bytes) -> str:
    return f'{{"channel":{json.dumps(channel)},"event":"{EVENT}","data":{body.decode()}}}'


async def post(http: Any, port: int, channel: str, body: bytes, token: str = "") -> Any:
    """POST to the channel; returns the answer, with the position."""
    kind = "application/json"
    return await _posted(http, port, _path(channel), body, Content_Type=kind, **_auth(token))


async def lines(http: Any, port: int, channel: str, body: bytes, token: str = "") -> None:
    """One line of many."""
    kind = "application/x-ndjson"
    await _posted(http, port, _path(channel), body, Content_Type=kind, **_auth(token))


async def api(http: Any, port: int, channel: str, body: bytes, token: str = "") -> None:
    """The server API."""
    name = json.dumps(channel).encode()
    call = b'{"channel":%b,"tags":{"event":"%b"},"data":%b}' % (name, EVENT.encode(), body)
    await _posted(http, port, "api/publish", call, X_API_Key=KEY)


async def source(http: Any, port: int, channel: str, body: bytes, token: str = "") -> None:
    """The source whose name is the channel without its namespace."""
    path = f"hooks/{channel.partition(':')[2]}"
    kind = "application/json"
    await _posted(http, port, path, body, Content_Type=kind, X_Token=HOOK, X_Event=EVENT)


async def _command(http: Any, port: int, token: str, command: str) -> None:
    """A command of the Centrifuge protocol."""
    async with http.ws_connect(f"http://127.0.0.1:{port}/connection/websocket") as socket:
        connect = {"id": 1, "connect": {"token": token} if token else {}}
        await socket.send_str(json.dumps(connect) + "\n" + command)
        async for message in socket:
            for line in message.data.split("\n"):
                reply = json.loads(line)
                if "error" in reply:
                    raise Refused(reply["error"]["code"])
                if reply.get("id") == 2:
                    status = reply.get("rpc", {}).get("data", 201)
                    if status != 201:
                        raise Refused(status)
                    return
        raise Refused(socket.close_code)


async def client(http: Any, port: int, channel: str, body: bytes, token: str = "") -> None:
    """A client of the Centrifuge protocol."""
    command = f'{{"id":2,"publish":{{"channel":{json.dumps(channel)},"data":{body.decode()}}}}}'
    await _command(http, port, token, command)


async def application(http: Any, port: int, channel: str, body: bytes, token: str = "") -> None:
    """`app.publish` in a coroutine, for a client of the Centrifuge protocol."""
    command = f'{{"id":2,"rpc":{{"method":"rpc","data":{_text(channel, body)}}}}}'
    await _command(http, port, token, command)


async def handler(http: Any, port: int, channel: str, body: bytes, token: str = "") -> None:
    """`app.publish` in a thread, for a client of Socket.IO."""
    url = f"http://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"
    async with http.ws_connect(url) as socket:
        async for message in socket:
            if message.data.startswith("0"):
                await socket.send_str("40")
            elif message.data.startswith("40"):
                await socket.send_str(f'421["say",{_text(channel, body)}]')
            elif message.data.startswith("431"):
                [status] = json.loads(message.data[3:])
                if status != 201:
                    raise Refused(status)
                return
        raise Refused(socket.close_code)


class Publisher(NamedTuple):
    """A way to publish."""

    publish: Callable[..., Awaitable[Any]]
    protocol: str = "http"
    """Whose refusals it gets."""
    event: str = EVENT
    """The name of the event."""
    is_client: bool = False
    """Whether the rules of the channel decide: the others may publish everywhere."""


PUBLISHERS = {
    "post": Publisher(post, is_client=True),
    "ndjson": Publisher(lines, is_client=True),
    "api": Publisher(api, "api"),
    # A publish command of the protocol has no name of the event.
    "client": Publisher(client, "centrifuge", "message", is_client=True),
    "application": Publisher(application, "centrifuge"),
    "handler": Publisher(handler, "socket.io"),
    "source": Publisher(source, "hook"),
}
CONFIG = f"""
[auth]
api_keys = ["{KEY}"]

[sources.source]
type = "webhook"
channel = "open:source"
signature = "token"
header = "X-Token"
secret = "{HOOK}"
event_header = "X-Event"
"""
