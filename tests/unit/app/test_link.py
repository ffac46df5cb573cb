"""The link to the server from real threads; the test's thread is the reactor's."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from pushserver import PushServer
from pushserver.app import link
from pushserver.app.link import ServerLink
from pushserver.app.service import AppService
from pushserver.channels.publication import Draft, Receipt
from pushserver.errors import InvalidData, InvalidKey, InvalidName, NotRunning, Unavailable
from tests.unit.fakes.source_tools import WAIT_SECONDS, ThreadClock
from tests.unit.fakes.tools import Watcher, drive, make_node
from tests.unit.fakes.web import Trouble

DRAFT = Draft("c", b"1")
PUBLISHERS = 4
EACH = 25


class FakeDispatcher:
    """Records the start and the end; the end waits for `held`."""

    def __init__(self) -> None:
        self.clients: dict[Any, Any] = {}
        self.calls: list[str] = []
        self.held: Deferred[None] | None = None

    def attach(self, link: ServerLink) -> None:
        self.calls.append("attach")

    async def end(self, seconds: float) -> None:
        if self.held is not None:
            await self.held
        self.calls.append("end")


class Stage:
    """An application with a server, and threads."""

    def __init__(self) -> None:
        self.clock = ThreadClock()
        self.node = make_node()
        self.app = PushServer()
        self.dispatcher = cast(Any, FakeDispatcher())
        self.service = AppService(self.app, self.dispatcher, self.node, self.clock)
        self.service.startService()
        self.threads = ThreadPoolExecutor(PUBLISHERS)
        self.watcher = Watcher()
        drive(self.node.hub.subscribe(self.watcher, "c", None, 0))

    def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self.threads.submit(call, *arguments)

    def hold(self) -> Deferred[Receipt]:
        """Make publications wait for a commit, as in a store that commits first."""
        committed: Deferred[Receipt] = Deferred()

        async def publish(draft: Draft) -> Receipt:
            return await committed

        self.node.publish = publish  # type: ignore[method-assign]
        return committed

    def stop(self) -> None:
        """Stop as the server does."""
        stopped: Any = self.service.stopService()
        stopped.addBoth(lambda _: self.service.detach())
        self.threads.shutdown()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.stop()


def settled(future: Future[Any]) -> Any:
    """Return the result of a future, or raise its exception."""
    return future.result(WAIT_SECONDS)


class TestInTheReactorsThread:
    def test_publish_has_delivered_on_return(self, stage: Stage) -> None:
        published = stage.app.publish("c", {"n": 1}, event="e", tags={"a": "b"})
        assert (published.done, published.offset) == (True, 1)
        [row] = stage.watcher.publications
        assert (row["data"], row["event"], row["tags"]) == ({"n": 1}, "e", {"a": "b"})

    def test_publish_raises_errors_at_once(self, stage: Stage) -> None:
        stage.node.stop_publishing()
        with pytest.raises(Unavailable, match="the server is shutting down"):
            stage.app.publish("c", 1)

    def test_a_pending_commit_can_be_awaited(self, stage: Stage, trouble: Trouble) -> None:
        committed = stage.hold()
        first, second = stage.app.publish("c", 1), stage.app.publish("c", 2)
        assert not first.done
        committed.callback(Receipt("e1", 1, 1))
        assert first.receipt.offset == 1
        committed = stage.hold()
        second = stage.app.publish("c", 2)
        committed.errback(Unavailable("the disk is full"))
        assert "nobody awaited it" in trouble.take()[0]
        with pytest.raises(Unavailable, match="the disk is full"):
            second.receipt  # noqa: B018


class TestInAnotherThread:
    def test_publish_returns_after_the_append(self, stage: Stage) -> None:
        future = stage.in_thread(stage.app.publish, "c", 1)
        stage.clock.take()
        assert stage.watcher.publications[0]["data"] == 1
        published = settled(future)
        assert (published.done, published.offset) == (True, 1)

    def test_all_publications_arrive_in_the_order_of_each_thread(self, stage: Stage) -> None:
        def work(name: int) -> list[int]:
            return [stage.app.publish("c", [name, n]).offset for n in range(EACH)]

        futures = [stage.in_thread(work, name) for name in range(PUBLISHERS)]
        stage.clock.take(PUBLISHERS * EACH)
        offsets = [settled(future) for future in futures]
        assert sorted(chain.from_iterable(offsets)) == list(range(1, PUBLISHERS * EACH + 1))
        came: dict[int, list[int]] = defaultdict(list)
        for row in stage.watcher.publications:
            name, n = row["data"]
            came[name].append(n)
            assert offsets[name][n] == row["offset"]
        assert came == {name: list(range(EACH)) for name in range(PUBLISHERS)}

    def test_a_refusal_of_the_server_is_raised_there(self, stage: Stage) -> None:
        stage.node.stop_publishing()
        future = stage.in_thread(stage.app.publish, "c", 1)
        stage.clock.take()
        with pytest.raises(Unavailable, match="the server is shutting down"):
            settled(future)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("c d", 1), InvalidName),
            (("c", object()), InvalidData),
            (("c", float("inf")), InvalidData),
            (("c", 1, "a\nb"), InvalidName),
        ],
    )
    def test_invalid_data_does_not_reach_the_reactor(
        self, stage: Stage, arguments: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            settled(stage.in_thread(stage.app.publish, *arguments))
        assert stage.clock.waiting == 0

    def test_publish_waits_for_the_commit(self, stage: Stage) -> None:
        committed = stage.hold()
        future = stage.in_thread(stage.app.publish, "c", 1)
        stage.clock.take()
        assert not future.done()
        committed.callback(Receipt("e1", 1, 5))
        assert settled(future).offset == 5

    def test_a_commit_that_fails_is_raised(self, stage: Stage) -> None:
        committed = stage.hold()
        future = stage.in_thread(stage.app.publish, "c", 1)
        stage.clock.take()
        committed.errback(Unavailable("the disk is full"))
        with pytest.raises(Unavailable, match="the disk is full"):
            settled(future)

    def test_an_exception_before_the_wait_is_raised_in_the_thread(self, stage: Stage) -> None:
        def start() -> Deferred[None]:
            raise ZeroDivisionError

        future = stage.in_thread(stage.app._server().wait, start)
        stage.clock.take()
        with pytest.raises(ZeroDivisionError):
            settled(future)

    def test_a_waiting_thread_fails_when_the_server_has_stopped_before_its_call(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link, "STOP_CHECK_SECONDS", 0.001)
        stage.hold()
        future = stage.in_thread(stage.app.publish, "c", 1)
        while not stage.clock.waiting:
            threading.Event().wait(0.001)
        stage.service.stopService()
        stage.service.detach()
        with pytest.raises(Unavailable, match="the server has stopped"):
            settled(future)

    def test_a_call_before_the_stop_gets_its_commit(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link, "STOP_CHECK_SECONDS", 0.001)
        committed = stage.hold()
        future = stage.in_thread(stage.app.publish, "c", 1)
        stage.clock.take()
        stage.service.stopService()
        assert not future.done()
        # The store does this at its end.
        committed.callback(Receipt("e1", 1, 5))
        stage.service.detach()
        assert settled(future).offset == 5

    def test_clients_are_called_in_the_reactors_thread(self, stage: Stage) -> None:
        threads: list[threading.Thread] = []
        here = stage.app._server()

        def tell() -> None:
            threads.append(threading.current_thread())

        here.call_soon(tell)
        settled(stage.in_thread(here.call_soon, tell))
        assert len(threads) == 1
        stage.clock.take()
        assert threads == [threading.current_thread()] * 2
        stage.service.stopService()
        stage.service.detach()
        with pytest.raises(Unavailable, match="the server has stopped"):
            settled(stage.in_thread(here.call_soon, tell))


class TestAnApplicationWithoutAServer:
    def test_raises_on_publish(self) -> None:
        app = PushServer()
        for call in (lambda: app.publish("c", 1), lambda: app.send(1)):
            with pytest.raises(
                NotRunning, match="pushserver serve MODULE:NAME, twistd pushserver or its run"
            ):
                call()
        assert app.clients == []

    def test_checks_the_arguments_first(self) -> None:
        app = PushServer()
        wrong: list[tuple[type[Exception], dict[str, Any]]] = [
            (InvalidName, {"channel": "a b"}),
            (InvalidName, {"event": ""}),
            (InvalidData, {"data": {1, object()}}),
            (InvalidData, {"tags": {"a": 1}}),
            (InvalidData, {"tags": {"a": "\ud800"}}),
            (InvalidKey, {"key": "k" * 1_000}),
        ]
        for error, arguments in wrong:
            with pytest.raises(error):
                app.publish(**{"channel": "c", "data": 1, **arguments})

    def test_is_run_by_one_server_at_a_time(self, stage: Stage) -> None:
        second = AppService(stage.app, stage.dispatcher, make_node(), stage.clock)
        with pytest.raises(RuntimeError, match="being run by a server already"):
            second.startService()
        stage.service.stopService()
        assert stage.app.publish("c", 1).done
        stage.service.detach()
        with pytest.raises(NotRunning):
            stage.app.publish("c", 1)
        stage.service.startService()
        assert stage.app.publish("c", 1).done

    def test_is_detached_after_its_last_handlers(self, stage: Stage) -> None:
        held = stage.dispatcher.held = Deferred()
        over: list[object] = []
        stopped: Awaitable[None] = stage.service.stopService()
        assert isinstance(stopped, Deferred)
        stopped.addBoth(over.append)
        assert stage.app.publish("c", 1).done
        held.callback(None)
        assert (over, stage.dispatcher.calls) == ([None], ["attach", "end"])
        stage.dispatcher.held = None
        stage.service.detach()
        with pytest.raises(NotRunning):
            stage.app.publish("c", 1)
