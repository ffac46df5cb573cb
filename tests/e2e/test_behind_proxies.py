"""The server behind nginx, Caddy, HAProxy and Apache, with the blocks of docs/proxies.md."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from websockets.asyncio.client import connect
from websockets.typing import Origin

from tests.e2e.blocks import block_with
from tests.e2e.lines import Lines
from tests.e2e.nginx import nginx
from tests.e2e.patience import PATIENCE, PATIENCE_MS
from tests.e2e.proxies import BLOCKS, NAME, PROXIES, Place, Proxy
from tests.e2e.server import Server, environment, free_port
from tests.e2e.test_browser import state
from tests.e2e.test_fallback import NO_STREAMS, PATIENT, REFUSED
from tests.e2e.visits import CHROMIUM

CONFIGURATION = BLOCKS["Trusted proxies"][0].text
KEY = tomllib.loads(CONFIGURATION)["auth"]["api_keys"][0]
CLIENT = "127.0.0.2"
"""The address of the clients; the proxies connect to the server from 127.0.0.1."""
TRANSPORT = {"": "websocket", REFUSED: "http_stream", NO_STREAMS: "sse"}


@dataclass(frozen=True)
class Site:
    """A proxy in front of `server`, which has a key, and of `keyless`, which has none."""

    proxy: Proxy
    place: Place
    server: Server
    keyless: Server


@pytest.fixture(scope="module")
def held() -> Iterator[socket.socket]:
    """A listening socket that stays open while the server restarts."""
    with socket.create_server(("127.0.0.1", free_port()), backlog=64) as held:
        yield held


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, held: socket.socket
) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "pushserver.toml").write_text(f"{CONFIGURATION}[sources]\n")
    (folder / "pages" / "below").mkdir(parents=True)
    (folder / "pages" / "below" / "index.html").write_text("<html>below</html>\n")
    env = environment(PUSHSERVER_SERVER_PAGES="pages")
    server = Server(folder, "--config=pushserver.toml", "--debug", env=env, held=held)
    keyless = Server(tmp_path_factory.mktemp("keyless"))
    try:
        yield server.start(), keyless.start()
        assert server.problems == keyless.problems == []
    finally:
        server.kill()
        keyless.kill()


@pytest.fixture(scope="module", params=PROXIES, ids=str)
def site(
    request: pytest.FixtureRequest, servers: tuple[Server, Server], held: socket.socket
) -> Iterator[Site]:
    proxy, (server, keyless) = request.param, servers
    port = server.port if proxy.waits else held.getsockname()[1]
    with proxy.run(port, keyless.port) as place:
        yield Site(proxy, place, server, keyless)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that knows the name, over http no trustworthy one: without Sec-Fetch-Site."""
    options = [*CHROMIUM.options, f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM.path, args=options)
        yield chromium
        chromium.close()


CURL = ("curl", "--silent", "--show-error", "--insecure", "--no-buffer", "--max-time", "60")


def curl(url: str, *options: str) -> Lines:
    """The lines of an answer, as they come."""
    return Lines([*CURL, "--interface", CLIENT, *options, url])


def ask(url: str, *options: str) -> tuple[int, str]:
    """Status and body of an answer."""
    command = [*CURL, "--interface", CLIENT, "--write-out", "\n%{http_code}", *options, url]
    body, _, status = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False
    ).stdout.rpartition("\n")
    return int(status), body


def line_with(lines: Lines, word: str) -> str:
    """The next line with this word."""
    while word not in (line := lines.next()):
        pass
    return line


@dataclass(frozen=True)
class Root:
    """A URL of the server's root, in one version of HTTP."""

    url: str
    version: str

    @property
    def origin(self) -> str:
        return "/".join(self.url.split("/")[:3])

    def ask(self, path: str, *options: str) -> tuple[int, str]:
        return ask(self.url + path, self.version, *options)

    def follow(self, path: str, *options: str) -> Lines:
        return curl(self.url + path, self.version, "--header", f"Origin: {self.origin}", *options)

    def publish(self, data: object) -> None:
        status, body = self.ask(
            "channels/talk", "--header", f"X-API-Key: {KEY}", "--data", json.dumps(data)
        )
        assert status == 201, body


@pytest.fixture(params=["http 1.1 /", "https 1.1 /push/", "https 2 /push/"])
def root(request: pytest.FixtureRequest, site: Site) -> Root:
    scheme, version, path = request.param.split()
    return Root(site.place.url(scheme, path), f"--http{version}")


class TestTheBlocks:
    def test_forward_pages_and_their_files(self, root: Root) -> None:
        files = set()
        for path, status in (("", 200), ("channels/talk", 200), ("no/such/page", 404)):
            code, page = root.ask(path, "--header", "Accept: text/html")
            assert (code, "<html" in page) == (status, True)
            linked = re.findall(r'(?:href|src)="([^"#]+\.(?:css|js|svg)(?:\?[^"]*)?)"', page)
            assert linked
            files |= {urljoin(root.url + path, file) for file in linked}
        assert all(file.startswith(root.url) for file in files)
        options = [option for file in files for option in ("--output", "/dev/null", "--url", file)]
        codes = subprocess.run(
            [*CURL, root.version, "--write-out", "%{http_code} ", *options],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.split()
        assert codes == ["200"] * len(files)

    def test_forward_paths_without_their_slash(self, root: Root) -> None:
        for url in (root.url[:-1], f"{root.url}below"):
            status, page = ask(url, root.version, "--location", "--header", "Accept: text/html")
            assert (status, "<html" in page) == (200, True), url

    @pytest.mark.parametrize("media", ["text/event-stream", "application/x-ndjson"])
    def test_forward_streams_as_they_come(self, root: Root, media: str) -> None:
        with closing(root.follow("channels/talk", "--header", f"Accept: {media}")) as stream:
            line_with(stream, '"epoch":')
            for word in ("one", "two"):
                root.publish(word)
                assert f'"data":"{word}"' in line_with(stream, '"data":')

    def test_forward_long_polls(self, root: Root) -> None:
        root.publish("before")
        cursor = json.loads(root.ask("channels/talk")[1])["id"]
        with closing(root.follow(f"channels/talk?since={cursor}&wait=15")) as poll:
            root.publish("awaited")
            assert '"data":"awaited"' in poll.next()

    @pytest.mark.parametrize("transport", ["sse", "http_stream"])
    def test_forward_the_fallbacks(self, root: Root, transport: str) -> None:
        connect = '{"id":1,"connect":{}}'
        if transport == "sse":
            options = ["--get", "--data-urlencode", f"cf_connect={connect}"]
        else:
            options = ["--data", connect]
        with closing(root.follow(f"connection/{transport}", *options)) as stream:
            reply = json.loads(stream.next().removeprefix("data: "))["connect"]
            emulated = {
                "session": reply["session"],
                "node": reply.get("node", ""),
                "data": '{"id":2,"subscribe":{"channel":"talk"}}',
            }
            origin = ("--header", f"Origin: {root.origin}")
            assert root.ask("emulation", *origin, "--data", json.dumps(emulated))[0] == 204
            line_with(stream, '"subscribe":')
            root.publish("emulated")
            assert '"data":"emulated"' in line_with(stream, '"push":')

    def test_forward_websockets(self, root: Root) -> None:
        url = root.url.replace("http", "ws", 1) + "channels/talk"
        tls = ssl.create_default_context() if url.startswith("wss") else None
        if tls is not None:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE

        # The client with threads reads and writes TLS at the same time, and may lose its request.
        async def watch() -> None:
            async with connect(url, origin=Origin(root.origin), ssl=tls, proxy=None) as stream:
                assert "subscribed" in json.loads(await stream.recv())
                root.publish("framed")
                assert json.loads(await stream.recv())["data"] == "framed"

        # Playwright has its loop in this thread.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, watch()).result(20)

    def test_let_no_foreign_page_in(self, root: Root) -> None:
        for origin in ("https://evil.example", f"{root.origin}1", "null"):
            for path in ("channels/talk", "events?channel=talk"):
                status, body = root.ask(path, "--header", f"Origin: {origin}")
                assert (status, "may not use" in body) == (403, True)

    def test_let_nobody_publish_without_a_key(self, root: Root) -> None:
        for path, body in (("channels/talk", "1"), ("api/info", "{}")):
            for headers in ((), ("--header", "X-Forwarded-For: 127.0.0.1")):
                status, answer = root.ask(path, "--data", body, *headers)
                assert (status, "an API key is needed" in answer) == (401, True)

    def test_pass_on_the_address_of_the_client(self, root: Root, site: Site) -> None:
        before = len(site.server.log)
        claimed = ("--header", "X-Forwarded-For: 1.1.1.1", "--header", "Forwarded: for=2.2.2.2")
        with closing(
            root.follow("channels/talk", "--header", "Accept: application/x-ndjson", *claimed)
        ) as stream:
            line_with(stream, '"epoch":')
        came = re.findall(r"(\S+) came by", site.server.log[before:])
        assert came == [CLIENT]


@contextmanager
def visit(browser: Browser, url: str, script: str = PATIENT) -> Iterator[tuple[Page, list[str]]]:
    """A page, and the transports that it has opened; it runs the script first."""
    context = browser.new_context(ignore_https_errors=True)
    try:
        context.add_init_script(script)
        page = context.new_page()
        opened: list[str] = []
        page.on("websocket", lambda socket: opened.append(socket.url))
        page.on("request", lambda request: opened.append(request.url))
        page.goto(url)
        yield page, opened
    finally:
        context.close()


def receives(page: Page, root: Root) -> str:
    """The page shows the next publication, which is returned."""
    shown = uuid4().hex
    root.publish(shown)
    expect(page.locator("#list li.newest")).to_contain_text(shown)
    return shown


@pytest.mark.parametrize("script", TRANSPORT, ids=TRANSPORT.values())
def test_the_page_is_live(site: Site, browser: Browser, script: str) -> None:
    root = Root(site.place.url("https", "/push/"), "--http2")
    with visit(browser, f"{root.url}channels/talk", PATIENT + script) as (page, opened):
        state(page, "live")
        receives(page, root)
        wanted = root.url + f"connection/{TRANSPORT[script]}"
        used = [url.replace("ws", "http", 1) if url.startswith("ws") else url for url in opened]
        assert any(url.startswith(wanted) for url in used), used


def test_nobody_sees_a_restart(site: Site, browser: Browser) -> None:
    """The page and an EventSource, which would stop for good at a 502, come back."""
    root = Root(site.place.url("https", "/"), "--http2")
    with visit(browser, f"{root.url}channels/talk") as (page, _):
        state(page, "live")
        page.evaluate(
            """() => {
                window.heard = [];
                window.subscribed = 0;
                window.source = new EventSource("talk");
                source.addEventListener("message", (event) => heard.push(event.data));
                source.addEventListener("pushserver-subscribed", () => (subscribed += 1));
                source.addEventListener("pushserver-reset", () => (subscribed += 1));
            }"""
        )
        page.wait_for_function("() => subscribed === 1")
        site.server.stop()
        with closing(root.follow("channels/talk?limit=1")) as waiting:
            site.server.start()
            assert '"channel":"talk"' in waiting.next()
        page.wait_for_function("() => subscribed >= 2", timeout=PATIENCE_MS)
        state(page, "live")
        shown = receives(page, root)
        page.wait_for_function("shown => heard.some((data) => data.includes(shown))", arg=shown)


def test_a_page_without_its_host_falls_back_where_browsers_say_same_origin(
    servers: tuple[Server, Server], browser: Browser, tmp_path: Path
) -> None:
    """They do so over https and at localhost, but not in the handshake of a WebSocket."""
    rules = f"location / {{ proxy_pass http://127.0.0.1:{servers[1].port}; }}"
    with (
        nginx(tmp_path, rules) as port,
        visit(browser, f"http://localhost:{port}/") as (page, opened),
    ):
        state(page, "live")
        assert any(url.endswith("/connection/http_stream") for url in opened)


class TestABareProxy:
    """Without the lines of the blocks, and a server without keys."""

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Host": "localhost"},
            {"Host": "localhost:8080", "Connection": "close, X-Forwarded-For, X-Forwarded-Host"},
            {"Host": "127.0.0.1", "X-Forwarded-For": ""},
            {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "::1", "Forwarded": "for=127.0.0.1"},
            {"X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "http", "Via": ""},
        ],
        ids=str,
    )
    def test_opens_nothing(self, site: Site, headers: dict[str, str]) -> None:
        if os.geteuid() != 0 and site.proxy.name == "HAProxy":
            # Without its own user, and a header, it looks like any program of this user.
            return
        options = [text for field in headers.items() for text in ("--header", ": ".join(field))]
        url = site.place.url("bare")
        for path, body in {
            "channels/secret": 1,
            "api/publish": {"channel": "secret", "data": 1},
            "api/disconnect": {"user": ""},
            "api/history_remove": {"channel": "numbers"},
            "api/batch": {"commands": [{"publish": {"channel": "secret", "data": 1}}]},
        }.items():
            status, answer = ask(url + path, "--data", json.dumps(body), *options)
            assert status in (401, 403), (path, status, answer)
        assert ask(f"{url}status?channel=numbers", *options)[0] == 403

    def test_has_a_page_that_says_what_is_missing(self, site: Site, browser: Browser) -> None:
        url = site.place.url("bare", host=NAME)
        host = url.split("/")[2]
        # Behind nginx it waits in vain for the answer to a command.
        script = "" if site.proxy.name == "nginx" else PATIENT
        with visit(browser, url, script) as (page, opened):
            reason = page.locator("body")
            if site.proxy.name == "nginx":
                expect(reason).to_contain_text("the server answered 403")
                expect(reason).to_contain_text(f"has to send Host: {host}")
                expect(reason).to_contain_text(f"http://127.0.0.1:{site.keyless.port}")
            elif site.proxy.name == "HAProxy":
                expect(reason).to_contain_text(f"'{host}' is not a name of this server")
                expect(reason).to_contain_text("let the proxy send X-Forwarded-For")
            else:
                state(page, "live")
                streamed = any("http_stream" in url for url in opened)
                assert streamed == (site.proxy.name == "Apache")
            assert "in time" not in reason.inner_text()


def test_a_page_of_a_rebound_name_cannot_pass_for_a_proxy(
    servers: tuple[Server, Server], browser: Browser
) -> None:
    """A browser sends no Via for a page; the other headers do not count with the server's port."""
    _, server = servers
    with visit(browser, f"http://{NAME}:{server.port}/channels/numbers") as (page, _):
        expect(page.locator("body")).to_contain_text("is not a name of this server")
        for name in ("Via", "X-Client-IP", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded"):
            status = page.evaluate(
                """async (name) => {
                    const headers = { [name]: "localhost", Accept: "application/json" };
                    return (await fetch("numbers", { headers })).status;
                }""",
                name,
            )
            assert status == 403, name


def test_balancers_of_the_document_are_configurations(tmp_path: Path) -> None:
    haproxy, nginx, caddy = (
        block_with("docs/scaling.md", "# HAProxy: ").text,
        block_with("docs/scaling.md", "# nginx: ").text,
        block_with("docs/scaling.md", "# Caddy: ").text,
    )
    times = "\n".join(f"    timeout {name} 75s" for name in ("connect", "client", "server"))
    front = "frontend push\n    bind 127.0.0.1:8099\n    default_backend pushserver\n"
    server = "server { listen 127.0.0.1:8099; location / { proxy_pass http://pushserver; } }"
    (tmp_path / "haproxy.cfg").write_text(f"defaults\n    mode http\n{times}\n{front}{haproxy}")
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {nginx} {server} }}"
    )
    (tmp_path / "Caddyfile").write_text(f":8099 {{\n{caddy}}}\n")
    path = f"{os.environ['PATH']}:/usr/sbin"
    for command in (
        "haproxy -c -f haproxy.cfg",
        f"nginx -t -p {tmp_path} -c nginx.conf -e stderr",
        "caddy adapt --config Caddyfile --validate",
    ):
        ended = subprocess.run(
            command.split(),
            cwd=tmp_path,
            env={"PATH": path, "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr


SNIPPET = BLOCKS["nginx"][0].text
MAP, _, _ = BLOCKS["nginx"][1].text.partition("server {")


def without(*words: str) -> str:
    """The lines of the block for nginx that have none of these words."""
    assert all(word in SNIPPET for word in words)
    lines = SNIPPET.splitlines()
    return "\n".join(line for line in lines if not any(word in line for word in words))


class TestTheTableOfNginx:
    """What one sees without a line of the block."""

    @pytest.mark.parametrize(
        ("lines", "host", "scheme", "status", "words"),
        [
            pytest.param(SNIPPET, f"{NAME}:8443", "http", 101, "", id="nothing"),
            pytest.param(
                without("http_version", "Upgrade", "Connection"),
                NAME,
                "http",
                426,
                "a proxy has to pass Upgrade on",
                id="Upgrade",
            ),
            pytest.param(
                without("http_version"), NAME, "http", 400, "proxy_http_version 1.1", id="version"
            ),
            pytest.param(
                without("Connection"), NAME, "http", 400, "expected Upgrade", id="Connection"
            ),
            pytest.param(
                without("Host"), NAME, "http", 403, f"has to send Host: {NAME}", id="Host"
            ),
            pytest.param(
                SNIPPET.replace("$http_host", "$host"),
                f"{NAME}:8443",
                "http",
                403,
                f"has to send Host: {NAME}:8443",
                id="port",
            ),
            pytest.param(
                without("X-Forwarded-Proto"),
                NAME,
                "https",
                403,
                "has to send X-Forwarded-Proto: https",
                id="scheme",
            ),
            pytest.param(
                without("X-Forwarded-Proto", "X-Forwarded-For"),
                NAME,
                "http",
                403,
                f"'{NAME}' is not a name of this server",
                id="both",
            ),
        ],
    )
    def test_is_true(
        self,
        servers: tuple[Server, Server],
        tmp_path: Path,
        lines: str,
        host: str,
        scheme: str,
        status: int,
        words: str,
    ) -> None:
        rules = f"location / {{ proxy_pass http://127.0.0.1:{servers[1].port}; {lines} }}"
        headers = {
            "Host": host,
            "Origin": f"{scheme}://{host}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        with nginx(tmp_path, rules, MAP) as port:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            with closing(connection):
                connection.request("GET", "/connection/websocket", headers=headers)
                answer = connection.getresponse()
                assert answer.status == status
                assert words in answer.read().decode()
