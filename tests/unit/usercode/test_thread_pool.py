"""The thread pool with real threads, which wait for events and never for time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred

from pushserver import Client as AppClient
from pushserver import PushServer
from pushserver.app.dispatch import Dispatcher
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from pushserver.server.build import build
from pushserver.testing.reactor import InlinePool
from pushserver.usercode import thread_pool
from pushserver.usercode.thread_pool import Busy, ThreadPool
from pushserver.usercode.worker import ThreadWorker
from tests.unit.fakes.source_tools import WAIT_SECONDS, ThreadClock
from tests.unit.fakes.tools import Client
from tests.unit.fakes.web import Trouble


class Gate:
    """A function that returns when `opened` is set; it notes its calls and their threads."""

    def __init__(self, result: Any = None):
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.threads: list[threading.Thread] = []
        self._result = result

    def __call__(self) -> Any:
        self.threads.append(threading.current_thread())
        self.entered.set()
        assert self.opened.wait(WAIT_SECONDS)
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


class Reactor(ThreadClock):
    """A clock for a complete server."""

    def callWhenRunning(self, call: Callable[..., object]) -> None: ...


def results(deferred: Deferred[Any]) -> list[Any]:
    """A list that gets the result or the exception of the Deferred."""
    outcome: list[Any] = []
    deferred.addCallbacks(outcome.append, lambda failure: outcome.append(failure.value))
    return outcome


def call(pool: ThreadPool, function: Callable[[], Any], group: object = None) -> Deferred[Any]:
    """A call, in a separate group unless one is given."""
    return pool.call(function, object() if group is None else group)


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let threads fail to start until the returned function is called."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    return lambda: monkeypatch.setattr(threading.Thread, "start", before)


@pytest.fixture
def clock() -> ThreadClock:
    return ThreadClock()


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("handler "):
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


class TestThreadPool:
    @pytest.fixture
    @staticmethod
    def pool(clock: ThreadClock) -> Iterator[ThreadPool]:
        pool = ThreadPool(clock, clock.seconds, 2)
        yield pool
        pool.close()

    def test_returns_results_and_exceptions_in_the_reactor_thread(
        self, pool: ThreadPool, clock: ThreadClock
    ) -> None:
        gate, error = Gate(7), LookupError("x")

        def fails() -> None:
            raise error

        value, failure = results(call(pool, gate)), results(call(pool, fails))
        clock.take()
        assert (value, failure) == ([], [error])
        gate.opened.set()
        clock.take()
        assert value == [7]
        assert gate.threads[0] is not threading.current_thread()
        assert gate.threads[0].daemon

    def test_starts_threads_when_needed_up_to_its_limit(
        self, pool: ThreadPool, clock: ThreadClock
    ) -> None:
        assert not [t for t in threading.enumerate() if t.name.startswith("handler ")]
        gates = [Gate(n) for n in range(5)]
        outcomes = [results(call(pool, gate)) for gate in gates]
        for gate in gates[:2]:
            assert gate.entered.wait(WAIT_SECONDS)
        for gate in gates[2:]:
            assert not gate.entered.is_set()
            gate.opened.set()
        gates[1].opened.set()
        clock.take(4)
        assert outcomes == [[], [1], [2], [3], [4]]
        gates[0].opened.set()
        clock.take()
        assert outcomes[0] == [0]
        assert len({thread for gate in gates for thread in gate.threads}) == 2

    def test_reuses_a_free_thread(self, pool: ThreadPool, clock: ThreadClock) -> None:
        gates = [Gate() for _ in range(3)]
        for gate in gates:
            gate.opened.set()
            call(pool, gate)
            clock.take()
        assert len({thread for gate in gates for thread in gate.threads}) == 1

    def test_bounds_the_queue_of_each_group(
        self, pool: ThreadPool, clock: ThreadClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(thread_pool, "WAITING", 3)
        gates = {group: Gate() for group in ("a", "must")}
        calls: list[object] = []
        call(pool, gates["a"], "a")
        pool.call(gates["must"], "must", must=True)
        for n in range(3):
            call(pool, functools.partial(calls.append, n), "a")
        with pytest.raises(Busy):
            call(pool, lambda: calls.append(99), "a")
        assert not pool.crowded
        for n in range(10, 14):
            pool.call(functools.partial(calls.append, n), "must", must=True)
        # Each group has a queue.
        call(pool, lambda: calls.append("b"), "b")
        assert pool.crowded
        for gate in gates.values():
            gate.opened.set()
        clock.take(10)
        assert not pool.crowded
        # Each group in order; the groups side by side.
        calls.remove("b")
        numbers = [n for n in calls if isinstance(n, int)]
        assert [n for n in numbers if n < 10] == [0, 1, 2]
        assert [n for n in numbers if n >= 10] == [10, 11, 12, 13]

    def test_cancelled_waiting_call_is_not_made(
        self, pool: ThreadPool, clock: ThreadClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(thread_pool, "WAITING", 1)
        gate, made = Gate(), list[str]()
        call(pool, gate, "a")
        pool.call(gate, "must", must=True)
        waiting = call(pool, lambda: made.append("cancelled"), "a")
        outcomes = results(waiting)
        must = pool.call(lambda: made.append("must"), "must", must=True)
        results(must)
        waiting.cancel()
        must.cancel()
        assert isinstance(outcomes[0], CancelledError)
        # The cancelled call has made room.
        call(pool, lambda: made.append("last"), "a")
        gate.opened.set()
        clock.take(4)
        assert sorted(made) == ["last", "must"]

    def test_cancelled_running_call_keeps_its_thread_until_it_returns(
        self, pool: ThreadPool, clock: ThreadClock, trouble: Trouble
    ) -> None:
        error = LookupError("late")
        gates = [Gate(error), Gate(5)]
        made = [call(pool, gate) for gate in gates]
        outcomes = [results(answer) for answer in made]
        for gate in gates:
            assert gate.entered.wait(WAIT_SECONDS)
        for answer in made:
            answer.cancel()
        assert [type(one) for [one] in outcomes] == [CancelledError] * 2
        # Both threads are still in use.
        last = results(call(pool, lambda: 6))
        assert clock.waiting == 0
        for gate in gates:
            gate.opened.set()
        clock.take(3)
        assert last == [6]
        assert trouble.take() == ["a call that was late has failed: LookupError('late')"]

    def test_close_logs_the_number_of_waiting_calls(
        self, pool: ThreadPool, clock: ThreadClock, trouble: Trouble
    ) -> None:
        gate = Gate()
        for _ in range(3):
            call(pool, gate)
        pool.close()
        assert trouble.take() == ["1 waiting calls of handlers are dropped"]
        gate.opened.set()
        clock.take(2)
        # A server that starts again uses the same pool.
        outcomes = results(call(pool, lambda: 7))
        clock.take()
        assert outcomes == [7]


class TestSlowHandler:
    @pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)])
    def test_uses_half_of_the_threads(self, clock: ThreadClock, threads: int, most: int) -> None:
        pool = ThreadPool(clock, clock.seconds, threads)
        slow = [Gate() for _ in range(threads + 1)]
        for gate in slow:
            call(pool, gate, "slow")
        others = [Gate() for _ in range(threads - most)]
        for gate in others:
            call(pool, gate)
        for gate in [*slow[:most], *others]:
            assert gate.entered.wait(WAIT_SECONDS)
        assert not any(gate.entered.is_set() for gate in slow[most:])
        last = Gate()
        call(pool, last)
        assert not last.entered.is_set()
        # A free thread gets the oldest call that may start.
        for gate in [*slow, *others, last]:
            gate.opened.set()
        clock.take(len(slow) + len(others) + 1)
        assert all(gate.entered.is_set() for gate in [*slow, last])
        pool.close()

    @pytest.mark.parametrize(("threads", "running"), [(1, [0]), (2, [0, 2]), (4, [0, 1, 2, 3])])
    def test_does_not_delay_mandatory_calls(
        self, clock: ThreadClock, threads: int, running: list[int]
    ) -> None:
        pool = ThreadPool(clock, clock.seconds, threads)
        slow, gone, stop = [Gate() for _ in range(4)], Gate(), Gate()
        for gate, group in zip(slow, ("a", "a", "b", "b"), strict=True):
            call(pool, gate, group)
        pool.call(gone, "disconnect", must=True)
        for gate in (*(slow[n] for n in running), gone):
            assert gate.entered.wait(WAIT_SECONDS)
        # The extra thread is for one call of a group: this one waits.
        later = Gate()
        pool.call(later, "disconnect", must=True)
        pool.call(stop, "stop", must=True)
        assert stop.entered.wait(WAIT_SECONDS)
        stop.opened.set()
        clock.take()
        assert not later.entered.is_set()
        # The extra thread runs no other call.
        assert [n for n, gate in enumerate(slow) if gate.entered.is_set()] == running
        for gate in (*slow, gone, later):
            gate.opened.set()
        clock.take(6)
        assert all(gate.entered.is_set() for gate in (*slow, later))
        pool.close()


class TestWhenNoThreadCanStart:
    def test_call_fails_and_a_later_call_gets_a_thread(
        self, clock: ThreadClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = ThreadPool(clock, clock.seconds, 2)
        again = refuse_threads(monkeypatch)
        for _ in range(3):
            [error] = results(call(pool, lambda: 7))
            assert str(error) == "can't start new thread"
        again()
        outcomes = [results(call(pool, lambda: 7)) for _ in range(2)]
        clock.take(2)
        assert outcomes == [[7], [7]]
        pool.close()

    def test_call_waits_for_a_running_thread(
        self, clock: ThreadClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool, gate = ThreadPool(clock, clock.seconds, 4), Gate()
        call(pool, gate)
        refuse_threads(monkeypatch)
        outcomes = results(call(pool, lambda: 7))
        assert outcomes == []
        gate.opened.set()
        clock.take(2)
        assert outcomes == [7]
        pool.close()

    def test_worker_refuses_a_call_and_makes_the_next(
        self, clock: ThreadClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = ThreadWorker("handler of a test")
        again = refuse_threads(monkeypatch)
        made: list[int] = []
        with pytest.raises(RuntimeError, match="can't start new thread"):
            worker.call(clock, lambda: made.append(1))
        assert not worker.busy
        again()
        worker.call(clock, lambda: made.append(2))
        clock.take()
        assert made == [2]
        worker.close()


def test_inline_pool_makes_calls_at_once() -> None:
    inline = InlinePool()
    error = LookupError("x")

    def fails() -> None:
        raise error

    assert results(inline.call(lambda: 7, 1)) == [7]
    assert results(inline.call(fails, 1, must=True)) == [error]
    inline.close()


class TestServerWithThreads:
    """Clients do not wait for the handlers of others, and the reactor for none."""

    @pytest.fixture
    @staticmethod
    def app() -> PushServer:
        return PushServer()

    @pytest.fixture
    @staticmethod
    def reactor() -> Reactor:
        return Reactor()

    @pytest.fixture
    @staticmethod
    def clients(app: PushServer, reactor: Reactor) -> Iterator[Callable[[], Client]]:
        """Makes clients of a server with four threads, two for each handler."""
        limits = Limits(handler_threads=4, ping_seconds=10_000.0)
        config = Config(server=ServerSection(listen=[]), limits=limits, sources={})
        service = build(config, cast(Any, reactor), app=app, clock=reactor.seconds)
        service.startService()
        made: list[Client] = []

        def make() -> Client:
            made.append(Client(service.node, connect=False))
            return made[-1]

        yield make
        for client in made:
            client.session.closed()
        assert results(service.stopService()) == [None]

    def test_calls_handlers_side_by_side_and_queues_the_rest(
        self, app: PushServer, reactor: Reactor, clients: Callable[[], Client]
    ) -> None:
        gates = {name: Gate(name) for name in "abc"}
        app.on("ask")(lambda client, data: gates[data]())
        guests = {name: clients() for name in "abc"}
        for name, guest in guests.items():
            guest.say({"id": 1, "connect": {}})
            assert guest.say({"id": 2, "rpc": {"method": "ask", "data": name}}) == []
        for name in "ab":
            assert gates[name].entered.wait(WAIT_SECONDS)
        gates["b"].opened.set()
        reactor.take()
        assert guests["b"].transport.take() == [{"id": 2, "rpc": {"data": "b"}}]
        assert gates["c"].entered.wait(WAIT_SECONDS)
        for name in "ca":
            gates[name].opened.set()
        reactor.take(2)
        for name in "ca":
            assert guests[name].transport.take() == [{"id": 2, "rpc": {"data": name}}]

    def test_does_not_wait_for_a_late_handler(
        self,
        app: PushServer,
        reactor: Reactor,
        clients: Callable[[], Client],
        trouble: Trouble,
    ) -> None:
        gate, gone = Gate(), list[AppClient]()
        app.on("ask")(lambda client, data: gate())
        app.on("disconnect", thread=False)(gone.append)
        guest = clients()
        guest.say({"id": 1, "connect": {}})
        guest.say({"id": 2, "rpc": {"method": "ask"}})
        assert gate.entered.wait(WAIT_SECONDS)
        reactor.advance(30)
        [reply] = guest.transport.take()
        assert reply["error"]["message"] == "the application did not answer in time"
        assert "has not answered in 30 s" in trouble.take()[0]
        guest.session.closed()
        reactor.advance(30)
        assert len(gone) == 1
        gate.opened.set()
        reactor.take()
        assert guest.transport.take() == []

    def test_logs_a_handler_that_was_late_before_it_had_a_thread(
        self,
        app: PushServer,
        reactor: Reactor,
        clients: Callable[[], Client],
        trouble: Trouble,
    ) -> None:
        gates = [Gate() for _ in range(3)]
        app.on("ask")(lambda client, data: gates[data]())
        for n in range(3):
            guest = clients()
            guest.say({"id": 1, "connect": {}})
            guest.say({"id": 2, "rpc": {"method": "ask", "data": n}})
            reactor.advance(1)
        for gate in gates[:2]:
            assert gate.entered.wait(WAIT_SECONDS)
        handlers: Dispatcher = guest.session.node.handlers  # type: ignore[assignment]
        reactor.advance(28.5)
        assert "has not answered in 30 s (handler_seconds)" in trouble.take()[0]
        reactor.advance(0.5)
        [failed] = handlers.failures("c")
        told = "was not called: it waited for a thread (handler_threads) for 30 s (handler_seconds)"
        # A line about this handler was logged two seconds before.
        assert (failed.error, trouble.take()) == (told, [])
        for gate in gates:
            gate.opened.set()
        reactor.take(2)
        assert not gates[2].entered.is_set()

    def test_refuses_clients_while_too_many_disconnect_calls_wait(
        self,
        app: PushServer,
        reactor: Reactor,
        clients: Callable[[], Client],
        trouble: Trouble,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(thread_pool, "WAITING", 3)
        gate = Gate()
        app.on("disconnect")(gate)
        for _ in range(5):
            guest = clients()
            assert "connect" in guest.say({"id": 1, "connect": {}})[0]
            guest.session.closed()
        for _ in range(10):
            guest = clients()
            [reply] = guest.say({"id": 1, "connect": {}})
            assert reply["error"]["temporary"] is True
            guest.session.closed()
        assert app.clients == []
        [told] = trouble.take()
        assert told.startswith("clients are refused: too many calls of the disconnect handler")
        # One line for all late calls.
        reactor.advance(30)
        assert len(trouble.take()) == 1
        gate.opened.set()
        reactor.take(5)
        guest = clients()
        assert "connect" in guest.say({"id": 1, "connect": {}})[0]
        guest.session.closed()
        reactor.take()

    def test_stop_leaves_no_timer(self, app: PushServer) -> None:
        gate, reactor = Gate(), Reactor()
        app.on("hang")(lambda client: gate())
        config = Config(server=ServerSection(listen=[]), sources={})
        service = build(config, cast(Any, reactor), app=app, clock=reactor.seconds)
        service.startService()
        guest = Client(service.node, connect=False)
        guest.say({"id": 1, "connect": {}})
        guest.say({"id": 2, "rpc": {"method": "hang"}})
        assert gate.entered.wait(WAIT_SECONDS)
        over = results(service.stopService())
        guest.session.closed()
        reactor.advance(5)
        assert over == [None]
        assert [call for call in reactor.getDelayedCalls() if "late" in str(call)] == []
        gate.opened.set()
        reactor.take()

    def test_carries_out_the_actions_of_a_handler_in_order(
        self, app: PushServer, reactor: Reactor, clients: Callable[[], Client]
    ) -> None:
        seen: list[Any] = []

        @app.on("connect")
        def come(client: AppClient) -> None:
            client.join("one")
            client.send("hello")
            client.join("two")
            client.leave("one")
            seen.append(app.publish("two", 1).offset)

        guest = clients()
        assert guest.say({"id": 1, "connect": {}}) == []
        reactor.take(6)
        reply, hello, *rows = guest.transport.take()
        assert list(reply["connect"]["subs"]) == ["two"]
        assert hello["push"]["message"]["data"] == "hello"
        assert [push["push"]["pub"]["data"] for push in rows] == [1]
        assert seen == [1]
