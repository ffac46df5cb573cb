"""A turn of the reactor handles a bounded number of events; the others wait for the next."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import socket
from itertools import chain
from typing import Any

import pytest
from twisted.internet import epollreactor
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.testing import MemoryReactorClock

from pushserver.server import epoll_limit


@pytest.fixture
def epoll() -> Any:
    poller = select.epoll()
    yield poller
    poller.close()


class Stand:
    """A reactor with a poller."""

    def __init__(self, poller: Any):
        self._poller = poller


@pytest.mark.upstream
def test_reactor_calls_its_poller_as_expected() -> None:
    source = inspect.getsource(epollreactor)
    assert "self._poller.poll(timeout, len(self._selectables))" in source
    used = {part.split("(")[0] for part in source.split("self._poller.")[1:]}
    assert used <= {"poll", "register", "modify", "unregister", "close", "fileno"}


def test_every_ready_file_is_returned_within_a_few_turns(
    epoll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoll_limit, "EVENTS", 4)
    reactor: Any = type("EPollReactor", (Stand,), {})(epoll)
    epoll_limit.bound(reactor)
    pipes = [os.pipe() for _ in range(10)]
    for reads, writes in pipes:
        os.write(writes, b"x")
        reactor._poller.register(reads, select.EPOLLIN)
    seen: set[int] = set()
    for _ in range(5):
        ready = reactor._poller.poll(0, 100)
        assert len(ready) <= 4
        seen |= {fd for fd, _ in ready}
    assert seen == {reads for reads, _ in pipes}
    assert len(reactor._poller.poll(0, 2)) == 2
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_second_bound_changes_nothing(epoll: Any) -> None:
    reactor: Any = type("EPollReactor", (Stand,), {})(epoll)
    epoll_limit.bound(reactor)
    bounded = reactor._poller
    epoll_limit.bound(reactor)
    assert reactor._poller is bounded


def test_other_reactors_are_not_bounded(epoll: Any) -> None:
    clock = MemoryReactorClock()
    epoll_limit.bound(clock)
    assert not hasattr(clock, "_poller")
    other = Stand(epoll)
    epoll_limit.bound(other)
    assert other._poller is epoll


@pytest.mark.upstream
def test_epoll_reactor_of_twisted_is_bounded() -> None:
    reactor: Any = EPollReactor()
    try:
        epoll_limit.bound(reactor)
        assert isinstance(reactor._poller, epoll_limit._Bounded)
        reactor.doIteration(0)
    finally:
        reactor.disconnectAll()
        reactor._poller.close()


@pytest.mark.upstream
def test_loop_of_asyncio_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_limit, "EVENTS", 4)
    loop: Any = asyncio.SelectorEventLoop()
    try:
        reactor: Any = AsyncioSelectorReactor(loop)
        epoll_limit.bound(reactor)
        bounded = loop._selector._selector
        assert isinstance(bounded, epoll_limit._Bounded)
        epoll_limit.bound(reactor)
        assert loop._selector._selector is bounded
        turns: list[list[int]] = [[]]
        pairs = [socket.socketpair() for _ in range(10)]

        def read(number: int) -> None:
            turns[-1].append(number)
            pairs[number][0].recv(1)

        for number, (reads, writes) in enumerate(pairs):
            loop.add_reader(reads, read, number)
            writes.send(b"x")
        while sum(map(len, turns)) < len(pairs):
            turns.append([])
            loop.call_soon(loop.stop)
            loop.run_forever()
        assert sorted(chain(*turns)) == list(range(10))
        assert max(map(len, turns)) <= 4
        for reads, writes in pairs:
            loop.remove_reader(reads)
            reads.close()
            writes.close()
    finally:
        loop.close()
