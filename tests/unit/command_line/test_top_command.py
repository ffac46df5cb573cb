"""`pushserver top`: on a terminal, into a pipe, and as JSON."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from email.message import Message
from fcntl import ioctl
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from pushserver.cli import main
from pushserver.command_line import screen
from pushserver.opener import ServerRequest
from tests.http_server import HttpServer, Quiet
from tests.unit.fakes.loads import channel, load
from tests.unit.test_cli import ended, start_command

Capture = pytest.CaptureFixture[str]
URL = "http://push.example:1"
DEADLINE_SECONDS = 20.0


class End(Exception):
    """Ends a command that would never end."""


Answering = Callable[..., list[ServerRequest]]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Lets the server answer with these, one by one.

    Each is a load, bytes, an exception, or a status and a message.
    """

    def answer(*values: object) -> list[ServerRequest]:
        requests: list[ServerRequest] = []
        left = list(values)

        def send(request: ServerRequest, seconds: float) -> Any:
            requests.append(request)
            value = left.pop(0)
            if isinstance(value, tuple):
                raise refused(*value)
            if isinstance(value, Exception):
                raise value
            if isinstance(value, dict):
                value = json.dumps({"result": value}).encode()
            assert isinstance(value, bytes)
            return io.BytesIO(value)

        monkeypatch.setattr("pushserver.api_call.send", send)
        monkeypatch.setattr("pushserver.command_line.top_command.time.sleep", lambda seconds: None)
        return requests

    return answer


class Body(io.BytesIO):
    """The body of an answer, all of which has come."""

    length = 0


def refused(status: int, message: str) -> HTTPError:
    body = Body(json.dumps({"error": {"message": message}}).encode())
    return HTTPError(URL, status, "", Message(), body)


class TestPrinted:
    def test_once_has_the_rates_of_one_interval(
        self, answering: Answering, capsys: Capture
    ) -> None:
        requests = answering(load(60.0), load(61.0, channels=[channel("a", 2, 8)]))
        assert main(["top", "--once", "--url", f"{URL}/", "--key", "k"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"pushserver 1.2.3 at {URL}, up 1 min 1 s, ")
        assert "          2     1.0      2.0  a\n" in printed
        assert [request.full_url for request in requests] == [f"{URL}/api/top"] * 2
        assert requests[0].get_header("X-api-key") == "k"

    def test_json_is_one_line(self, answering: Answering, capsys: Capture) -> None:
        answering(load(60.0, channels=[]), load(61.0, channels=[channel("\x1b[2J\x7f中")]))
        assert main(["top", "--once", "--json", "--url", URL]) == 0
        [line] = capsys.readouterr().out.splitlines()
        assert json.loads(line)["channels"][0]["channel"] == "\x1b[2J\x7f中"
        assert "\x1b" not in line

    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_into_a_pipe_it_goes_on_after_a_server_that_was_away(
        self, answering: Answering, capsys: Capture, form: list[str]
    ) -> None:
        away = [URLError("refused\x1b"), (503, "stopping"), (502, "no")]
        answering(load(60.0), load(61.0), *away, load(1.0), End())
        with pytest.raises(End):
            main(["top", "--url", URL, *form])
        captured = capsys.readouterr()
        if form:
            assert [json.loads(line)["uptime"] for line in captured.out.splitlines()] == [61, 1]
        else:
            assert captured.out.count("\n\n") == 2 * 4
            assert captured.out.count(f"pushserver 1.2.3 at {URL}") == 2
        assert captured.err.splitlines() == [
            f"pushserver: {URL}: refused\\x1b; trying again",
            f"pushserver: {URL}: 503: stopping; trying again",
            f"pushserver: {URL}: 502: no; trying again",
        ]

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (URLError("refused"), f"{URL}: refused; is it running?"),
            (TimeoutError("timed out"), f"{URL}: timed out; is it running?"),
            ((403, "not\x1b you"), "403: not\\x1b you"),
            ((404, "unknown method 'top'"), "404: unknown method 'top'"),
            (b'{"error": {"code": 100, "message": "no"}}', "no"),
            (b"[]", f"{URL}: expected the load of a pushserver, got "),
            (b"hello", f"{URL}: expected the load of a pushserver, got "),
            (b"[" * 100_000, f"{URL}: expected the load of a pushserver, got "),
            (b'{"result": {}}', f"{URL}: expected the load of a pushserver, got "),
        ],
    )
    @pytest.mark.parametrize("form", [["--json"], ["--once"], []])
    def test_other_answers_are_errors(
        self,
        answering: Answering,
        capsys: Capture,
        answer: object,
        problem: str,
        form: list[str],
    ) -> None:
        answering(answer)
        assert main(["top", "--url", URL, *form]) == 1
        assert capsys.readouterr().err.startswith(f"pushserver: {problem}")

    def test_a_key_that_is_removed_ends_the_view(
        self, answering: Answering, capsys: Capture
    ) -> None:
        answering(load(), (401, "wrong key"))
        assert main(["top", "--json", "--url", URL]) == 1
        assert capsys.readouterr().err == "pushserver: 401: wrong key\n"

    def test_a_wrong_url_is_refused_without_its_password(self, capsys: Capture) -> None:
        assert main(["top", "--url", "http://me:s3cret@localhost:1"]) == 1
        assert "s3cret" not in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["0", "-1", "3601", "nan", "inf", "soon", "1e999", ""])
    def test_an_interval_out_of_range_is_refused(self, capsys: Capture, text: str) -> None:
        with pytest.raises(SystemExit):
            main(["top", f"--interval={text}"])
        assert f"expected 0.1 to 3600 seconds, got {text!r}" in capsys.readouterr().err


class TestFrame:
    def test_puts_each_line_at_its_place_and_clears_the_rest(self) -> None:
        assert screen.frame(["a", "b"], 3) == "\x1b[1;1H\x1b[2Ka\x1b[2;1H\x1b[2Kb\x1b[3;1H\x1b[J"

    def test_of_a_full_screen_clears_nothing_below(self) -> None:
        assert screen.frame(["a", "b", "c"], 2) == "\x1b[1;1H\x1b[2Ka\x1b[2;1H\x1b[2Kb"


# --- on a terminal ---------------------------------------


class Loads(HttpServer):
    """A server that answers with its `load`; None for a server that stops."""

    def __init__(self) -> None:
        self.load: dict[str, Any] | None = load()
        loads = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                body = json.dumps({"result": loads.load}).encode()
                self.send_response(503 if loads.load is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)


@pytest.fixture
def loads() -> Iterator[Loads]:
    loads = Loads()
    yield loads
    loads.close()


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, url: str, *arguments: str, term: str = "xterm", **options: Any):
        self.ours, self._its = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self._its)
        self.output = b""
        self.process: subprocess.Popen[bytes] = start_command(
            "top",
            "--url",
            url,
            "--interval=0.1",
            *arguments,
            stdin=self._its,
            stdout=self._its,
            env={"TERM": term},
            # A group with a parent in another one of the session: the system stops no others.
            **{"process_group": 0, **options},
        )

    def resize(self, width: int, height: int) -> None:
        ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    def see(self, text: str) -> None:
        """Wait until the command has written the text after the last one that was seen."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text.encode() not in self.output:
            left = deadline - time.monotonic()
            assert select.select([self.ours], [], [], max(left, 0.0))[0], self.output
            self.output += os.read(self.ours, 65_536)
        self.output = self.output.partition(text.encode())[2]

    def end(self, number: int | None = None) -> tuple[int, str]:
        """The status and the messages, after this signal; the terminal is as it was before."""
        if number is not None:
            self.process.send_signal(number)
        result = ended(self.process)
        assert termios.tcgetattr(self._its) == self.before
        return result

    def close(self) -> None:
        os.close(self.ours)
        os.close(self._its)


@pytest.fixture
def terminals(loads: Loads) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*arguments: str, **options: Any) -> Terminal:
        made.append(Terminal(loads.url, *arguments, **options))
        return made[-1]

    yield make
    for terminal in made:
        if terminal.process.poll() is None:
            terminal.process.kill()
            ended(terminal.process)
        terminal.close()


ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"


def test_view_shows_the_load_again_and_again_until_a_signal(
    loads: Loads, terminals: Callable[..., Terminal]
) -> None:
    terminal = terminals()
    terminal.see(ENTER)
    terminal.see("\x1b[1;1H\x1b[2Kpushserver 1.2.3 at")
    terminal.see("192.0.2.7:5000  ada")
    # A name that would clear the screen.
    loads.load = load(61.0, channels=[channel("evil\x1b[2J\n中")])
    terminal.see("evil\\x1b[2J\\n中")
    loads.load = None
    terminal.see(f"\x1b[1;1H\x1b[2Kwaiting for {loads.url}: 503")
    terminal.see("evil")
    loads.load = load(1.0)
    terminal.see("up 1 s")
    assert terminal.end(signal.SIGTERM) == (-signal.SIGTERM, "")
    terminal.see(LEAVE)


def test_view_is_drawn_again_at_once_for_another_size(
    terminals: Callable[..., Terminal],
) -> None:
    terminal = terminals("--interval=3600")
    terminal.see("192.0.2.7:5000  ada")
    terminal.resize(20, 3)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.see("\x1b[1;1H\x1b[2Kpushserver 1.2.3 at \x1b[2;1H")
    terminal.see("\x1b[3;1H\x1b[2K5 subscriptions")
    assert terminal.end(signal.SIGINT) == (130, "")


def test_view_leaves_the_screen_while_it_is_stopped(terminals: Callable[..., Terminal]) -> None:
    terminal = terminals()
    terminal.see("192.0.2.7:5000  ada")
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.see(LEAVE)
    _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.see(ENTER)
    terminal.see("192.0.2.7:5000  ada")
    assert terminal.end(signal.SIGINT) == (130, "")
    terminal.see(LEAVE)


def test_a_view_that_nobody_could_continue_is_not_stopped(
    loads: Loads, terminals: Callable[..., Terminal]
) -> None:
    terminal = terminals(process_group=None, start_new_session=True)
    terminal.see("192.0.2.7:5000  ada")
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.see(LEAVE)
    terminal.see(ENTER)
    loads.load = load(61.0)
    terminal.see("up 1 min 1 s")
    assert terminal.end(signal.SIGINT) == (130, "")


def test_q_ends_the_view(terminals: Callable[..., Terminal]) -> None:
    terminal = terminals()
    terminal.see("192.0.2.7:5000  ada")
    os.write(terminal.ours, b"x\rq")
    assert terminal.end() == (0, "")
    terminal.see(LEAVE)


def test_an_error_leaves_the_screen_before_its_message(
    loads: Loads, terminals: Callable[..., Terminal]
) -> None:
    terminal = terminals()
    terminal.see("192.0.2.7:5000  ada")
    loads.load = {}
    status, message = terminal.end()
    assert (status, message.count("\n")) == (1, 1)
    assert message.startswith(f"pushserver: {loads.url}: expected the load of a pushserver")
    terminal.see(LEAVE)


def test_a_terminal_without_cursor_control_gets_blocks(
    terminals: Callable[..., Terminal],
) -> None:
    terminal = terminals(term="dumb")
    for _ in range(2):
        terminal.see("pushserver 1.2.3 at")
    assert terminal.end(signal.SIGINT)[0] == 130
    assert b"\x1b" not in terminal.output


def test_a_reader_that_closes_the_pipe_ends_the_command(loads: Loads) -> None:
    process = start_command("top", "--url", loads.url, "--interval=0.1", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"pushserver 1.2.3 at")
    process.stdout.close()
    assert ended(process) == (0, "")


def test_a_closed_pipe_ends_the_command_before_its_next_look(loads: Loads) -> None:
    process = start_command("top", "--url", loads.url, "--interval=3600", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert ended(process) == (0, "")
