"""`pushserver doctor` through a real nginx that is configured badly, and with its fixes pasted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import warm
from tests.e2e.blocks import block_with
from tests.e2e.nginx import nginx
from tests.e2e.programs import PUSHSERVER
from tests.e2e.server import Server, environment, running

EXAMPLE = "http://push.example"
"""The URL in the document."""
KEY = "correct-horse-battery"
MAP = "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }"
GOOD = """
proxy_http_version 1.1;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $connection_upgrade;
proxy_set_header Host $http_host;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
"""
IGNORE = "proxy_ignore_headers X-Accel-Buffering;"
BUFFERED = f"{GOOD.replace('1.1', '1.0')} {IGNORE}"
ZIP = "gzip on; gzip_proxied any; gzip_types *;"
IMPATIENT = f"{GOOD} proxy_read_timeout 3s;"

Finding = dict[str, str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "push.toml").write_text(
        f'[auth]\napi_keys = ["{KEY}"]\n[server]\ntrusted_proxies = ["127.0.0.1"]\n'
    )
    with running(Server(folder, "--config=push.toml")) as server:
        yield server


@pytest.fixture(scope="module")
def bad(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an nginx with a location for each fault."""
    faults = {
        "bare": "",
        "buffered": BUFFERED,
        "zipped": f"{GOOD} {IGNORE} {ZIP}",
        "impatient": IMPATIENT,
    }
    rules = "".join(location(server, name, lines) for name, lines in faults.items())
    rules += "location /gone/ { proxy_pass http://127.0.0.1:1/; }"
    rules += "location /moved/ { return 301 https://push.example$request_uri; }"
    rules += "location /other/ { return 200 'ok'; }"
    with nginx(tmp_path_factory.mktemp("bad"), rules, MAP) as port:
        yield f"http://localhost:{port}"


def location(server: Server, name: str, lines: str) -> str:
    return f"location /{name}/ {{ proxy_pass http://127.0.0.1:{server.port}/; {lines} }}\n"


@cache
def doctor(url: str, *arguments: str) -> tuple[int, list[Finding]]:
    """The exit status, and the findings."""
    command = [*PUSHSERVER, "doctor", url, "--json", *arguments]
    run = warm.run(command, Path.cwd(), environment())
    found: Any = json.loads(run.stdout)
    assert KEY not in run.stdout + run.stderr
    return run.returncode, found["findings"]


def problems(findings: Sequence[Finding], level: str = "error") -> dict[str, str]:
    return {each["subject"]: each["text"] for each in findings if each["level"] == level}


def pasted(findings: Sequence[Finding]) -> str:
    """The lines for the location of nginx in the fixes, each once."""
    lines = (line for each in findings for line in each["fix"].splitlines())
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("proxy_", "gzip"))))


def test_the_headers_that_a_bare_proxy_does_not_send_are_named(bad: str) -> None:
    status, findings = doctor(f"{bad}/bare/", "--key", KEY)
    assert status == 1
    assert problems(findings).keys() == {"origin", "WebSocket", "HTTP stream", "SSE", "long-poll"}
    for line in GOOD.strip().splitlines():
        assert line in pasted(findings)


@pytest.mark.parametrize(("fault", "key"), [("buffered", ""), ("zipped", KEY)])
def test_a_proxy_that_buffers_is_measured(bad: str, fault: str, key: str) -> None:
    status, findings = doctor(f"{bad}/{fault}/", *(["--key", key] if key else []))
    assert status == 1
    errors = problems(findings)
    for transport in ("HTTP stream", "SSE"):
        assert errors.pop(transport) == "no event arrives within 2 s: a proxy buffers the stream"
    # The location that buffers has HTTP/1.0.
    assert set(errors) == ({"WebSocket"} if fault == "buffered" else set())
    notes = problems(findings, "note")
    assert ("scope admin" in notes.get("server", "")) == (not key)


def test_a_proxy_that_does_not_wait_is_measured(bad: str) -> None:
    status, findings = doctor(f"{bad}/impatient/", "--wait", "5", "--channel", "quiet")
    assert status == 1
    [(subject, text)] = problems(findings).items()
    assert subject == "long-poll"
    assert text.startswith("504: ")
    assert "proxy_read_timeout 75s;" in pasted(findings)


@pytest.mark.parametrize(
    ("path", "words", "fix"),
    [
        ("/gone/", "answers 502: a proxy is there, and does not reach", "curl -i http://127.0.0.1"),
        ("/moved/", "a redirect to https://push.example/moved/", "doctor https://push.example/mov"),
        ("/other/", "is not this server or not its root", "pushserver doctor http://localhost:"),
        ("/nothing/", "is not this server or not its root", "pushserver doctor http://localhost:"),
    ],
)
def test_a_url_that_is_not_the_server_is_one_finding(
    bad: str, path: str, words: str, fix: str
) -> None:
    status, [finding] = doctor(bad + path)
    assert (status, finding["subject"]) == (1, "reachability")
    assert words in finding["text"]
    assert fix in finding["fix"]


def test_the_example_of_the_document_is_true(bad: str) -> None:
    example = block_with("docs/doctor.md", "$ pushserver doctor").text
    command, *expected = example.replace(EXAMPLE, f"{bad}/zipped").splitlines()
    words = command.removeprefix("$ pushserver ").split()
    run = warm.run([*PUSHSERVER, *words], Path.cwd(), environment(), joined=True)
    assert [timeless(line) for line in run.stdout.splitlines()] == list(map(timeless, expected))


def timeless(line: str) -> str:
    """The line without times and versions, which differ at each run."""
    return re.sub(r"after [0-9.]+ m?s|nginx/[0-9.]+", "", line)


def test_the_fixes_pasted_into_nginx_leave_nothing_to_fix(
    bad: str, server: Server, tmp_path: Path
) -> None:
    _, bare = doctor(f"{bad}/bare/", "--key", KEY)
    _, zipped = doctor(f"{bad}/zipped/", "--key", KEY)
    lines = IGNORE + pasted([*bare, *zipped])
    with nginx(tmp_path, ZIP + location(server, "fixed", lines), MAP) as port:
        status, findings = doctor(f"http://localhost:{port}/fixed/", "--key", KEY, "--wait", "9")
    assert status == 0
    # The refusals are those of the measurements of this module.
    left = {each["subject"] for each in findings if each["level"] in ("error", "warning")}
    assert left <= {"refusals"}
