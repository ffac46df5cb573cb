"""A worker obeys its main process, and waits for another one when that is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pushserver import __version__
from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Config
from pushserver.server.workers.control import (
    ALONE_SECONDS,
    SILENT_SECONDS,
    Configure,
    Drain,
    FromWorker,
    Here,
    Ping,
    Pong,
    Ready,
    Start,
    Stop,
    decode_start,
    encode_config,
)
from pushserver.server.workers.folder import LOCK
from pushserver.server.workers.worker import Worker
from tests.unit.fakes.web import Trouble, memory_reactor, set_autobahns_clock
from tests.unit.server.workers.fakes import Control


class World:
    """A worker on a memory reactor, and the main process's ends of its connections."""

    def __init__(self, folder: Path, config: Config | None = None, **more: Any):
        self.reactor: Any = memory_reactor()
        set_autobahns_clock(self.reactor)
        self.controls: list[Control] = []
        self.ends = 0

        def adopt(descriptor: int, family: int, factory: Any) -> None:
            self.controls.append(Control(factory.buildProtocol(None), FromWorker))

        self.reactor.adoptStreamConnection = adopt
        ours, theirs = socket.socketpair()
        ours.close()
        config = config or replace(Config(), sources={})
        start = Start(__version__, config, str(folder), 2, 2, theirs.detach(), [], False, True, "")
        self.worker = Worker(replace_start(start, **more), self.reactor, self._end)
        self.worker.begin()

    def _end(self) -> None:
        self.ends += 1

    @property
    def control(self) -> Control:
        return self.controls[-1]

    def attach(self) -> None:
        """The worker follows the log."""
        assert self.worker.service.uplink is not None
        self.worker.service.uplink.attached()

    def close(self) -> None:
        """Close the sockets on which it waits."""
        if self.worker._waiting is not None:
            self.worker._stop_waiting()
        assert self.worker.service.inner is not None
        self.worker.service.inner.stopService()
        self.reactor.advance(0)

    def lose(self) -> None:
        """The main process is gone."""
        self.control.protocol.connectionLost()


def replace_start(start: Start, **more: Any) -> Start:
    return Start(**{name: getattr(start, name) for name in start.__struct_fields__} | more)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_worker_is_ready_once_it_follows_the_log(world: World) -> None:
    assert world.control.heard() == []
    world.attach()
    assert world.control.heard() == [Ready()]


def test_the_next_main_process_is_told_too_and_is_linked_at_once(world: World) -> None:
    world.attach()
    assert world.worker.service.uplink is not None
    links: list[None] = []
    world.worker.service.uplink.link_now = lambda: links.append(None)
    world.control.heard()
    world.control.say(Configure(encode_config(world.worker._config)))
    assert links == [None]
    world.attach()
    assert world.control.heard() == [Ready()]


def test_worker_answers_pings(world: World) -> None:
    world.control.say(Ping())
    assert world.control.heard() == [Pong()]


def test_worker_without_its_certificate_ends(tmp_path: Path, trouble: Trouble) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        text = f"ssl:0:privateKey={tmp_path}/key.pem"
        world = World(tmp_path, sockets=[(text, [os.dup(one.fileno())])])
        world.attach()
        world.close()
    assert (world.ends, world.worker.failed, world.control.heard()) == (1, True, [])
    (line,) = trouble.take()
    assert "key.pem" in line


def test_settings_of_the_main_process_are_used(world: World) -> None:
    config = replace(Config(), sources={}, defaults=ChannelOptions(history_size=7))
    world.control.say(Configure(encode_config(config)))
    world.reactor.advance(1)
    assert world.worker.service.node.history.options("numbers").history_size == 7


def test_certificates_are_read_again_with_the_same_settings(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[None] = []

    def read() -> Callable[[], bool]:
        reads.append(None)
        return lambda: False

    monkeypatch.setattr(world.worker.service.ports, "read_certificates", read)
    world.control.say(Configure(encode_config(world.worker._config)))
    world.reactor.advance(1)
    assert reads == [None]


def test_worker_that_drains_listens_no_more(world: World) -> None:
    world.attach()
    world.control.say(Drain())
    assert not world.worker.service.ports.running


def test_worker_ends_when_it_is_told(world: World) -> None:
    world.control.say(Stop(2.5))
    assert world.ends == 1
    assert world.worker.service.node.limits.drain_seconds == 2.5
    world.lose()
    world.reactor.advance(ALONE_SECONDS)
    assert world.ends == 1


def test_worker_keeps_its_connections_for_a_while_without_a_main_process(
    world: World, trouble: Trouble
) -> None:
    world.attach()
    world.lose()
    world.reactor.advance(ALONE_SECONDS - 0.1)
    assert world.ends == 0
    world.reactor.advance(0.1)
    assert world.ends == 1
    assert trouble.take() == ["there has been no main process for 10.0 seconds: the worker ends"]


@pytest.mark.parametrize("name", ["a:b", "mode=660", "a\\\\b"])
def test_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    world = World(folder)
    world.attach()
    world.lose()
    assert "control-2" in os.listdir(folder)
    world.close()


def test_next_main_process_finds_the_worker(world: World, tmp_path: Path) -> None:
    world.attach()
    world.lose()
    assert "control-2" in os.listdir(tmp_path)
    port: Any = world.worker._waiting
    control = Control(port.factory.buildProtocol(None), FromWorker)
    assert control.heard() == [Here(__version__, 2, os.getpid())]
    world.reactor.advance(ALONE_SECONDS)
    assert world.ends == 0
    assert "control-2" not in os.listdir(tmp_path)
    control.say(Ping())
    assert control.heard() == [Pong()]


def test_main_process_that_sends_no_pings_is_lost(world: World, tmp_path: Path) -> None:
    world.attach()
    world.control.say(Ping())
    world.reactor.advance(SILENT_SECONDS - 1)
    world.control.say(Ping())
    world.reactor.advance(SILENT_SECONDS - 1)
    assert not world.control.aborted
    world.reactor.advance(1)
    assert world.control.aborted


def test_start_by_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"version '0.0.1'.* restart the server"):
        decode_start(b'{"version": "0.0.1"}')


def test_main_process_that_fails_at_its_start_prolongs_nothing(
    world: World, trouble: Trouble
) -> None:
    world.attach()
    world.lose()
    for _ in range(2):
        world.reactor.advance(ALONE_SECONDS / 2 - 1)
        port: Any = world.worker._waiting
        control = Control(port.factory.buildProtocol(None), FromWorker)
        world.reactor.advance(0)
        control.protocol.connectionLost()
    world.reactor.advance(1)
    assert world.ends == 0
    world.reactor.advance(1)
    assert world.ends == 1
    assert len(trouble.take()) == 1


@pytest.mark.parametrize("kept", ["", "lasting", "stopped"])
def test_worker_left_alone_removes_the_folder_of_one_run(
    world: World, tmp_path: Path, trouble: Trouble, kept: str
) -> None:
    with socket.socket(socket.AF_UNIX) as link:
        link.bind(str(tmp_path / "link"))
        if kept == "stopped":
            # The kernel accepts connections to a process that was stopped.
            link.listen()
        if kept == "lasting":
            (tmp_path / LOCK).touch()
        world.lose()
        world.reactor.advance(ALONE_SECONDS)
    assert tmp_path.exists() is bool(kept)
    assert len(trouble.take()) == 1


def test_worker_that_ends_waits_for_no_main_process(world: World, tmp_path: Path) -> None:
    world.worker.stop()
    world.lose()
    assert (world.ends, world.worker._waiting) == (1, None)
    assert "control-2" not in os.listdir(tmp_path)
