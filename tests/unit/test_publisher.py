from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from pushserver import PublishError, publish

POSITION = {"offset": 1, "epoch": "e", "id": "e:1"}


class Listener:
    """A server that answers each request with the next of its answers."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[dict[str, Any]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.requests.append({"path": self.path, "body": body, "headers": self.headers})
                status, answer = listener.answers.pop(0)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing to say."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Pauses(list[float]):
    """How long was waited between tries; nobody waits here."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    found = Pauses()
    monkeypatch.setattr("pushserver.publisher.time.sleep", found.append)
    return found


def taken() -> tuple[int, bytes]:
    return 201, json.dumps(POSITION).encode()


def refused(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": {"code": status, "message": message}}).encode()


CUT: tuple[int, bytes] = (0, b"")


def test_a_publication_is_one_post_to_the_channels_url(listener: Listener) -> None:
    listener.answers = [taken()]
    assert publish(listener.url, "numbers", {"number": 3, "ü": [None]}) == POSITION
    [request] = listener.requests
    assert request["path"] == "/channels/numbers?event=message"
    assert json.loads(request["body"]) == {"number": 3, "ü": [None]}
    assert request["headers"]["Content-Type"] == "application/json"
    assert len(request["headers"]["Idempotency-Key"]) == 32
    assert "X-API-Key" not in request["headers"]


def test_the_event_the_key_and_a_path_before_the_channel_go_with_it(listener: Listener) -> None:
    listener.answers = [taken()]
    publish(f"{listener.url}/live/", "chat:a b", 1, event="grün & neu", key="s3cret")
    [request] = listener.requests
    assert request["path"] == "/live/channels/chat%3Aa%20b?event=gr%C3%BCn+%26+neu"
    assert request["headers"]["X-API-Key"] == "s3cret"


def test_each_publication_has_a_key_of_its_own(listener: Listener) -> None:
    listener.answers = [taken(), taken()]
    publish(listener.url, "a", 1)
    publish(listener.url, "a", 1)
    assert len({request["headers"]["Idempotency-Key"] for request in listener.requests}) == 2


@pytest.mark.parametrize("trouble", [CUT, refused(503, "the server is shutting down")])
def test_trouble_that_may_pass_is_tried_again_with_the_same_key(
    listener: Listener, pauses: Pauses, trouble: tuple[int, bytes]
) -> None:
    listener.answers = [trouble, trouble, trouble, taken()]
    assert publish(listener.url, "a", 1) == POSITION
    assert len({request["headers"]["Idempotency-Key"] for request in listener.requests}) == 1
    assert len(listener.requests) == 4
    assert pauses == [0.2, 1.0, 3.0]


def test_trouble_that_lasts_is_told(listener: Listener, pauses: Pauses) -> None:
    listener.answers = [refused(503, "the store failed: disk full")] * 4
    with pytest.raises(PublishError, match=r"^503: the store failed: disk full$"):
        publish(listener.url, "a", 1)
    assert len(pauses) == 3


def test_a_server_that_is_not_there_is_told_with_its_name(pauses: Pauses) -> None:
    with socket.socket() as taken_port:
        taken_port.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken_port.getsockname()[1]}"
        with pytest.raises(PublishError, match=rf"^{host}: .*refused"):
            publish(f"http://{host}", "a", 1)
    assert len(pauses) == 3


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (*refused(401, "the API key is not one of auth.api_keys"), "401: the API key is not one"),
        (*refused(400, "invalid channel name"), "400: invalid channel name"),
        (404, b"<html>", "404 Not Found"),
        (500, b'{"error": 5}', "500 Internal Server Error"),
        (500, b"[]", "500 Internal Server Error"),
        (200, b"<html>", "gave no answer of pushserver"),
    ],
)
def test_a_refusal_is_told_at_once(
    listener: Listener, pauses: Pauses, status: int, answer: bytes, message: str
) -> None:
    listener.answers = [(status, answer)]
    with pytest.raises(PublishError) as caught:
        publish(listener.url, "a", 1)
    assert message in str(caught.value)
    assert pauses == []


class Loop:
    """Contains itself."""

    data: ClassVar[list[Any]] = []


Loop.data.append(Loop.data)


@pytest.mark.parametrize(
    "data", [float("nan"), float("inf"), {object()}, object(), Loop.data, b"x"]
)
def test_data_that_json_cannot_hold_is_told_before_anything_is_sent(data: object) -> None:
    with pytest.raises(PublishError, match="does not fit into JSON"):
        publish("http://127.0.0.1:1", "a", data)


@pytest.mark.parametrize(
    ("data", "text"), [({1}, b"[1]"), ({"when": date(2026, 11, 20)}, b'{"when":"2026-11-20"}')]
)
def test_what_an_application_may_publish_a_script_may_too(
    data: object, text: bytes, listener: Listener
) -> None:
    listener.answers = [(200, json.dumps(POSITION).encode())]
    publish(listener.url, "a", data)
    assert listener.requests[0]["body"] == text


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://localhost", "file:///etc/passwd", "", "http://[::1", "/x"]
)
def test_a_url_that_is_none_is_told(url: str, pauses: Pauses) -> None:
    with pytest.raises(PublishError) as caught:
        publish(url, "a", 1)
    assert url in str(caught.value)
    assert pauses == []


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://a b/"])
def test_a_url_without_a_host_is_told_at_once(url: str, pauses: Pauses) -> None:
    with pytest.raises(PublishError):
        publish(url, "a", 1)
    assert pauses == []


@pytest.mark.parametrize("key", ["€", "a\nb"])
def test_a_key_that_no_header_holds_is_told(key: str, listener: Listener) -> None:
    with pytest.raises(PublishError):
        publish(listener.url, "a", 1, key=key)
    assert listener.requests == []


def test_the_standard_library_is_all_it_takes() -> None:
    program = (
        "import sys, pushserver\n"
        "try: pushserver.publish('nowhere', 'a', 1)\n"
        "except pushserver.PublishError: print('told')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    told, modules = ended.stdout.splitlines()
    assert told == "told"
    assert "pushserver" in modules.split()
    others = {"attr", "autobahn", "jinja2", "msgspec", "twisted", "txaio", "zope"}
    assert not others & set(modules.split())
