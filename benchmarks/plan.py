"""Which runs make up a benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.contestants import LIMIT, PEERS, PRODUCT, Contestant
from benchmarks.measure import Trial
from benchmarks.scenario import Group, Load

MANY = 10_000
SOME = 1_000
FEW = 100
MOST = 19_000
"""Bounded by RLIMIT_NOFILE, which often is 20,000."""

DELIVERIES = 10_000
"""How many a second are asked for, so that nobody but the slowest is busy half of the time."""
BUSY = 0.4
UNBOUNDED = 1e9
"""A rate that nobody reaches: publish all that you can."""
STORM = 20


def quick() -> Iterator[Trial]:
    """Ours and the limit, in less than two minutes."""
    times = {"windows": 3, "window": 2.5}
    yield fan_out(LIMIT, "websocket", SOME, **times)
    yield fan_out(PRODUCT, "websocket", SOME, **times)
    yield fan_out(PRODUCT, "centrifuge", SOME, **times)
    yield fan_out(LIMIT, "sse", SOME, **times)
    yield fan_out(PRODUCT, "sse", SOME, **times)
    yield fan_out(LIMIT, "websocket", SOME, **times)
    yield storm("centrifuge", SOME)


def full(folder: Path) -> Iterator[Trial]:
    """Everything, the limit first and last of each size. `folder` is for the store's file."""
    for clients in (SOME, MANY):
        yield from compared(clients)
    for clients in (FEW, MOST):
        yield fan_out(LIMIT, "websocket", clients)
        yield fan_out(PRODUCT, "centrifuge", clients)
    yield from goals(folder)


def compared(clients: int) -> Iterator[Trial]:
    """Everybody with as many clients."""
    yield fan_out(LIMIT, "websocket", clients)
    yield fan_out(PRODUCT, "websocket", clients)
    idle = 30.0 if clients == MANY else 0.0
    yield fan_out(PRODUCT, "centrifuge", clients, idle=idle)
    for peer in PEERS:
        if clients <= peer.most_clients:
            yield fan_out(peer, next(iter(peer.groups)), clients)
    yield fan_out(LIMIT, "sse", clients)
    yield fan_out(PRODUCT, "sse", clients)
    yield fan_out(LIMIT, "websocket", clients)


def goals(folder: Path) -> Iterator[Trial]:
    """What is no row of the comparison."""
    yield flood(PRODUCT, "websocket", 1_000)
    yield flood(PRODUCT, "websocket", UNBOUNDED)
    nchan = PEERS[0]
    yield flood(nchan, "websocket", UNBOUNDED)
    yield from stalled()
    yield storm("centrifuge", MANY)
    yield storm("websocket", MANY)
    yield nobody("in process")
    store = folder / "history.db"
    yield nobody("SQLite", f'[store]\npath = "{store}"\n')
    posts = Load((), UNBOUNDED, windows=3, window=2, post="/channels/bench", posters=8)
    yield Trial(PRODUCT, "http", "post", posts, channels=0)
    yield many_channels()


def rate(server: Contestant, clients: int) -> float:
    """Publications a second that leave the server idle most of the time."""
    bearable = min(DELIVERIES, BUSY * 1e6 / server.cost)
    return max(0.5, min(20.0, bearable / clients))


def fan_out(server: Contestant, protocol: str, clients: int, **more: float) -> Trial:
    """One channel that everybody watches, publications far apart."""
    group = replace(server.groups[protocol], clients=clients)
    often = rate(server, clients)
    # Ten thousand take a while to settle, and slow ones need time for a few publications.
    times: dict[str, float] = {
        "window": 3.0 if often > 2 else 6.0,
        "settle": 0.5 if clients < MANY else 1.0,
        "warmup": max(1.0, 1.0 / often),
    }
    load = Load((group,), often, post=server.post, **(times | more))  # type: ignore[arg-type]
    return Trial(server, protocol, "fan-out", load)


def flood(server: Contestant, protocol: str, often: float) -> Trial:
    """More publications than there is time to send one by one."""
    group = replace(server.groups[protocol], clients=SOME)
    name = "flood" if often < UNBOUNDED else "maximum"
    load = Load((group,), often, warmup=2, post=server.post, posters=32)
    return Trial(server, protocol, name, load)


def stalled() -> Iterator[Trial]:
    """Readers alone, and then beside some that never read; the first is to compare with."""
    readers = replace(PRODUCT.groups["websocket"], clients=475)
    others = replace(readers, clients=25, behaviour="stalls")
    for name, groups in (("readers alone", (readers,)), ("5 % stalled", (readers, others))):
        # 8 MB for each in all: the kernel takes up to 4 MB before anything waits in the server.
        load = Load(groups, 20, size=32_768, warmup=1, windows=4, window=3)
        yield Trial(PRODUCT, "websocket", name, load, clients=475)


def storm(protocol: str, clients: int) -> Trial:
    """All are cut, miss publications, and come back at once, while others watch on."""
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
    return Trial(PRODUCT, protocol, "storm", load, clients=clients)


def nobody(name: str, settings: str = "") -> Trial:
    """Publications that nobody watches."""
    return Trial(PRODUCT, "none", name, Load((), UNBOUNDED, windows=3, window=2), settings=settings)


def many_channels(channels: int = 1_000, each: int = 10) -> Trial:
    """Many channels with a few subscribers each; the next publication is in any of them."""
    group = Group("stream", channels * each, "/channels/bench:%", channels=channels)
    load = Load((group,), 500, settle=1.0)
    return Trial(PRODUCT, "websocket", "many channels", load, channels)
