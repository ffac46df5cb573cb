"""Applications in a fork of the server's process; most tests only pretend another pid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from twisted.internet.defer import Deferred

from pushserver import Client, NotRunning, PushServer
from pushserver.app.service import AppService
from pushserver.channels.publication import Draft
from pushserver.sources.interface import Feed
from pushserver.testing import TestServer
from pushserver.usercode import fork
from tests.e2e.server import environment
from tests.unit.app.test_link import FakeDispatcher
from tests.unit.fakes.source_tools import SourceBench, ThreadClock
from tests.unit.fakes.tools import make_node

InFork = Callable[[Callable[[], object]], Any]


@pytest.fixture
def in_fork(monkeypatch: pytest.MonkeyPatch) -> InFork:
    """Call a function as in a forked process."""

    def in_fork(call: Callable[[], object]) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(fork, "getpid", lambda: -1)
            return call()

    return in_fork


CALLS: dict[str, Callable[[PushServer, Client], object]] = {
    "app.publish": lambda app, client: app.publish("c", 1),
    "app.send": lambda app, client: app.send(1),
    "client.send": lambda app, client: client.send(1),
    "client.join": lambda app, client: client.join("c"),
    "client.leave": lambda app, client: client.leave("in"),
    "client.disconnect": lambda app, client: client.disconnect(),
}


class TestApplication:
    @pytest.fixture
    def app(self) -> PushServer:
        app = PushServer()
        app.on("connect")(lambda client: client.join("in"))
        return app

    @pytest.mark.parametrize("name", CALLS)
    def test_refuses_to_act_in_a_fork_with_a_hint(
        self, app: PushServer, in_fork: InFork, name: str
    ) -> None:
        with TestServer(app) as server:
            guest = server.connect()
            [client] = app.clients
            stderr = r'forked process of the server.*pushserver\.publish\("http://localhost:8080"'
            with pytest.raises(NotRunning, match=stderr):
                in_fork(lambda: CALLS[name](app, client))
            server.advance(1)
            assert (server.history("c"), guest.messages, guest.closed) == ([], [], None)
            assert client.channels == {"in"}
            CALLS[name](app, client)

    def test_can_be_read_in_a_fork(self, app: PushServer, in_fork: InFork) -> None:
        with TestServer(app) as server:
            guest = server.connect()
            [client] = in_fork(lambda: app.clients)
            assert in_fork(lambda: (client.connected, client.channels)) == (True, {"in"})
            assert client.id == guest.id

    def test_can_publish_in_a_fork_to_a_server_started_there(
        self, app: PushServer, in_fork: InFork
    ) -> None:
        def serve() -> int:
            own = PushServer()
            with TestServer(own):
                return own.publish("c", 1).offset

        assert in_fork(serve) == 1
        with TestServer(app) as server:
            app.publish("c", 2)
            assert [row.offset for row in server.history("c")] == [1]


class TestCallFromAThread:
    @pytest.fixture
    def app(self) -> Iterator[PushServer]:
        self.clock = ThreadClock()
        app = PushServer()
        dispatcher: Any = FakeDispatcher()
        service = AppService(app, dispatcher, make_node(), self.clock)
        service.startService()
        yield app
        stopped: Any = service.stopService()
        assert isinstance(stopped, Deferred)
        service.detach()

    def test_is_refused_in_a_fork(self, app: PushServer, in_fork: InFork) -> None:
        link = app._server()
        link.in_reactor_thread = lambda: False
        calls: list[Callable[[], object]] = [
            lambda: link.call_soon(lambda: None),
            lambda: link.publish(Draft("c", b"1")),
        ]
        for call in calls:
            with pytest.raises(NotRunning, match="forked process"):
                in_fork(call)
        assert self.clock.waiting == 0


FEED_CALLS: dict[str, Callable[[Feed], object]] = {
    "publish": lambda feed: feed.publish(1),
    "remember": lambda feed: feed.remember(1),
    "sleep": lambda feed: feed.sleep(1),
    "trouble": lambda feed: feed.trouble("x"),
    "ok": lambda feed: feed.ok(),
}


@pytest.mark.parametrize("name", FEED_CALLS)
def test_feed_refuses_to_act_in_a_fork(in_fork: InFork, name: str) -> None:
    bench, feeds = SourceBench(), []

    async def run(feed: Feed) -> None:
        feeds.append(feed)
        await feed.sleep(1_000)

    runner = bench.script(run)
    [feed] = feeds
    with pytest.raises(NotRunning, match="forked process"):
        in_fork(lambda: FEED_CALLS[name](feed))
    assert in_fork(feed.remembered) is None
    assert (bench.drafts, bench.memory.get("s"), runner.status().last_error) == ([], None, "")
    stopped: Any = runner.stopService()
    assert stopped is None or isinstance(stopped, Deferred)


class TestCall:
    def run(self, body: str) -> tuple[int, str]:
        """Call a function whose child runs `body`; return the child's status and stderr."""
        program = (
            "import os, sys\n"
            "from pushserver.usercode import fork\n"
            "def function(number):\n"
            "    pid = os.fork()\n"
            "    if pid:\n"
            "        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
            f"    {body}\n"
            "print('status', fork.call(function, 5))\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        word, status = ended.stdout.split()
        assert word == "status"
        return int(status), ended.stderr

    def test_does_not_return_in_a_fork(self) -> None:
        status, stderr = self.run("return 7")
        assert status == 1
        assert "a forked process of the server returned from the function that forked it" in stderr

    @pytest.mark.parametrize(
        ("code", "status", "stderr"),
        [("", 0, ""), ("0", 0, ""), ("3", 3, ""), ("True", 1, ""), ("'bye'", 1, "bye\n")],
    )
    def test_sys_exit_ends_a_fork_with_its_status(
        self, code: str, status: int, stderr: str
    ) -> None:
        assert self.run(f"sys.exit({code})") == (status, stderr)

    def test_exception_ends_a_fork_with_its_traceback(self) -> None:
        status, stderr = self.run("raise LookupError(number)")
        assert status == 1
        assert stderr.endswith("LookupError: 5\n")

    def test_returns_and_raises_in_its_own_process(self) -> None:
        def fail() -> None:
            raise SystemExit(3)

        assert fork.call(max, 2, 3) == 3
        with pytest.raises(SystemExit):
            fork.call(fail)


class TestCloseInForks:
    """Real forks, by `os.fork` and by `multiprocessing`."""

    FORKS: ClassVar = {
        "os": """
pid = os.fork()
if not pid:
    inside()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""",
        "multiprocessing": """
child = multiprocessing.get_context("fork").Process(target=inside)
child.start()
child.join()
assert child.exitcode == 0
""",
    }

    def run(self, fork: str, register: str) -> list[str]:
        """Fork with a listening socket and a file; return what each process can do with them."""
        program = f"""
import multiprocessing, os, socket, subprocess, sys
from pushserver.usercode.fork import close_in_forks

listening = socket.create_server(("127.0.0.1", 0))
file = open(os.devnull)
{register}

def state():
    return listening.fileno() >= 0, not file.closed

def inside():
    print("child", *state(), flush=True)

{self.FORKS[fork]}
socket.create_connection(listening.getsockname(), 5).close()
listening.accept()[0].close()
print("parent", *state())
"""
        command = [sys.executable, "-c", program]
        ended = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=30, check=True
        )
        assert ended.stderr == ""
        return ended.stdout.splitlines()

    @pytest.mark.parametrize("fork", FORKS)
    def test_child_does_not_have_registered_files(self, fork: str) -> None:
        register = "close_in_forks(listening); close_in_forks(file)"
        assert self.run(fork, register) == ["child False False", "parent True True"]

    @pytest.mark.parametrize("fork", FORKS)
    def test_child_has_other_files(self, fork: str) -> None:
        assert self.run(fork, "close_in_forks(file)") == ["child True False", "parent True True"]

    def test_closed_file_is_none_of_the_child(self) -> None:
        register = "other = open(os.devnull); close_in_forks(other); other.close(); del other"
        assert self.run("os", register) == ["child True True", "parent True True"]
