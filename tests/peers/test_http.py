"""HTTP clients that publish and read: `requests`, `httpx`, `aiohttp`, and fetch of Node."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from tests.e2e.exchange import data, history
from tests.e2e.server import Server

VALUE = {"text": "Grüße 🎉", "n": 1.5}


def in_aiohttp(use: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
    """Run one coroutine function with a session."""

    async def run() -> Any:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            return await use(session)

    return asyncio.run(run())


def pieces() -> Iterator[bytes]:
    """A body without a known length, which is sent in chunks."""
    for piece in json.dumps(VALUE).partition(","):
        yield piece.encode()


async def late_pieces() -> AsyncIterator[bytes]:
    for piece in pieces():
        await asyncio.sleep(0)
        yield piece


Publish = Callable[[str], Any]


def aiohttp_post(**options: Any) -> Publish:
    def publish(url: str) -> None:
        async def post(session: aiohttp.ClientSession) -> None:
            made = {name: value() if callable(value) else value for name, value in options.items()}
            async with session.post(url, **made) as response:
                assert response.status == 201

        in_aiohttp(post)

    return publish


WAYS: dict[str, Publish] = {
    "requests, json": lambda url: requests.post(url, json=VALUE, timeout=60),
    "requests, data": lambda url: requests.post(url, data=json.dumps(VALUE).encode(), timeout=60),
    "requests, generator": lambda url: requests.post(url, data=pieces(), timeout=60),
    "requests, file": lambda url: requests.post(
        url, data=io.BytesIO(json.dumps(VALUE).encode()), timeout=60
    ),
    "httpx, json": lambda url: httpx.post(url, json=VALUE, timeout=60),
    "httpx, content": lambda url: httpx.post(url, content=json.dumps(VALUE), timeout=60),
    "httpx, generator": lambda url: httpx.post(url, content=pieces(), timeout=60),
    "aiohttp, json": aiohttp_post(json=VALUE),
    "aiohttp, data": aiohttp_post(data=json.dumps(VALUE)),
    "aiohttp, generator": aiohttp_post(data=late_pieces),
    "aiohttp, after 100-continue": aiohttp_post(json=VALUE, expect100=True),
    "aiohttp, chunked after 100-continue": aiohttp_post(data=late_pieces, expect100=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_value_is_published_in_each_way(server: Server, way: str) -> None:
    channel = f"way.{list(WAYS).index(way)}"
    answer = WAYS[way](f"{server.url}channels/{channel}")
    assert answer is None or answer.status_code == 201
    assert data(history(server, channel)) == [VALUE]


FORM = {"a": "1", "b": "ü"}


def test_form_is_published_as_its_text_and_a_file_is_refused(server: Server) -> None:
    url = f"{server.url}channels/form"
    assert requests.post(url, data=FORM, timeout=60).status_code == 201
    assert httpx.post(url, data=FORM, timeout=60).status_code == 201
    assert data(history(server, "form")) == ["a=1&b=%C3%BC"] * 2
    for refused in (
        requests.post(url, files={"file": b"x"}, timeout=60),
        httpx.post(url, files={"file": b"x"}, timeout=60),
        requests.post(url, data=b"x", headers={"Content-Encoding": "gzip"}, timeout=60),
    ):
        assert refused.status_code == 415
        assert "is not understood" in refused.json()["error"]["message"]


REQUESTS = [
    ("POST", "channels/kept-alive", 201),
    ("GET", "channels/kept-alive", 200),
    ("HEAD", "channels/kept-alive", 200),
    ("GET", "nowhere", 404),
    ("DELETE", "channels/kept-alive", 405),
    ("OPTIONS", "channels/kept-alive", 405),
    ("GET", "channels/no%20spaces", 400),
    ("GET", "static/app.css", 200),
    ("POST", "emulation", 400),
    ("POST", "api/info", 200),
    ("GET", "channels/kept-alive?wait=1&since=oldest", 200),
    ("GET", "connection/websocket", 426),
]


def test_one_connection_serves_requests_of_all_kinds(server: Server) -> None:
    """The answers have the lengths that they say, also those without a body."""
    with requests.Session() as session, httpx.Client(timeout=60) as client:
        for _ in range(3):
            for method, path, status in REQUESTS:
                body = b"1" if method == "POST" and path != "api/info" else None
                answer = session.request(method, server.url + path, data=body, timeout=60)
                other = client.request(method, server.url + path, content=body)
                assert (answer.status_code, other.status_code) == (status, status), (method, path)
        pools: Any = session.adapters["http://"].poolmanager.pools  # type: ignore[attr-defined]
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118
        [connection] = client._transport._pool.connections  # type: ignore[attr-defined]
        assert f"Request Count: {3 * len(REQUESTS)}" in connection.info()


def test_requests_at_the_same_time_on_several_connections(server: Server) -> None:
    async def all_at_once(session: aiohttp.ClientSession) -> list[int]:
        async def post(n: int) -> int:
            async with session.post(f"{server.url}channels/crowd", json=n) as response:
                answer = await response.json()
                assert isinstance(answer["offset"], int)
                return int(answer["offset"])

        return await asyncio.gather(*(post(n) for n in range(100)))

    assert sorted(in_aiohttp(all_at_once)) == list(range(1, 101))
    assert sorted(data(history(server, "crowd"))) == list(range(100))


def test_client_behind_a_forward_proxy_names_the_whole_url(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy passes on the target of a request as it came; here the server is the proxy, too."""
    url = f"{server.url}channels/proxied"
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    assert requests.post(url, json=1, timeout=60).status_code == 201
    assert httpx.post(url, json=2, timeout=60).status_code == 201

    async def post(session: aiohttp.ClientSession) -> None:
        async with session.post(url, json=3, proxy=server.url) as response:
            assert response.status == 201

    in_aiohttp(post)
    assert requests.get(url, timeout=60).json()["channel"] == "proxied"
    monkeypatch.delenv("http_proxy")
    assert data(history(server, "proxied")) == [1, 2, 3]


NAMES = ["chat:lobby", "user@example.com", "a.b-c_d", "0", "x" * 128]
WRONG = ["café", "日本", "a b", "a/b", "a%2Fb", "-a", "🎉", "x" * 129, "a\u0301"]


@pytest.mark.parametrize("get", [requests.get, httpx.get], ids=["requests", "httpx"])
class TestNamesOfChannels:
    def test_are_found_however_they_are_quoted(self, server: Server, get: Any) -> None:
        for name in NAMES:
            quoted = "".join(f"%{ord(character):02X}" for character in name)
            for text in (name, quoted):
                answer = get(f"{server.url}channels/{text}", timeout=60)
                assert answer.json()["channel"] == name

    def test_are_refused_with_the_rule(self, server: Server, get: Any) -> None:
        for name in WRONG:
            answer = get(f"{server.url}channels/{name}", timeout=60)
            assert answer.status_code == (404 if name == "a/b" else 400), name
            if name != "a/b":
                assert "1 to 128 characters" in answer.json()["error"]["message"]


def test_long_poll_ends_before_the_time_limit_of_its_client(server: Server) -> None:
    url = f"{server.url}channels/waiting?since=now&wait=1"
    assert httpx.get(url, timeout=60).json()["publications"] == []


NODE = """
const [url] = process.argv.slice(1);
const say = async (answer) => console.log(JSON.stringify([answer.status, await answer.text()]));
await say(await fetch(url, { method: 'POST', body: 'text' }));
await say(await fetch(url, { method: 'POST', body: new URLSearchParams({ a: 'ü' }) }));
const number = new Blob(['7'], { type: 'application/json' });
await say(await fetch(url, { method: 'POST', body: number }));
const body = new Blob(['{"n":', '8}']).stream();
await say(await fetch(url, { method: 'POST', body, duplex: 'half' }));
const form = new FormData();
form.set('a', 'b');
await say(await fetch(url, { method: 'POST', body: form }));
"""


def test_fetch_of_node_publishes_each_kind_of_body(server: Server) -> None:
    result = subprocess.run(
        ["node", "--input-type=module", "-e", NODE, f"{server.url}channels/fetched"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    statuses = [json.loads(line)[0] for line in result.stdout.splitlines()]
    assert statuses == [201, 201, 201, 201, 415]
    assert data(history(server, "fetched")) == ["text", "a=%C3%BC", 7, {"n": 8}]
