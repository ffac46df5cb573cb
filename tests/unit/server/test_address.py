from __future__ import annotations

import pytest
from twisted.internet.endpoints import serverFromString

from pushserver.server.address import endpoint_text, host_and_port
from tests.unit.fakes.web import memory_reactor


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("8081", "tcp:8081:interface=127.0.0.1"),
        ("0", "tcp:0:interface=127.0.0.1"),
        ("65535", "tcp:65535:interface=127.0.0.1"),
        ("127.0.0.1:8081", "tcp:8081:interface=127.0.0.1"),
        ("0.0.0.0:80", "tcp:80:interface=0.0.0.0"),
        ("[::1]:8081", r"tcp:8081:interface=\:\:1"),
        ("[::]:8081", r"tcp:8081:interface=\:\:"),
        ("[fe80::1%eth0.5]:8081", r"tcp:8081:interface=fe80\:\:1%eth0.5"),
        ("localhost:8081", "tcp:8081:interface=localhost"),
        ("push.example:8081", "tcp:8081:interface=push.example"),
    ],
)
def test_port_and_address_become_an_endpoint(text: str, endpoint: str) -> None:
    assert endpoint_text(text) == endpoint
    serverFromString(memory_reactor(), endpoint)


@pytest.mark.parametrize(
    "text",
    [
        *("tcp:8080", "tcp:8080:interface=127.0.0.1", "unix:/run/a.sock", "ssl:443:privateKey=k"),
        *("systemd:name=http", "nonsense:1", "", ":8081", "::1:8081", "8081 ", "٨٠", "localhost:"),
    ],
)
def test_other_text_is_an_endpoint_already(text: str) -> None:
    assert endpoint_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("65536", "99999999999", "127.0.0.1:65536", "[::1]:70000", "9" * 5_000),
        *(
            "tcp:65536",
            "tcp6:70000:interface=\\:\\:1",
            "ssl:port=99999:privateKey=k",
            "tcp:port=65536",
        ),
    ],
)
def test_port_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is out of range, expected 0 to 65535"):
        endpoint_text(text)


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("", None, "127.0.0.1:8080"),
        ("", 0, "127.0.0.1:0"),
        ("0.0.0.0", None, "0.0.0.0:8080"),
        ("::1", 81, "[::1]:81"),
        ("[::]", 81, "[::]:81"),
        ("fe80::1%eth0", 81, "[fe80::1%eth0]:81"),
        ("localhost", 81, "localhost:81"),
    ],
)
def test_host_and_port_have_defaults(host: str, port: int | None, text: str) -> None:
    assert host_and_port(host, port) == text
    assert endpoint_text(text).startswith("tcp:")


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("", 65_536, "port 65536 is out of range"),
        ("", -1, "port -1 is out of range"),
        ("http://localhost", 1, "host 'http://localhost', expected an IP address or a name"),
        ("a b", 1, "host 'a b'"),
        ("é", 1, "host 'é'"),
        ("1:2", 1, "host '1:2'"),
    ],
)
def test_impossible_host_or_port_is_refused(host: str, port: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        host_and_port(host, port)
