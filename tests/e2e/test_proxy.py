"""An nginx on the same machine: its clients do not count as programs of this machine."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.e2e.nginx import nginx
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, free_port, running

KEY = "s3cret"
BARE = "location / {{ proxy_pass http://127.0.0.1:{port}/; }}"
HTTP_1_1 = """
location / {{
    proxy_pass http://127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    {more}
}}
"""
DESTRUCTIVE = {
    "disconnect": {"user": ""},
    "unsubscribe": {"user": "", "channel": "numbers"},
    "history_remove": {"channel": "numbers"},
    "batch": {"commands": [{"history_remove": {"channel": "numbers"}}]},
}


def ask(
    port: int, path: str, method: str = "GET", body: object = None, **headers: str
) -> tuple[int, Any]:
    """Status and body of the answer; `_` in the name of a header stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, fields)
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if text.startswith("{") else text
    finally:
        connection.close()


@contextmanager
def behind(folder: Path, rules: str, *arguments: str, **more: str) -> Iterator[tuple[Server, int]]:
    """A server behind an nginx, and the port of that."""
    server = Server(folder, *arguments)
    try:
        server.start()
        with nginx(folder, rules.format(port=server.port, **more)) as port:
            yield server, port
        assert "Traceback" not in server.log
    finally:
        server.kill()


@pytest.fixture
def keyed(tmp_path: Path) -> str:
    """The options of a server with a key."""
    (tmp_path / "keys.toml").write_text(f'[auth]\napi_keys = ["{KEY}"]\n')
    return "--config=keys.toml"


def refused_without_a_key(port: int, **headers: str) -> None:
    """Publishing and destructive methods of the API are refused."""
    before = ask(port, "/channels/numbers?since=oldest", x_api_key=KEY, **headers)[1]["offset"]
    assert ask(port, "/channels/talk", "POST", 1, **headers)[0] == 401
    for method, body in DESTRUCTIVE.items():
        assert ask(port, f"/api/{method}", "POST", body, **headers)[0] == 401, method
    assert ask(port, "/api/publish", "POST", {"channel": "talk", "data": 1}, **headers)[0] == 401
    assert ask(port, "/status?channel=numbers", **headers)[0] == 403
    status, talk = ask(port, "/channels/talk", **headers)
    assert (status, talk["offset"]) == (200, 0)
    after = ask(port, "/channels/numbers?since=oldest", **headers)[1]
    assert after["offset"] >= before
    assert len(after["publications"]) == after["offset"]


@pytest.mark.parametrize("rules", [BARE, HTTP_1_1], ids=["bare", "http 1.1"])
def test_a_server_with_a_key_needs_it(tmp_path: Path, keyed: str, rules: str) -> None:
    with behind(tmp_path, rules, keyed, more="") as (server, port):
        refused_without_a_key(port)
        refused_without_a_key(port, Host="localhost")
        # Nor without the proxy: requests through it look the same.
        refused_without_a_key(server.port)
        assert ask(port, "/channels/talk", "POST", 1, x_api_key=KEY)[0] == 201
        assert ask(port, "/api/disconnect", "POST", {"user": ""}, x_api_key=KEY)[0] == 200


def test_a_bare_proxy_opens_nothing_without_a_key(tmp_path: Path) -> None:
    with behind(tmp_path, BARE) as (server, port):
        refused_without_a_key(port)
        assert ask(port, "/", accept="text/html")[0] == 200
        assert ask(server.port, "/channels/talk", "POST", 1)[0] == 201
        assert server.log.count("a proxy on this machine forwards requests (HTTP/1.0)") == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:80"])
@pytest.mark.parametrize("more", ["", "proxy_set_header Host $http_host;"])
def test_a_proxy_is_recognized_by_its_user_without_a_key(
    tmp_path: Path, host: str, more: str
) -> None:
    """It sends no header of its own, and its clients choose the Host."""
    with behind(tmp_path, HTTP_1_1, more=more) as (_, port):
        if os.geteuid() == 0:
            refused_without_a_key(port, Host=host)
        else:
            # A proxy that runs as the user of the server looks like any program of that user.
            assert ask(port, "/channels/talk", "POST", 1, Host=host)[0] == 201


def test_a_declared_proxy_may_forward_any_host(tmp_path: Path) -> None:
    more = (
        "proxy_set_header Host $http_host;"
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    )
    with behind(tmp_path, HTTP_1_1, more=more) as (_, port):
        assert ask(port, "/channels/numbers", Host="push.example")[0] == 200
        refused_without_a_key(port, Host="push.example")
        refused_without_a_key(port, Host="localhost")


def test_an_undeclared_proxy_needs_the_names_of_the_server(tmp_path: Path) -> None:
    more = "proxy_set_header Host $http_host;"
    with behind(tmp_path, HTTP_1_1, more=more) as (server, port):
        status, answer = ask(port, "/channels/numbers", Host="push.example")
        assert (status, "server.names" in answer["error"]["message"]) == (403, True)
        assert "'push.example' is not a name of this server" in server.log
    (tmp_path / "names.toml").write_text('[server]\nnames = ["push.example"]\n')
    with behind(tmp_path, HTTP_1_1, "--config=names.toml", more=more) as (_, port):
        assert ask(port, "/channels/numbers", Host="push.example")[0] == 200


def test_a_setting_exempts_programs_on_this_machine_from_the_key(tmp_path: Path) -> None:
    (tmp_path / "local.toml").write_text(
        f'[auth]\napi_keys = ["{KEY}"]\nlocal_without_key = true\n'
    )
    with behind(tmp_path, BARE, "--config=local.toml") as (server, port):
        assert ask(server.port, "/channels/talk", "POST", 1)[0] == 201
        assert ask(server.port, "/api/history_remove", "POST", {"channel": "talk"})[0] == 200
        assert ask(port, "/channels/talk", "POST", 1)[0] == 401


def test_a_program_of_this_user_needs_no_key_if_none_is_configured(tmp_path: Path) -> None:
    with running(Server(tmp_path)) as server:
        assert ask(server.port, "/channels/talk", "POST", 1)[0] == 201
        for method, body in DESTRUCTIVE.items():
            assert ask(server.port, f"/api/{method}", "POST", body)[0] == 200, method


@pytest.mark.parametrize(("location", "uri"), [("/", ""), ("/push/", ":/")])
def test_a_proxy_may_use_a_unix_socket(tmp_path: Path, location: str, uri: str) -> None:
    (tmp_path / "unix.toml").write_text('[server]\ntrusted_proxies = ["unix"]\n')
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        listen = f"unix:{folder}/socket:mode=666"
        server = Server(tmp_path, "--debug", "--config=unix.toml", "--listen", listen)
        headers = {
            "Host": "$http_host",
            "X-Forwarded-For": "$proxy_add_x_forwarded_for",
            "X-Forwarded-Proto": "https",
        }
        lines = [f"proxy_set_header {name} {value};" for name, value in headers.items()]
        rules = " ".join([f"proxy_pass http://unix:{folder}/socket{uri};", *lines])
        with running(server), nginx(tmp_path, f"location {location} {{ {rules} }}") as port:
            path = f"{location}channels/talk"
            assert ask(port, path, Host="push.example", Origin="http://push.example")[0] == 403
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as client:
                page = {"Host": "push.example", "Origin": "https://push.example"}
                stream = {"Accept": "text/event-stream", "X-Forwarded-For": "1.1.1.1"}
                client.request("GET", path, headers=page | stream)
                assert client.getresponse().readline()
            assert re.findall(r"(\S+) came by", server.log) == ["127.0.0.1"]


def test_the_proxy_protocol_gives_the_address_of_the_client(tmp_path: Path) -> None:
    """As of HAProxy with `send-proxy`, which the document mentions."""
    port = free_port()
    listen = f"haproxy:tcp:{port}:interface=127.0.0.1"
    with running(Server(tmp_path, "--debug", "--listen", listen)) as server:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as through:
            through.sendall(b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 80\r\n")
            url = f"ws://push.example:{port}/channels/numbers"
            with connect(url, sock=through, origin=Origin(f"http://push.example:{port}")) as stream:
                assert "subscribed" in json.loads(stream.recv(PATIENCE))
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as through:
            through.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 80\r\n")
            through.sendall(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\n")
            through.sendall(b"Content-Length: 1\r\nConnection: close\r\n\r\n1")
            answer = b"".join(iter(lambda: through.recv(4096), b""))
        assert re.search(r"203\.0\.113\.7:4711 came by websocket", server.log)
        # Nobody owns the claimed connection: it is no local program's.
        assert answer.startswith(b"HTTP/1.1 401")
