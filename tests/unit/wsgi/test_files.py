"""Answers that are files are read by the reactor's thread."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from pushserver.wsgi.answer import AHEAD_BYTES, PIECE
from pushserver.wsgi.file_wrapper import FileRest, FileWrapper
from pushserver.wsgi.interface import Environ
from tests.unit.fakes.web import Line, Trouble, parse, request
from tests.unit.fakes.wsgi import WsgiServer

SIZE = 3 * AHEAD_BYTES + 1


class Files:
    """An application that answers with a file, wrapped or not, and keeps it."""

    def __init__(self, path: Path, length: int | None = SIZE):
        self._open: Callable[[], Any] = lambda: path.open("rb")
        self._headers = [] if length is None else [("Content-Length", str(length))]
        self.opened: list[Any] = []

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        file = self._open()
        self.opened.append(file)
        start_response("200 OK", self._headers)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 8_192)
        return wrapped


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "film"
    path.write_bytes(os.urandom(SIZE))
    return path


def slow(server: WsgiServer, method: str = "GET") -> Line:
    line = server.connect()
    line.reading = False
    line.send(request("/", method))
    server.until(lambda: server.idle)
    return line


def read_all(line: Line) -> None:
    line.read()
    line.settle()


@pytest.mark.parametrize("length", [SIZE, None])
def test_slow_reader_of_a_file_has_no_thread(path: Path, length: int | None) -> None:
    files = Files(path, length)
    server = WsgiServer(files)
    line = slow(server)
    assert line.unread < 3 * PIECE
    assert not files.opened[0].closed
    read_all(line)
    assert parse(line.take()).body == path.read_bytes()
    assert files.opened[0].closed
    assert server.get("/").status == 200


def test_file_is_closed_when_its_reader_leaves(path: Path) -> None:
    files = Files(path)
    line = slow(WsgiServer(files))
    line.vanish()
    assert files.opened[0].closed


def test_file_is_cut_at_its_length(path: Path) -> None:
    answer = WsgiServer(Files(path, 10)).get("/")
    assert (answer.body, answer.rest) == (path.read_bytes()[:10], b"")


def test_file_that_is_shorter_than_its_length_ends_the_connection(
    path: Path, trouble: Trouble
) -> None:
    files = Files(path, SIZE + 1)
    line = slow(WsgiServer(files))
    read_all(line)
    assert line.lost
    assert files.opened[0].closed
    assert trouble.take() == [
        "a file cannot be sent: ValueError('the file ends 1 bytes before its Content-Length')"
    ]


def test_head_reads_no_file(path: Path) -> None:
    files = Files(path)
    server = WsgiServer(files)
    answer = server.get("/", "HEAD")
    assert (answer["content-length"], answer.body) == (str(SIZE), b"")
    assert files.opened[0].closed


@pytest.mark.parametrize("kind", ["memory", "pipe", "object"])
def test_other_files_are_read_in_the_thread(kind: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"abc")
    os.close(writing)

    class Once:
        def __init__(self) -> None:
            self._left = [b"abc"]

        def read(self, size: int) -> bytes:
            return self._left.pop() if self._left else b""

    pipe = os.fdopen(reading, "rb")
    file: Any = {"memory": io.BytesIO(b"abc"), "pipe": pipe, "object": Once()}[kind]
    assert not FileWrapper(file).is_regular()

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped

    assert WsgiServer(application).get("/").body == b"abc"
    assert kind == "object" or file.closed
    pipe.close()


def test_rest_of_a_file_ends_at_its_length(path: Path) -> None:
    wrapper = FileWrapper(path.open("rb"))
    rest, whole = FileRest(wrapper, 3), path.read_bytes()
    assert [rest.read(2) for _ in range(3)] == [whole[:2], whole[2:3], b""]
    rest.close()
    assert wrapper.filelike.closed
