"""A server that answers scripts as the test says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.http_server import HttpServer, Quiet


class Answer(NamedTuple):
    """An answer; an endless one repeats its body without a length."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    endless: bool = False


class Listener(HttpServer):
    """A server that answers each request with the next of its answers."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes] | Answer] = []
        self.requests: list[dict[str, Any]] = []
        listener = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                request = {"path": self.path, "body": body, "headers": self.headers}
                listener.requests.append(request)
                answer = Answer(*listener.answers.pop(0))
                if not answer.status:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                if not answer.endless and "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)
                with suppress(OSError):
                    while answer.endless:
                        self.wfile.write(answer.body)

            do_GET = do_POST

        super().__init__(Handler)


def refused(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": {"code": status, "message": message}}).encode()
