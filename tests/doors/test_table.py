"""Every way to read gets the same publications of every way to publish, on each kind of server.

Some ways differ by design (docs/protocols.md). They are marked where they are:

- A `Row` has None for a field that a way does not have. `as=data` has no offset and no time; on a
  WebSocket and in lines it has no event either, since each message is the data alone. Fragments
  have what their template makes of a publication. Socket.IO has no time. Centrifuge and
  Socket.IO have no cursor: their positions are offsets in the channel.
- `says_reason`: the messages of Centrifuge and of Socket.IO have no field for the reason of a gap.
- `resumes`: `as=data` in lines and all of `as=` on a WebSocket are without positions.
- `is_limited`: a history is read in pages, so `recovery_limit` does not apply to it.
- `Publisher.event`: a client of the Centrifuge protocol cannot name its event.
- There is no `as=` for a history as JSON, no fragments in lines, and no `as=datastar` on a
  WebSocket, and a raw WebSocket only sends.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

import aiohttp
import jwt
import pytest

from tests.doors.publishers import EVENT, PUBLISHERS
from tests.doors.readers import BESIDE, READERS, Reader, Refused, Row
from tests.doors.servers import KINDS, SECRET, Servers, serving

VALUES = (
    b'{"number":3}',
    b'"gr\\u00fcn \xe2\x80\xa8 <b>&amp;"',
    b"[1,[null,true]]",
    b"0.1",
    b'""',
    b'"id: 7\\r\\n\\r\\ndata: \\u0000"',
    b"123456789012345678901234567890",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def servers(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with serving(KINDS[kind], tmp_path_factory.mktemp("servers")) as servers:
        yield servers


class Group:
    """All readers of a channel, and its publishers; neighbours are at different servers."""

    def __init__(self, http: aiohttp.ClientSession, ports: Sequence[int]):
        self.http, self.ports = http, ports
        self._published = 0

    def reader(self, name: str, channel: str, token: str = "", turn: int = 0) -> Reader:
        port = self.ports[(list(READERS).index(name) + turn) % len(self.ports)]
        return READERS[name](self.http, port, channel, token)

    async def publish(self, way: str, channel: str, *values: bytes, token: str = "") -> None:
        for value in values:
            self._published += 1
            port = self.ports[self._published % len(self.ports)]
            await PUBLISHERS[way].publish(self.http, port, channel, value, token)

    async def opened(self, channel: str, token: str = "") -> dict[str, Reader]:
        """All readers, from now on."""
        now = await self.position(channel, token)
        readers = {name: self.reader(name, channel, token) for name in READERS}
        await asyncio.gather(*(r.open(None if r.resumes else now["id"]) for r in readers.values()))
        return readers

    async def position(self, channel: str, token: str = "") -> Any:
        """The position of the channel, with `id`, `epoch` and `offset`."""
        url = f"http://127.0.0.1:{self.ports[0]}/channels/{channel}?limit=0"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.http.get(url, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


async def close(readers: dict[str, Reader]) -> None:
    await asyncio.gather(*(reader.close() for reader in readers.values()))


def run(servers: Servers, main: Any) -> Any:
    async def run() -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            return await main(Group(http, servers.ports))

    return asyncio.run(run())


async def check(
    readers: dict[str, Reader], values: Sequence[bytes], event: str, first: int
) -> None:
    """Check that all readers have the same publications: of these values, with these offsets."""
    count = len(values)
    taken = await asyncio.gather(*(reader.take(count) for reader in readers.values()))
    rows = {name: list(got) for name, got in zip(readers, taken, strict=True)}
    expected = rows["json"]
    places = list(enumerate(values, first))
    assert [row[:3] for row in expected] == [(json.loads(v), event, at) for at, v in places]
    wrong = {name: got for name, got in rows.items() if got != seen(expected, got)}
    assert wrong == {}


def seen(expected: list[Row], got: list[Row]) -> list[Row]:
    """The expected rows without the fields that this way to read does not have."""
    alike = []
    for full, row in zip(expected, got, strict=False):
        lacking = {name: None for name, value in row._asdict().items() if value is None}
        alike.append(full._replace(**{**lacking, "data": full.data}))
    return alike + expected[len(got) :]


def test_every_reader_gets_what_every_publisher_publishes(servers: Servers) -> None:
    async def main(group: Group) -> None:
        for way, publisher in PUBLISHERS.items():
            channel = f"open:{way}"
            readers = await group.opened(channel)
            for value in VALUES:
                await group.publish(way, channel, value)
            await check(readers, VALUES, publisher.event, 1)
            await close(readers)

    run(servers, main)


async def resumed(group: Group, readers: dict[str, Reader], at: Any) -> dict[str, Reader]:
    """The same readers again, each at another server, from where they were; others from `at`."""
    again = {n: group.reader(n, r.channel, r.token, turn=1) for n, r in readers.items()}
    await asyncio.gather(
        *(r.open(readers[n].position if r.resumes else at["id"]) for n, r in again.items())
    )
    return again


def test_every_reader_resumes_where_it_was(servers: Servers) -> None:
    async def main(group: Group) -> None:
        channel = "open:resumed"
        readers = await group.opened(channel)
        await group.publish("post", channel, b"1")
        await check(readers, [b"1"], EVENT, 1)
        await close(readers)
        at = await group.position(channel)
        for value in VALUES:
            await group.publish("post", channel, value)
            await group.publish("post", BESIDE, value)
        readers = await resumed(group, readers, at)
        await group.publish("post", channel, b"2")
        await check(readers, [*VALUES, b"2"], EVENT, 2)
        assert [name for name, reader in readers.items() if reader.told] == []
        both = [(name, json.loads(value)) for value in VALUES for name in (channel, BESIDE)]
        for reader in readers.values():
            if reader.on_events:
                assert reader.both == [*both, (channel, 2)]
        await close(readers)

    run(servers, main)


async def check_told(readers: dict[str, Reader], reason: str) -> None:
    """Check that each was told that it missed something, and why; closes them."""
    gaps = await asyncio.gather(*(reader.gap() for reader in readers.values()))
    told = dict(zip(readers, gaps, strict=True))
    expected = {name: reason if r.says_reason else True for name, r in readers.items()}
    assert told == expected
    assert [name for name, reader in readers.items() if reader.rows] == []
    await close(readers)


def test_every_reader_is_told_of_a_gap(servers: Servers) -> None:
    async def main(group: Group) -> None:
        for channel, reason in ("short:a", "evicted"), ("few:a", "limit"):
            readers = await group.opened(channel)
            await close(readers)
            at = await group.position(channel)
            await group.publish("post", channel, *VALUES)
            if reason == "limit":
                readers = {n: r for n, r in readers.items() if r.is_limited}
            await check_told(await resumed(group, readers, at), reason)

        channel = "open:gaps"
        await group.publish("post", channel, b"1")
        here = await group.position(channel)
        run, _, seq = here["id"].partition(":")
        ahead = {"id": f"{run}:{int(seq) + 1_000}", "epoch": here["epoch"], "offset": 1_000}
        away = {"id": "0a1b2c3d:1", "epoch": "0a1b2c3d", "offset": 1}
        readers = await group.opened(channel)
        await close(readers)
        for position, reason in (ahead, "ahead"), (away, "epoch"):
            for reader in readers.values():
                reader.position = reader.place(**position)
            await check_told(await resumed(group, readers, position), reason)

    run(servers, main)


NEEDS = "subscribing to closed:a needs a token for this channel"
REFUSALS: dict[str, dict[str, Any]] = {
    "no token": {"http": 401, "centrifuge": 103, "socket.io": NEEDS},
    "bad token": {"http": 401, "centrifuge": 3500, "socket.io": "invalid token: the signature "},
    "expired token": {"http": 401, "centrifuge": 109, "socket.io": "the token has expired: exp "},
    "token of another channel": {"http": 403, "centrifuge": 103, "socket.io": NEEDS},
    "bad name": {"http": 400, "centrifuge": 107, "socket.io": "Invalid namespace"},
}
"""A refusal is a status, a code or the beginning of a text."""
BODIES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "too large": (
        b'"' + b"x" * 5_000 + b'"',
        {"http": 413, "api": 413, "centrifuge": 1009, "socket.io": 1009},
    ),
    # In a message, nothing is understood if a part is no JSON: that ends the connection.
    "no JSON": (b"[NaN]", {"http": 400, "api": 400, "centrifuge": 3501, "socket.io": 3501}),
    # Of a webhook and of an event for a handler the decoded value is used, which has no key twice.
    "key twice": (
        b'{"a":1,"a":2}',
        {"http": 400, "api": 107, "centrifuge": 107, "socket.io": None, "hook": None},
    ),
}


def signed(secret: str, channel: str, seconds: int) -> str:
    claims = {"sub": "ann", "channels": [channel], "exp": int(time.time()) + seconds}
    return jwt.encode(claims, secret, "HS256")


async def refusal(doing: Awaitable[None]) -> Any:
    """What the client got; None if it was not refused."""
    try:
        await doing
    except Refused as error:
        return error.args[0]
    return None


def differs(got: Any, expected: Any) -> bool:
    if isinstance(expected, str):
        return not (isinstance(got, str) and got.startswith(expected))
    return bool(got != expected)


def test_every_reader_and_publisher_is_refused_alike(servers: Servers) -> None:
    async def main(group: Group) -> None:
        wrong = {}
        tokens = {
            "no token": "",
            "bad token": signed("x" * 40, "closed:*", 600),
            "expired token": signed(SECRET, "closed:*", -60),
            "token of another channel": signed(SECRET, "closed:b", 600),
            "bad name": "",
        }
        for what, token in tokens.items():
            channel = "no spaces" if what == "bad name" else "closed:a"
            for name in READERS:
                reader = group.reader(name, channel, token)
                got = await refusal(reader.open())
                if differs(got, REFUSALS[what][reader.protocol]):
                    wrong[name, what] = got
                await reader.close()
            for way, publisher in PUBLISHERS.items():
                if publisher.is_client:
                    got = await refusal(group.publish(way, channel, b"1", token=token))
                    if differs(got, REFUSALS[what][publisher.protocol]):
                        wrong[way, what] = got
        for what, (body, refusals) in BODIES.items():
            for way, publisher in PUBLISHERS.items():
                got = await refusal(group.publish(way, f"open:{way}", body))
                expected = refusals.get(publisher.protocol, refusals["http"])
                if differs(got, expected):
                    wrong[way, what] = got
        assert wrong == {}

    run(servers, main)


def test_every_reader_and_publisher_is_admitted_by_a_token(servers: Servers) -> None:
    async def main(group: Group) -> None:
        channel, token = "closed:a", signed(SECRET, "closed:a", 600)
        readers = await group.opened(channel, token)
        for way, publisher in PUBLISHERS.items():
            if publisher.is_client:
                await group.publish(way, channel, b"1", token=token)
        rows = {name: await reader.take(3) for name, reader in readers.items()}
        assert {name: [row.data for row in got] for name, got in rows.items()} == {
            name: [1, 1, 1] for name in READERS
        }
        await close(readers)

    run(servers, main)


def test_every_reader_resumes_after_a_restart_or_is_told(servers: Servers, kind: str) -> None:
    for killed in KINDS[kind].ends:
        check_restart(servers, f"open:killed-{killed}", killed, KINDS[kind].keeps(killed))


def check_restart(servers: Servers, channel: str, killed: bool, keeps: bool) -> None:
    async def before(group: Group) -> Any:
        await group.publish("post", channel, b"1")
        readers = await group.opened(channel)
        await group.publish("post", channel, b"2")
        await check(readers, [b"2"], EVENT, 2)
        await close(readers)
        return readers, await group.position(channel)

    async def after(group: Group) -> None:
        await group.publish("post", channel, *VALUES)
        again = await resumed(group, readers, at)
        if keeps:
            await check(again, VALUES, EVENT, 3)
            assert [name for name, reader in again.items() if reader.told] == []
            await close(again)
        else:
            await check_told(again, "epoch")

    readers, at = run(servers, before)
    if killed:
        servers.kill()
    else:
        servers.stop()
    servers.start()
    run(servers, after)
