"""The findings about a server, from facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from pushserver.diagnosis.facts import Facts, RequestFacts, StoreFacts, TemplateFailure, WorkerFacts
from pushserver.diagnosis.finding import Finding
from pushserver.diagnosis.recent_refusals import RecentRefusal
from pushserver.diagnosis.server_findings import server_findings


@dataclass
class Source:
    """The status of a source."""

    name: str = "prices"
    channel: str = "numbers"
    last_error: str = ""
    last_failure: str = ""


STORE = StoreFacts("/var/lib/push/history.db", bytes=1_000_000, free_bytes=50_000_000_000)
REFUSAL = RecentRefusal(503, "limits.connections", "full (connections)", "192.0.2.1", 2, 1e9)
GOOD = Facts(
    time=1_000.0,
    uptime=10.0,
    versions={"pushserver": "1.0"},
    checks={"ports": "", "store": ""},
    connections=3,
    descriptors=20,
    max_descriptors=65_536,
    limits={"connections": 1_000},
    store=STORE,
    sources=[Source()],
    refusals=[],
    request=RequestFacts(),
)
FORWARDED = {
    "Host": "push.example",
    "X-Forwarded-For": "192.0.2.1",
    "X-Forwarded-Proto": "https",
}
BEHIND = RequestFacts(headers=FORWARDED, forwarded_by="x-forwarded-for", trusted=True)


def problems(facts: Facts) -> list[Finding]:
    return [finding for finding in server_findings(facts) if finding.level != "ok"]


def test_a_template_that_failed_is_named_with_the_others_up_to_five() -> None:
    failures = [TemplateFailure("pages/a.html", "", "line 1", 1e9)]
    failures += [TemplateFailure(f"{n}.html", "a", "b", 1e9) for n in range(9)]
    found = problems(replace(GOOD, templates=failures))
    assert {finding.subject for finding in found} == {"templates"}
    assert len(found) == 5
    assert found[0].text == "pages/a.html failed at 01:46:40 UTC: line 1"
    assert found[0].fix == "journalctl -u pushserver | grep pages/a.html"
    assert found[1].text == "0.html failed at 01:46:40 UTC for a: b"


def test_a_good_server_has_a_finding_of_each_subject_and_no_problem() -> None:
    findings = server_findings(GOOD)
    assert {finding.level for finding in findings} == {"ok"}
    assert [finding.subject for finding in findings] == [
        "versions",
        "connections",
        "open files",
        "store",
        "sources",
        "headers",
        "refusals",
    ]


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({}, "ok", "20 of 65536 files are open in the main process"),
        (
            {"max_descriptors": 530},
            "note",
            "limits.connections is 1000, for which each of 3 workers needs 534 files",
        ),
        ({"max_descriptors": 22}, "error", "20 of 22 files are open in the main process"),
        ({"max_descriptors": 100}, "error", "a worker has 90 connections and may open 100 files"),
    ],
)
def test_files_of_connections_are_those_of_workers(
    change: dict[str, Any], level: str, text: str
) -> None:
    busiest = 90 if change.get("max_descriptors") == 100 else 3
    workers = [WorkerFacts(n, n, "ready", 0, busiest if n == 2 else 0) for n in (1, 2, 3)]
    findings = server_findings(replace(GOOD, workers=workers, **change))
    (found,) = (finding for finding in findings if finding.subject == "open files")
    assert found.level == level
    assert text in found.text


@pytest.mark.parametrize(
    ("change", "level", "words", "fix"),
    [
        ({"checks": {"ports": "1 of the ports do not listen"}}, "error", "ports: 1", "journalctl"),
        ({"connections": 800}, "warning", "800 of 1000", "[limits]\nconnections = 2000"),
        ({"connections": 1_100}, "warning", "1100 of 1000", "[limits]\nconnections = 2000"),
        ({"max_descriptors": 1_024}, "note", "the process needs 1200 files", "LimitNOFILE=1200"),
        ({"descriptors": 60_000}, "error", "60000 of 65536", "LimitNOFILE=131072"),
        ({"store": None}, "note", "store.path", '[store]\npath = "'),
        (
            {"store": replace(STORE, problem="disk is full", waiting=7)},
            "error",
            "7 publications wait: disk is full",
            "df -h /var/lib/push",
        ),
        (
            {"store": replace(STORE, free_bytes=1_000_000)},
            "warning",
            "only 1.0 MB free",
            "pushserver store compact --store /var/lib/push/history.db",
        ),
        (
            {"store": replace(STORE, bytes=9_000_000_000, free_bytes=8_000_000_000)},
            "warning",
            "9.0 GB, and its disk only 8.0 GB",
            "store compact",
        ),
        (
            {"sources": [Source(last_error="OSError: no sensor")]},
            "error",
            "prices of channel numbers fails: OSError: no sensor",
            "grep -A 20 'source prices'",
        ),
        (
            {"sources": [Source(last_failure="OSError: no sensor")]},
            "note",
            "works again after",
            "journalctl",
        ),
        (
            {"refusals": [REFUSAL]},
            "warning",
            "503 to 192.0.2.1: full (connections) (2 times, last 2001-09-09 01:46:40+00:00)",
            "[limits]\nconnections = 2000",
        ),
        (
            {"request": replace(BEHIND, trusted=False)},
            "warning",
            "127.0.0.1 is not trusted",
            'trusted_proxies = ["127.0.0.1"]',
        ),
        (
            {"request": replace(BEHIND, trusted=False, peer=None)},
            "warning",
            "a Unix socket is not trusted",
            'trusted_proxies = ["unix"]',
        ),
        (
            {"request": replace(BEHIND, headers={"X-Forwarded-Proto": "https"})},
            "warning",
            "does not send X-Forwarded-For",
            "$proxy_add_x_forwarded_for",
        ),
        (
            {"request": replace(BEHIND, headers={"X-Forwarded-For": "192.0.2.1"})},
            "warning",
            "does not send X-Forwarded-Proto",
            "X-Forwarded-Proto $scheme",
        ),
        ({"request": replace(BEHIND, version="HTTP/1.0")}, "warning", "HTTP/1.0", "$http_upgrade"),
        ({"request": BEHIND, "has_keys": False}, "warning", "no key", "pushserver key new"),
    ],
)
def test_a_problem_has_one_finding_with_a_fix(
    change: dict[str, object], level: str, words: str, fix: str
) -> None:
    [finding] = problems(replace(GOOD, **change))
    assert finding.level == level
    assert words in finding.text
    assert fix in finding.fix


def test_a_connection_that_was_closed_has_no_status() -> None:
    reason = "sent a header of the PROXY protocol, and is not one of trusted_proxies"
    refusal = RecentRefusal(0, "server.trusted_proxies", reason, "10.0.0.5", 1, 1e9)
    [finding] = problems(replace(GOOD, refusals=[refusal]))
    assert finding.text.startswith("closed a connection of 10.0.0.5: sent a header")
    assert finding.fix == '[server]\ntrusted_proxies = ["10.0.0.5"]'


def test_a_trusted_proxy_that_sends_its_headers_is_no_problem() -> None:
    assert problems(replace(GOOD, request=BEHIND)) == []
    standard = RequestFacts(headers={"Forwarded": "for=x"}, forwarded_by="forwarded", trusted=True)
    assert problems(replace(GOOD, request=standard)) == []


def test_a_system_that_does_not_count_files_has_no_finding_about_them() -> None:
    facts = replace(GOOD, descriptors=None, store=replace(STORE, free_bytes=None))
    assert problems(facts) == []
    assert "open files" not in [finding.subject for finding in server_findings(facts)]


def test_a_path_is_quoted_for_the_shell() -> None:
    store = StoreFacts("/srv/a b; rm -rf x/h.db", free_bytes=0)
    [finding] = problems(replace(GOOD, store=store))
    assert "--store '/srv/a b; rm -rf x/h.db'" in finding.fix
