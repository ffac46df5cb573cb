"""Scripts that mix all ways to read and to publish with restarts and kills."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import aiohttp
from hypothesis import strategies as st

from tests.doors.account import LANES, Account
from tests.doors.publishers import PUBLISHERS
from tests.doors.readers import READERS, Reader, Refused
from tests.doors.servers import Kind, Servers
from tests.e2e.patience import PATIENCE

CHANNEL = "open:source"
"""That of the webhook, so that all can publish in it."""
PAUSE = 0.05
LONGEST = 8
"""The most readers of a script."""
AWAY = (aiohttp.ClientError, OSError, TimeoutError)
NOT_NOW = {502, 503, 100, 1001, 1006, 1012, 1013, 3001, 3012, None}
"""The statuses and codes of a server that stops, or is without its log; 3012: of a publisher on
Socket.IO that waits for an answer which died with the server, and answers no ping."""

Step = tuple[Any, ...]
Fault = Callable[[Servers, int], None]


def _stop(servers: Servers, number: int) -> None:
    assert servers.crews[number].server.stop() == -signal.SIGTERM


def _kill_main(servers: Servers, number: int) -> None:
    servers.crews[number].server.kill()


def _kill_all(servers: Servers, number: int) -> None:
    servers.crews[number].clean()


def _kill_worker(servers: Servers, number: int) -> None:
    workers = servers.crews[0].workers()
    if number + 1 in workers:
        os.kill(workers[number + 1], signal.SIGKILL)


def _kill_redis(servers: Servers, number: int) -> None:
    assert servers.redis is not None
    servers.redis.restart()


FAULTS: dict[str, Fault] = {
    "stop": _stop,
    "kill the main process of": _kill_main,
    "kill": _kill_all,
    "kill a worker": _kill_worker,
    "kill Redis": _kill_redis,
}
HARMLESS = {"kill a worker", "kill Redis"}


def scripts(kind: Kind) -> st.SearchStrategy[list[Step]]:
    """Scripts for servers of a kind."""
    faults = ["stop", "kill"]
    if kind.workers > 1:
        faults += ["kill the main process of", "kill a worker"]
    if kind.servers > 1:
        faults += ["kill Redis"]
    most = max(kind.servers, kind.workers) - 1
    readers, ways = st.sampled_from(list(READERS)), st.sampled_from(list(PUBLISHERS))
    number, values = st.integers(0, LONGEST - 1), st.integers(1, 30)
    publishing = st.tuples(st.just("publish"), ways, values)
    fault = st.tuples(
        st.just("fail"), st.sampled_from(faults), st.integers(0, most), ways, st.integers(0, 20)
    )
    steps = st.one_of(
        st.tuples(st.just("open"), readers),
        st.tuples(st.just("close"), number),
        publishing,
        publishing,
        fault,
    )
    first = st.lists(st.tuples(st.just("open"), readers), min_size=4, max_size=6, unique=True)
    middle = st.lists(steps, min_size=6, max_size=14)
    return st.builds(lambda a, b, c: [*a, *b, c], first, middle, fault)


class Follower:
    """A client of one way to read: it connects again, with its position, until it is closed."""

    def __init__(self, http: aiohttp.ClientSession, ports: Sequence[int], name: str, turn: int):
        self.name = name
        self.connections: list[tuple[Reader, bool]] = []
        """All connections, with whether each resumed."""
        self.is_away = False
        self.opened = asyncio.Event()
        self._http, self._ports, self._turn = http, ports, turn
        self._position: Any = None
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            if self.is_away:
                await asyncio.sleep(PAUSE)
                continue
            self._turn += 1
            port = self._ports[self._turn % len(self._ports)]
            reader = READERS[self.name](self._http, port, CHANNEL)
            resumed = self._position is not None
            with suppress(Refused, *AWAY):
                await reader.open(self._position)
                self.connections.append((reader, resumed))
                self.opened.set()
                while reader.is_open and not self.is_away:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.ended(), PAUSE)
                if reader.resumes:
                    self._position = reader.position
            await reader.close()
            await asyncio.sleep(PAUSE)

    @property
    def current(self) -> Reader | None:
        """The connection that is open."""
        reader = self.connections[-1][0] if self.connections else None
        return reader if reader and reader.is_open else None

    def has_any(self, values: set[int]) -> bool:
        """Whether it has one of the values on the connection that is open."""
        reader = self.current
        return reader is not None and any(row.data in values for row in reader.rows)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for reader, _ in self.connections:
            await reader.close()


class Soak:
    """Runs scripts on the servers of a kind."""

    def __init__(self, kind: Kind, servers: Servers):
        self.kind, self.servers = kind, servers
        self._values = [count(lane, LANES) for lane in range(LANES)]

    def run(self, script: list[Step]) -> tuple[list[str], int]:
        """Run a script; returns the problems, and the number of acknowledged publications."""
        return asyncio.run(self._run(script))

    async def _run(self, script: list[Step]) -> tuple[list[str], int]:
        self._account = Account()
        self._followers: list[Follower] = []
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            self._http = http
            try:
                for name, *arguments in [("open", "websocket"), *script]:
                    await getattr(self, f"_{name}")(*arguments)
                await self._finish()
            finally:
                for follower in self._followers:
                    await follower.close()
        return self._account.problems, len(self._account.acknowledged)

    async def _open(self, name: str) -> None:
        if len(self._followers) < LONGEST:
            ports = self.servers.ports
            follower = Follower(self._http, ports, name, len(self._followers))
            self._followers.append(follower)
            await asyncio.wait_for(follower.opened.wait(), PATIENCE)

    async def _close(self, number: int) -> None:
        """A client goes away, or comes back."""
        if number < len(self._followers):
            self._followers[number].is_away ^= True

    async def _publish(self, way: str, values: int, lane: int = 0) -> None:
        for _ in range(values):
            await self._publish_one(way, lane)

    async def _publish_one(self, way: str, lane: int = 0) -> int:
        value = next(self._values[lane])
        port = self.servers.ports[value // LANES % len(self.servers.ports)]
        body = b"%d" % value
        try:
            async with asyncio.timeout(PATIENCE):
                receipt = await PUBLISHERS[way].publish(self._http, port, CHANNEL, body)
        except Refused as error:
            if error.args[0] not in NOT_NOW:
                self._account.problems.append(f"{way} was refused with {error.args[0]}")
            await asyncio.sleep(PAUSE)
        except AWAY:
            await asyncio.sleep(PAUSE)
        else:
            self._account.publish(value, receipt)
        return value

    async def _fail(self, fault: str, number: int, way: str, values: int) -> None:
        """A failure while somebody publishes; returns when all is well again."""
        number = number if fault == "kill a worker" else number % len(self.servers.crews)
        ways = ("post", way)
        publishing = [
            asyncio.create_task(self._publish(each, 4 * values, lane))
            for lane, each in enumerate(ways)
        ]
        await asyncio.sleep(PAUSE * values / 4)
        before = set(self._account.owed)
        await asyncio.to_thread(FAULTS[fault], self.servers, number)
        await asyncio.to_thread(self.servers.start)
        await asyncio.gather(*publishing)
        if fault not in HARMLESS and not self.kind.keeps(killed=fault != "stop"):
            kept = {row["data"] for row in (await self._history())["publications"]}
            self._account.lose(before, kept)

    async def _history(self) -> Any:
        url = f"http://127.0.0.1:{self.servers.ports[0]}/channels/{CHANNEL}"
        async with self._http.get(url) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def _finish(self) -> None:
        """Check, when each client has one of the last publications."""
        account, followers = self._account, self._followers
        for follower in followers:
            follower.is_away = False
        last: set[int] = set()
        for _ in range(round(PATIENCE)):
            last.add(await self._publish_one("post"))
            for _ in range(20):
                if all(follower.has_any(last) for follower in followers):
                    break
                await asyncio.sleep(PAUSE)
            else:
                continue
            break
        else:
            late = [f.name for f in followers if not f.has_any(last)]
            account.problems.append(f"{late} did not get the last publications")
        account.check_history(await self._history())
        for follower in followers:
            account.check_reader(follower.name, follower.connections)
        for follower in followers:
            account.check_order(follower.name, follower.connections)
