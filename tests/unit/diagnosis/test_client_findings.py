"""The findings about a URL, from the measurements of a client."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pushserver.diagnosis.client_findings import (
    LONG_POLL,
    WEBSOCKET,
    Answer,
    Measured,
    client_findings,
)
from pushserver.diagnosis.finding import Finding
from pushserver.diagnosis.proxies import APACHE, UNKNOWN

UPGRADE = UNKNOWN.fix("Upgrade")
UNBUFFERED = UNKNOWN.fix("streams")
TIMEOUT = UNKNOWN.fix("time")

URL = "https://push.example"
GOOD = Measured(
    URL,
    2,
    Answer(200, seconds=0.01, headers={"server": "pushserver"}),
    Answer(200),
    URL,
    0.3,
    "",
    {
        WEBSOCKET: Answer(101, events=[0.02]),
        "HTTP stream": Answer(200, events=[0.02, 0.03]),
        "SSE": Answer(200, events=[0.02, 0.03]),
        LONG_POLL: Answer(200, events=[2.0]),
    },
)
FOREIGN = "a page of 'https://push.example' may not use 'http://push.example'"


def problems(measured: Measured) -> list[Finding]:
    return [finding for finding in client_findings(measured) if finding.level != "ok"]


def problem(measured: Measured) -> Finding:
    [finding] = problems(measured)
    return finding


def test_a_good_url_has_no_problem() -> None:
    findings = client_findings(GOOD)
    assert {finding.level for finding in findings} == {"ok"}
    subjects = ["reachability", "in front", "clock", "origin", *GOOD.transports]
    assert [finding.subject for finding in findings] == subjects


@pytest.mark.parametrize(
    ("live", "words", "fix"),
    [
        (Answer(problem="[Errno 111] Connection refused"), "refused", "ss -ltnp"),
        (
            Answer(problem="timed out", late=True),
            "timed out",
            "pushserver serve, or systemctl start",
        ),
        (
            Answer(problem="[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
            "WRONG_VERSION",
            "pushserver doctor http://push.example",
        ),
        (
            Answer(problem="[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"),
            "expired",
            "openssl s_client -connect push.example:443 -servername push.example",
        ),
        (Answer(502, "Bad Gateway"), "a proxy is there", "curl -i http://127.0.0.1:8080"),
        (Answer(404, "Not Found"), "not this server or not its root", f"curl -i {URL}"),
        (Answer(200, "not the answer of this server"), "not this server", f"curl -i {URL}"),
        (
            Answer(301, headers={"location": "https://b.example/push/health/live"}),
            "a redirect to https://b.example",
            "pushserver doctor https://b.example/push/",
        ),
    ],
)
def test_a_server_that_is_not_reached_is_the_only_finding(
    live: Answer, words: str, fix: str
) -> None:
    [finding] = client_findings(replace(GOOD, live=live))
    assert (finding.level, finding.subject) == ("error", "reachability")
    assert words in finding.text
    assert fix in finding.fix


@pytest.mark.parametrize("location", ["/x/health/live';reboot", "$(reboot)/health/live"])
def test_a_redirect_cannot_add_a_command(location: str) -> None:
    [finding] = client_findings(replace(GOOD, live=Answer(302, headers={"location": location})))
    assert finding.fix.startswith("pushserver doctor '")
    assert finding.fix.endswith("'")


@pytest.mark.parametrize(
    ("transport", "answer", "level", "words", "fix"),
    [
        (WEBSOCKET, Answer(426, "expected a WebSocket"), "error", "426: expected", UPGRADE),
        (WEBSOCKET, Answer(400, "HTTP/1.1, got 'HTTP/1.0'"), "error", "400", UPGRADE),
        (WEBSOCKET, Answer(200), "error", "200", UPGRADE),
        (WEBSOCKET, Answer(404, "Not Found"), "error", "404", UPGRADE),
        (WEBSOCKET, Answer(problem="timed out", late=True), "error", "within 2 s", UPGRADE),
        (WEBSOCKET, Answer(101, "closed"), "error", "closed before the first", UPGRADE),
        (
            WEBSOCKET,
            Answer(403, f"{FOREIGN}; a proxy has to send X-Forwarded-Proto: https"),
            "error",
            "may not use",
            "proxy_set_header X-Forwarded-Proto $scheme;",
        ),
        ("SSE", Answer(200, "timed out", late=True), "error", "buffers", UNBUFFERED),
        ("SSE", Answer(problem="timed out", late=True), "error", "buffers", UNBUFFERED),
        (
            "SSE",
            Answer(200, "timed out", events=[0.02], late=True),
            "error",
            "the event after the first one does not arrive within 2 s",
            UNBUFFERED,
        ),
        ("SSE", Answer(200, "ended", events=[0.02]), "error", "closed after", TIMEOUT),
        ("SSE", Answer(200, events=[1.5, 1.6]), "warning", "1.5 s late", UNBUFFERED),
        ("HTTP stream", Answer(200, events=[0.1, 1.9]), "warning", "1.8 s late", UNBUFFERED),
        ("HTTP stream", Answer(500, "Oops"), "error", "500: Oops", "grep 'refused 500'"),
        (LONG_POLL, Answer(504, "Gateway Time-out"), "error", "does not wait", TIMEOUT),
        (LONG_POLL, Answer(502, "Proxy Error"), "error", "does not wait", TIMEOUT),
        (LONG_POLL, Answer(401, "needs a token"), "note", "not measured", "--api-key-file"),
        (LONG_POLL, Answer(403, FOREIGN), "error", "may not use", "allowed_origins"),
        (LONG_POLL, Answer(200, "timed out", late=True), "error", "no answer", UNBUFFERED),
    ],
)
def test_a_transport_that_does_not_work_has_a_fix(
    transport: str, answer: Answer, level: str, words: str, fix: str
) -> None:
    transports = {**GOOD.transports, transport: answer}
    finding = problem(replace(GOOD, transports=transports))
    assert (finding.level, finding.subject) == (level, transport)
    assert words in finding.text
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        ("http://push.example", ["X-Forwarded-Proto"]),
        ("https://127.0.0.1:8080", ["Host"]),
        ("http://127.0.0.1:8080", ["Host", "X-Forwarded-Proto"]),
    ],
)
def test_headers_that_a_proxy_does_not_send_are_named(origin: str, headers: list[str]) -> None:
    finding = problem(replace(GOOD, origin=origin))
    assert (finding.level, finding.subject) == ("error", "origin")
    lines = [line.split()[1] for line in finding.fix.splitlines() if line.startswith("proxy_")]
    assert lines == headers


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://push.example:443", "https://push.example"),
        ("https://Push.example", "https://push.example:443"),
        ("http://localhost:80", "http://localhost"),
    ],
)
def test_a_default_port_and_capitals_make_no_other_origin(url: str, origin: str) -> None:
    findings = client_findings(replace(GOOD, url=url, origin=origin))
    assert {f.level for f in findings if f.subject == "origin"} == {"ok"}


@pytest.mark.parametrize(
    ("ahead", "words"), [(90.0, "90 s ahead of ours"), (-3.0, "3 s behind ours")]
)
def test_a_clock_that_differs_is_a_warning(ahead: float, words: str) -> None:
    finding = problem(replace(GOOD, ahead=ahead))
    assert (finding.level, finding.subject) == ("warning", "clock")
    assert words in finding.text
    assert finding.fix.startswith("timedatectl")


def test_without_a_key_the_part_of_the_server_is_a_note() -> None:
    denied = Answer(403, "the status of the server is only for keys")
    finding = problem(replace(GOOD, status=denied, origin="", ahead=None))
    assert (finding.level, finding.subject) == ("note", "server")
    assert "--may admin" in finding.fix


def test_a_key_for_a_server_without_keys_is_left_out() -> None:
    refused = "this server has no API keys (auth.api_keys or auth.keys), and a key was sent"
    finding = problem(replace(GOOD, status=Answer(401, refused), has_key=True))
    assert (finding.level, finding.subject) == ("error", "key")
    assert finding.fix.startswith(f"pushserver doctor {URL}  # without --key")


def test_a_key_without_the_scope_is_told_so() -> None:
    finding = problem(replace(GOOD, status=Answer(403, "may not admin"), has_key=True))
    assert "the scope admin, which this one has not (403: may not admin)" in finding.text
    assert "--may admin" in finding.fix


def test_url_with_a_path_may_be_one_below_the_root() -> None:
    measured = Measured(f"{URL}/channels/a", 2, Answer(404, "Not Found"))
    assert problem(measured).fix.startswith(f"pushserver doctor {URL}/  # or the path")


def test_a_key_that_the_server_refuses_is_an_error() -> None:
    unknown = Answer(401, "this API key is unknown")
    finding = problem(replace(GOOD, status=unknown, has_key=True))
    assert (finding.level, finding.subject) == ("error", "key")
    assert "401: this API key is unknown" in finding.text
    assert "PUSHSERVER_KEY" in finding.fix


def test_a_key_without_the_scope_is_a_note() -> None:
    denied = Answer(403, "this API key may not administer all channels")
    finding = problem(replace(GOOD, status=denied, has_key=True))
    assert (finding.level, finding.subject) == ("note", "server")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"server": "nginx/1.22.1"}, "a proxy: nginx/1.22.1"),
        ({"server": "pushserver", "via": "1.1 Caddy"}, "a proxy: 1.1 Caddy"),
        ({"server": "pushserver"}, "a proxy, as its headers show: HAProxy"),
    ],
)
def test_a_proxy_is_shown(headers: dict[str, str], words: str) -> None:
    live = replace(GOOD.live, headers=headers)
    assert words in client_findings(replace(GOOD, live=live, proxy="HAProxy"))[1].text


def test_a_server_without_a_proxy_that_is_known_has_none() -> None:
    assert "no proxy that names itself" in client_findings(GOOD)[1].text


def test_the_fixes_are_those_of_the_proxy_in_front() -> None:
    refused = Answer(426, "expected a WebSocket")
    transports = {WEBSOCKET: refused, "SSE": Answer(200, events=[1.5])}
    measured = replace(GOOD, transports=transports, proxy="Apache", origin="http://push.example")
    fixes = [finding.fix for finding in problems(measured)]
    assert fixes == [APACHE.fix(fault) for fault in ("X-Forwarded-Proto", "Upgrade", "streams")]
