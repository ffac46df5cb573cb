"""The runs of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks import scaling
from benchmarks.contestants import LIMIT, PEERS, PRODUCT, Contestant, with_workers
from benchmarks.measure import Trial
from benchmarks.scenario import Group, Load

MANY = 10_000
SOME = 1_000
FEW = 100
MOST = 19_000
"""Bounded by RLIMIT_NOFILE, which is often 20,000."""
FILES = 20_000
OWN_FILES = 1_000
"""An upper bound for the open files of a process besides its clients."""
CHANNELS, EACH, MANY_OFTEN = 10_000, 10, 6_000

SOCKETIO_PEERS = ("Socket.IO (Node)", "python-socketio")
SOCKETIO_PROTOCOLS = ("socketio", "upgrade", "polling")

POLLED_OFTEN = 0.7
"""Publications a second to 1,000 clients that poll: each delivery is an answer to a request."""

DELIVERIES = 10_000
"""Publications a second at which only the slowest server is busy half of the time."""
BUSY = 0.4
START_AND_END = 3.0
"""Seconds for the start of a server and for the end of one."""
LOOPBACK = 1e9
"""Approximate bytes a second."""
UNBOUNDED = 1e9
"""A rate above that of every server: publish as fast as possible."""
STORM = 20
LONG = 16 * 2**20


def quick() -> Iterator[Trial]:
    """pushserver and the limit, in less than two minutes."""
    times = {"windows": 3, "window": 2.5}
    yield fan_out(LIMIT, "websocket", SOME, **times)
    yield fan_out(PRODUCT, "websocket", SOME, **times)
    yield fan_out(PRODUCT, "centrifuge", SOME, **times)
    yield fan_out(LIMIT, "sse", SOME, **times)
    yield fan_out(PRODUCT, "sse", SOME, **times)
    yield fan_out(PRODUCT, "socketio", SOME, **times)
    yield fan_out(LIMIT, "websocket", SOME, **times)
    yield storm("centrifuge", SOME)


def socketio(rounds: int = 2) -> Iterator[Trial]:
    """Servers of Socket.IO, the limit and the raw WebSocket, in turn; in about five minutes."""
    times = {"windows": 2, "window": 2.5}
    servers = [PRODUCT, *(peer for peer in PEERS if peer.name in SOCKETIO_PEERS)]
    for _ in range(rounds):
        yield fan_out(LIMIT, "websocket", SOME, **times)
        yield fan_out(PRODUCT, "websocket", SOME, **times)
        for protocol in SOCKETIO_PROTOCOLS:
            for server in servers:
                yield fan_out(server, protocol, SOME, **times)


def workers(rounds: int = 2) -> Iterator[Trial]:
    """pushserver as one process and with workers, in turn; in less than ten minutes."""
    for clients in (SOME, MANY):
        for _ in range(rounds):
            for count in scaling.WORKERS:
                yield fan_out(with_workers(count), "websocket", clients, windows=3, window=2.5)
    for _ in range(rounds):
        for count in (1, 2):
            server = with_workers(count)
            yield flood(server, "websocket", 1_000)
            yield storm("centrifuge", MANY, server)
            yield posts(server)


def full(folder: Path, files: int = FILES) -> Iterator[Trial]:
    """Everything, the limit first and last of each size.

    `folder` is for the store's file; `files`: how many a process may have open.
    """
    for clients in (SOME, MANY):
        yield from compared(clients)
    for clients in (FEW, MOST):
        yield fan_out(LIMIT, "websocket", clients)
        yield fan_out(PRODUCT, "centrifuge", clients)
    yield from goals(folder, files)


def compared(clients: int) -> Iterator[Trial]:
    """All servers with this number of clients."""
    yield fan_out(LIMIT, "websocket", clients)
    yield fan_out(PRODUCT, "websocket", clients)
    idle = 30.0 if clients == MANY else 0.0
    yield fan_out(PRODUCT, "centrifuge", clients, idle=idle)
    yield fan_out(PRODUCT, "socketio", clients)
    if clients == SOME:
        yield fan_out(PRODUCT, "deflate", clients)
        yield fan_out(PRODUCT, "upgrade", clients)
    for peer in PEERS:
        if clients <= peer.most_clients:
            yield fan_out(peer, next(iter(peer.groups)), clients)
        if clients == SOME and peer.name in SOCKETIO_PEERS:
            yield fan_out(peer, "upgrade", clients)
    yield fan_out(LIMIT, "sse", clients)
    yield fan_out(PRODUCT, "sse", clients)
    yield fan_out(LIMIT, "websocket", clients)


def goals(folder: Path, files: int) -> Iterator[Trial]:
    """The trials of pushserver that are not in the comparison."""
    yield flood(PRODUCT, "websocket", 1_000)
    yield flood(PRODUCT, "websocket", 5_000)
    nchan = PEERS[0]
    yield flood(nchan, "websocket", UNBOUNDED)
    yield from stalled()
    yield from tenth_stalled()
    yield long_publication()
    yield storm("centrifuge", MANY)
    yield storm("websocket", MANY)
    yield nobody("in process")
    yield nobody("SQLite", {"store": {"path": str(folder / "history.db")}})
    yield posts(PRODUCT)
    yield posts(nchan, nchan.post)
    yield many_channels(files)


def seconds(trials: Iterable[Trial]) -> float:
    """The approximate duration of these trials in seconds, once everything is installed."""
    return sum(map(_expected, trials))


def _expected(trial: Trial) -> float:
    load = trial.load
    taken = START_AND_END + load.planned + load.clients / trial.server.connects
    if load.storm:
        taken += 1.5 * load.clients / trial.server.connects
    if load.once:
        taken += load.once * load.clients / LOOPBACK
    return taken


def rate(server: Contestant, clients: int) -> float:
    """Publications a second that leave the server idle most of the time."""
    bearable = min(DELIVERIES, BUSY * 1e6 / server.cost)
    return max(0.5, min(20.0, bearable / clients))


def fan_out(server: Contestant, protocol: str, clients: int, **more: float) -> Trial:
    """One channel with all clients, and rare publications."""
    group = replace(server.groups[protocol], clients=clients)
    often = POLLED_OFTEN if protocol == "polling" else rate(server, clients)
    # Ten thousand clients need time to settle, and slow servers for a few publications.
    times: dict[str, float] = {
        "window": 3.0 if often > 2 else 6.0,
        "settle": 0.5 if clients < MANY else 1.0,
        "warmup": max(1.0, 1.0 / often),
    }
    load = Load((group,), often, post=server.post, **(times | more))  # type: ignore[arg-type]
    settings = {"server": {"compress": True}} if protocol == "deflate" else {}
    return Trial(server, protocol, "fan-out", load, settings=settings)


def flood(server: Contestant, protocol: str, often: float) -> Trial:
    """More publications than the server can send one by one."""
    group = replace(server.groups[protocol], clients=SOME)
    name = "flood" if often == 1_000 else "maximum"
    load = Load((group,), often, warmup=2, post=server.post, posters=32)
    return Trial(server, protocol, name, load)


def stalled() -> Iterator[Trial]:
    """Readers alone, for comparison, and then beside clients that never read."""
    readers = replace(PRODUCT.groups["websocket"], clients=475)
    others = replace(readers, clients=25, behaviour="stalls")
    for name, groups in (("readers alone", (readers,)), ("5 % stalled", (readers, others))):
        # 8 MB for each in all: the kernel takes up to 4 MB before bytes wait in the server.
        load = Load(groups, 20, size=32_768, warmup=1, windows=4, window=3)
        yield Trial(PRODUCT, "websocket", name, load, clients=475)


def tenth_stalled(clients: int = MANY, size: int = 32_768, often: float = 1.2) -> Iterator[Trial]:
    """Readers alone, and beside a ninth as many that never read, for long enough to drop them."""
    stalls = clients // 10
    readers = replace(PRODUCT.groups["websocket"], clients=clients - stalls)
    others = replace(readers, clients=stalls, behaviour="stalls")
    alone = Load((readers,), often, size=size, settle=1.0, windows=3, window=5.0)
    yield Trial(PRODUCT, "websocket", "nine tenths alone", alone)
    # 39 KB a second for each: half a megabyte in the kernel and one in the queue take
    # 42 seconds, and then the server waits for ten.
    load = replace(alone, groups=(readers, others), windows=10, window=6.0)
    yield Trial(PRODUCT, "websocket", "a tenth stalled", load, clients=readers.clients)


def long_publication(clients: int = SOME, size: int = LONG) -> Trial:
    """One publication of many megabytes in one channel, small ones in another."""
    others = replace(PRODUCT.groups["websocket"], clients=FEW)
    waiting = Group("stream", clients, "/channels/long", once=True)
    load = Load((others, waiting), 10, once=size, post="/channels/long", drain=60.0)
    settings = {"limits": {"body_bytes": size}}
    return Trial(PRODUCT, "websocket", "long publication", load, settings=settings, clients=clients)


def storm(protocol: str, clients: int, server: Contestant = PRODUCT) -> Trial:
    """All clients are cut, miss publications, and reconnect at once, while others stay."""
    path = {"websocket": "/channels/storm", "centrifuge": "/connection/websocket"}[protocol]
    kind = {"websocket": "stream", "centrifuge": "centrifuge"}[protocol]
    others = replace(PRODUCT.groups["websocket"], clients=50)
    stormers = Group(kind, clients, path, "storm", storms=True)
    load = Load(
        (others, stormers),
        10,
        settle=0.5,
        storm=STORM + 1,
        windows=0,
        post="/channels/storm",
    )
    return Trial(server, protocol, "storm", load, clients=clients)


def nobody(name: str, settings: Mapping[str, Mapping[str, object]] | None = None) -> Trial:
    """Publications without subscribers."""
    load = Load((), UNBOUNDED, windows=3, window=2)
    return Trial(PRODUCT, "none", name, load, settings=settings or {})


def posts(server: Contestant, path: str = "/channels/bench") -> Trial:
    """Publications by HTTP over eight connections, without subscribers."""
    load = Load((), UNBOUNDED, windows=3, window=2, post=path, posters=8)
    return Trial(server, "http", "post", load, channels=0)


def many_channels(files: int = FILES) -> Trial:
    """Up to 10,000 channels with a few subscribers each, as many as there may be open files.

    The next publication is in any of them, and there are about as many as there is time for:
    an idle process that wakes up for ten deliveries spends most of its time on waking up, and one
    that gets more than it can do sends several in one.
    """
    channels = min(CHANNELS, (files - OWN_FILES) // EACH)
    group = Group("stream", channels * EACH, "/channels/bench:%", channels=channels)
    load = Load((group,), MANY_OFTEN, settle=1.0, warmup=2.0)
    return Trial(PRODUCT, "websocket", "many channels", load, channels)
