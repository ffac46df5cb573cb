"""Sources that use HTTP, in a real server, with other real servers."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pushserver import publish
from tests.e2e.lines import Lines
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server
from tests.http_server import HttpServer, Quiet

ATOM = """<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <title>Notes</title><id>urn:notes</id><updated>2026-11-04T18:30:02Z</updated>
  <entry>
    <id>urn:notes:1</id><title>First</title><updated>2026-11-03T18:30:02Z</updated>
    <link href="first"/><summary type="html">&lt;p&gt;Once &lt;b&gt;more&lt;/b&gt;</summary>
  </entry>
</feed>
"""


class Pages(HttpServer):
    """A web server; `requests` has the headers of each request."""

    def __init__(self) -> None:
        self.bodies: dict[str, tuple[str, bytes]] = {}
        self.requests: list[dict[str, str]] = []
        pages = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pages.requests.append({n.lower(): v for n, v in self.headers.items()})
                media, body = pages.bodies[self.path]
                tag = f'"{hashlib.sha256(body).hexdigest()}"'
                if self.headers["If-None-Match"] == tag:
                    self.send_response(304)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", media)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", tag)
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)


@pytest.fixture
def pages() -> Iterator[Pages]:
    with closing(Pages()) as pages:
        yield pages


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts servers with a configuration; problems in their logs fail the test."""
    servers: list[Server] = []

    def start(config: str) -> Server:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        (folder / "config.toml").write_text(config)
        server = Server(folder, "--config", "config.toml")
        servers.append(server)
        return server.start()

    try:
        yield start
        for server in servers:
            if server.running:
                server.stop()
            assert server.problems == []
    finally:
        for server in servers:
            server.kill()


def watch(server: Server, channel: str) -> Lines:
    """Return a reader of all publications of a channel, one JSON text a line."""
    return Lines(
        [
            "curl",
            "-sSN",
            "-H",
            "Accept: application/x-ndjson",
            f"{server.url}channels/{channel}?since=oldest",
        ]
    )


def data(lines: Lines, count: int) -> list[Any]:
    """Return the data of the next `count` publications."""
    result: list[Any] = []
    while len(result) < count:
        text = lines.next()
        value = json.loads(text) if text.strip() else {}
        if "data" in value:
            result.append(value["data"])
    return result


def post(server: Server, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    """Send a POST as another service would."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with closing(connection):
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, json.load(response)


def test_poll_publishes_changes(start: Any, pages: Pages) -> None:
    pages.bodies["/weather"] = ("application/json", b'{"now": {"temp": 7.5}, "at": 1}')
    server = start(
        "[sources.weather]\ntype = 'poll'\nchannel = 'weather'\n"
        f"url = '{pages.url}/weather'\npath = '/now/temp'\nevery = 0.05\n"
        "headers = { X-Key = 's3cret' }\n"
    )
    with closing(watch(server, "weather")) as lines:
        assert data(lines, 1) == [7.5]
        pages.bodies["/weather"] = ("application/json", b'{"now": {"temp": 8}, "at": 2}')
        assert data(lines, 1) == [8]
    assert pages.requests[0]["x-key"] == "s3cret"
    assert any("if-none-match" in request for request in pages.requests)


def test_feed_publishes_new_entries(start: Any, pages: Pages) -> None:
    pages.bodies["/notes"] = ("application/atom+xml", ATOM.encode())
    server = start(
        "[sources.notes]\ntype = 'feed'\nchannel = 'notes'\n"
        f"url = '{pages.url}/notes'\nevery = 0.05\n"
    )
    with closing(watch(server, "notes")) as lines:
        assert data(lines, 1) == [
            {
                "id": "urn:notes:1",
                "title": "First",
                "link": f"{pages.url}/first",
                "summary": "Once more",
                "published": "2026-11-03T18:30:02Z",
                "author": "",
                "feed": "Notes",
            }
        ]
        second = ATOM.replace("notes:1", "notes:2").replace("First", "Second")
        pages.bodies["/notes"] = ("application/atom+xml", second.encode())
        assert data(lines, 1)[0]["title"] == "Second"


def test_stream_continues_after_a_restart_of_either_server(start: Any) -> None:
    remote = start("[sources]\n[store]\npath = 'remote.db'\ndurability = 'sync'\n")
    mirror = start(
        "[store]\npath = 'mirror.db'\ndurability = 'sync'\n"
        "[sources.mirror]\ntype = 'sse'\nchannel = 'copies'\nretry_seconds = 0.05\n"
        f"url = '{remote.url}channels/originals?since=oldest'\n"
    )
    url = remote.url.rstrip("/")

    def copies(*numbers: int) -> None:
        with closing(watch(mirror, "copies")) as lines:
            assert [copy["data"] for copy in data(lines, len(numbers))] == list(numbers)

    publish(url, "originals", 1)
    copies(1)
    mirror.stop()
    for number in (2, 3):
        publish(url, "originals", number)
    mirror.start()
    copies(1, 2, 3)
    remote.stop()
    remote.start()
    for number in (4, 5):
        publish(url, "originals", number)
    copies(1, 2, 3, 4, 5)


def test_webhook_accepts_signed_requests(start: Any) -> None:
    secret = b"It's a Secret to Everybody"
    server = start(
        "[sources.pushes]\ntype = 'webhook'\nchannel = 'pushes'\nsignature = 'hub-sha256'\n"
        f'secret = "{secret.decode()}"\n'
        "event_header = 'X-GitHub-Event'\nid_header = 'X-GitHub-Delivery'\n"
    )
    body = b'{"ref": "refs/heads/main"}'
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature-256": f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}",
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-Forwarded-For": "192.0.2.7",
        "Host": "hooks.example",
    }
    status, answer = post(server, "/hooks/pushes", body, headers)
    assert status == 201
    assert post(server, "/hooks/pushes", body, headers) == (201, answer)
    status, answer = post(server, "/hooks/pushes", body + b" ", headers)
    assert status == 401
    assert "does not fit the body" in answer["error"]["message"]
    assert post(server, "/hooks/nothing", body, headers)[0] == 404
    history = json.loads(server.get("channels/pushes").body)
    assert [(p["event"], p["data"]) for p in history["publications"]] == [
        ("push", {"ref": "refs/heads/main"})
    ]
