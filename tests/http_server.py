"""An HTTP server in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any


class Quiet:
    """Keeps a request handler from writing to stderr."""

    def log_message(self, format: str, *arguments: object) -> None: ...


class HttpServer:
    """Listens on loopback from the beginning, until `close`."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
