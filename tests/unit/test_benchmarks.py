"""The benchmark's own arithmetic and words. No time that anything takes is asserted here."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Service

from benchmarks import build, plan, report, results
from benchmarks.contestants import ALL, LIMIT
from benchmarks.results import Figure, Results, Run
from benchmarks.scenario import Group, Load
from benchmarks.servers import product
from benchmarks.servers.feed import BYTES, Feed
from pushserver import service


def window(cpu: float, deliveries: int, **more: Any) -> dict[str, Any]:
    """What the load tool says of one repeat."""
    times = {"count": deliveries, "p50_us": 12_000, "p99_us": 20_000, "max_us": 30_000}
    return {
        "seconds": 2.0,
        "cpu_seconds": cpu,
        "published": deliveries // 1_000,
        "deliveries": deliveries,
        "bytes": deliveries * 100,
        "rss_kb": 50_000,
        "passes": times,
        "groups": [{"times": times}],
        **more,
    }


def run(server: str, protocol: str, *windows: dict[str, Any], **more: Any) -> Run:
    """One run with a thousand clients and no loss."""
    group = dict.fromkeys(("failed", "missing", "duplicates", "bad", "closed"), 0)
    told = {
        "connect": {"seconds": 0.5, "cpu_seconds": 0.25},
        "rss_before_kb": 40_000,
        "rss_kb": 48_000,
        "windows": list(windows),
        "refused_posts": 0,
        "groups": [group],
        **more,
    }
    return Run(server, protocol, "fan-out", 1_000, 10.0, told)


@pytest.fixture
def found() -> Results:
    """The limit before and after, and ours between."""
    made = Results("quick", "2026-01-01", {"cores": "2"}, {"Python": "3.11"})
    made.runs = [
        run("limit", "websocket", window(0.9, 100_000)),
        run("pushserver", "websocket", window(1.2, 100_000), window(1.1, 100_000)),
        run("limit", "websocket", window(1.1, 100_000)),
    ]
    return made


class TestFigures:
    def test_a_figure_is_the_median_with_least_and_most(self) -> None:
        assert results.figure([3.0, 1.0, 2.0, 10.0]) == Figure(2.5, 1.0, 10.0)

    def test_a_figure_of_nothing_is_not_a_number(self) -> None:
        assert math.isnan(results.figure([]).middle)

    def test_the_cost_is_cpu_time_over_what_arrived(self, found: Results) -> None:
        cost = found.cost("pushserver", "websocket", 1_000)
        assert cost is not None
        assert (cost.middle, cost.least, cost.most) == pytest.approx((11.5, 11.0, 12.0))

    def test_the_ratio_is_to_the_limit_before_and_after(self, found: Results) -> None:
        assert found.ratio("pushserver", "websocket", 1_000) == pytest.approx(1.15)

    def test_sse_has_a_limit_of_its_own(self, found: Results) -> None:
        found.runs.append(run("pushserver", "sse", window(1.0, 100_000)))
        assert found.ratio("pushserver", "sse", 1_000) is None
        found.runs.append(run("limit", "sse", window(0.5, 100_000)))
        assert found.ratio("pushserver", "sse", 1_000) == pytest.approx(2.0)

    def test_what_was_not_measured_has_no_ratio(self, found: Results) -> None:
        assert found.ratio("pushserver", "websocket", 10_000) is None

    def test_connects_and_memory_are_for_each_client(self, found: Results) -> None:
        first = found.runs[0]
        assert first.connects_per_second() == pytest.approx(2_000)
        assert first.connect_microseconds() == pytest.approx(250)
        assert first.connection_kilobytes() == pytest.approx(8)

    def test_a_window_without_deliveries_has_no_cost(self) -> None:
        assert run("limit", "websocket", window(0.1, 0)).values(results.delivery_microseconds) == []

    def test_results_survive_their_file(self, found: Results) -> None:
        assert results.from_json(found.to_json()) == found


class TestLosses:
    def test_a_whole_run_has_no_complaints(self, found: Results) -> None:
        assert report.complaints(found) == []

    @pytest.mark.parametrize("what", ["failed", "missing", "duplicates", "bad"])
    def test_whatever_is_lost_is_complained_about(self, what: str) -> None:
        group = dict.fromkeys(("failed", "missing", "duplicates", "bad"), 0) | {what: 3}
        assert run("ours", "sse", groups=[group]).complaints() == [f"group 0: 3 {what}"]

    def test_refused_posts_and_those_who_stay_away_are_complained_about(self) -> None:
        lossy = run("ours", "sse", refused_posts=2, storm={"clients": 9, "back": 7})
        assert lossy.complaints() == ["2 posts refused", "2 did not come back"]


class TestPage:
    def test_the_tables_say_how_many_times_the_limit(self, found: Results) -> None:
        row = next(x for x in report.comparison(found).splitlines() if "**pushserver**" in x)
        expected = "| **pushserver**, raw WebSocket | 11.5 (11.0-12.0) | 1.15 | 8.0 | 2,000 | 250 |"
        assert row == expected

    def test_goals_are_met_or_fall_short(self, found: Results) -> None:
        goals = report.goal_table(found)
        assert "| ≤ 1.25 × limit | 1.15 × limit | met |" in goals
        found.runs.append(run("pushserver", "websocket", *[window(9.0, 100_000)] * 3))
        assert "| ≤ 1.25 × limit | 9.00 × limit | **falls short** |" in report.goal_table(found)

    def test_who_is_missing_is_named_with_the_reason(self, found: Results) -> None:
        found.missing["nginx + nchan"] = "this is no Debian"
        assert "| nginx + nchan | missing: this is no Debian |" in report.comparison(found)

    def test_losses_stand_on_the_page(self, found: Results) -> None:
        assert "every publication reached every client" in report.page(found)
        group = dict.fromkeys(("failed", "duplicates", "bad"), 0) | {"missing": 4}
        found.runs.append(run("pushserver", "sse", groups=[group]))
        assert "- pushserver, sse, fan-out, 1,000 clients: group 0: 4 missing" in report.page(found)

    def test_nothing_measured_makes_a_page_too(self) -> None:
        assert "# How fast it is" in report.page(Results("full", "2026-01-01"))


class TestPlan:
    def test_the_limit_is_measured_before_and_after(self, tmp_path: Path) -> None:
        for clients in (plan.SOME, plan.MANY):
            trials = list(plan.compared(clients))
            assert trials[0].server is trials[-1].server is LIMIT
            assert trials[0].protocol == trials[-1].protocol == "websocket"

    def test_the_quick_plan_fits_into_two_minutes(self) -> None:
        loads = [trial.load for trial in plan.quick()]
        measured = sum(2 * load.settle + load.warmup + load.windows * load.window for load in loads)
        assert measured <= 90, "the rest is for starting, connecting and draining"

    def test_nobody_is_asked_for_more_than_it_can_do(self) -> None:
        for server in ALL:
            busy = plan.rate(server, 1_000) * 1_000 * server.cost / 1e6
            assert busy <= 0.5

    def test_a_full_plan_measures_everybody(self, tmp_path: Path) -> None:
        assert {t.server.name for t in plan.full(tmp_path)} == {server.name for server in ALL}


def test_a_load_is_spelled_as_the_tool_reads_it() -> None:
    group = Group("centrifuge", 10, "/connection/websocket", "bench", "stalls", storms=True)
    arguments = list(Load((group,), 10.0, storm=21, storm_ramp=5).arguments())
    assert arguments[0] == (
        "--group=protocol=centrifuge,clients=10,path=/connection/websocket,"
        "behaviour=stalls,channels=1,channel=bench,storms=1"
    )
    assert {"--rate=10.0", "--storm=21", "--storm-ramp=5", "--windows=3"} < set(arguments)


PUBLISHED = 9
SCRIPT = [1, 2, 4, 4, 3, 5, 6]
"""What a bad server sends: 3 comes late, 4 twice, 7 to 9 never."""


def frame(text: bytes) -> bytes:
    return b"\x81" + bytes([len(text)]) + text


def misbehave(listener: socket.socket, feed: Path) -> None:
    """Serve one client badly, in pieces of three bytes, once the feed is on."""
    client, _ = listener.accept()
    with client:
        client.recv(4096)
        accept = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n\r\n" % accept)
        while struct.unpack("=d", feed.read_bytes()[:8])[0] == 0:
            time.sleep(0.01)
        events = [b'{"seq":%d,"stamp":%d,"pad":""}' % (n, time.monotonic_ns()) for n in SCRIPT]
        fragment, no_stamp = b"\x01\x02hi", frame(b'{"seq":7}')
        sent = b"".join([*map(frame, events), fragment, no_stamp])
        for start in range(0, len(sent), 3):
            client.sendall(sent[start : start + 3])
        with feed.open("r+b") as file:
            file.seek(8)
            file.write(struct.pack("=Q", PUBLISHED))
        while client.recv(4096):
            pass


@pytest.mark.slow
def test_the_load_tool_counts_every_loss_and_repetition(tmp_path: Path) -> None:
    try:
        tool = build.load_tool()
    except build.Missing as reason:
        pytest.skip(str(reason))
    feed = tmp_path / "feed"
    feed.write_bytes(bytes(BYTES))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=misbehave, args=(listener, feed))
        server.start()
        load = Load((Group("websocket", 1, "/"),), 1.0, windows=1, window=0.5, drain=0.1)
        here = [f"--port={listener.getsockname()[1]}", f"--feed={feed}", f"--pid={os.getpid()}"]
        done = subprocess.run(
            [str(tool), *here, *load.arguments()], capture_output=True, check=True, timeout=60
        )
        server.join(10)
    group = json.loads(done.stdout)["groups"][0]
    assert (group["ready"], group["deliveries"]) == (1, len(SCRIPT))
    assert group["missing"] == 1 + 3
    assert group["duplicates"] == 2
    assert group["bad"] == 2


class TestFeed:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "feed"
        path.write_bytes(bytes(BYTES))
        return path

    def test_nothing_is_due_while_it_is_paused(self, path: Path) -> None:
        assert list(Feed(str(path)).due()) == []

    def test_events_are_numbered_and_as_long_as_asked_for(self, path: Path) -> None:
        feed = Feed(str(path))
        path.write_bytes(struct.pack("=dQQ", 1e9, 0, 98))
        events = [event for _, event in feed.due()]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        text = str(events[0]).replace("'", '"').replace(" ", "")
        assert len(text) == 98
        assert struct.unpack("=dQQ", path.read_bytes())[1] == len(events)

    def test_each_channel_has_numbers_of_its_own(self, path: Path) -> None:
        feed = Feed(str(path), channels=3)
        path.write_bytes(struct.pack("=dQQ", 1e9, 0, 98))
        seen: dict[int, list[object]] = {}
        for channel, event in feed.due():
            seen.setdefault(channel, []).append(event["seq"])
        assert set(seen) == {0, 1, 2}
        assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in seen.values())


def test_the_product_still_has_the_place_that_the_benchmark_publishes_from() -> None:
    assert hasattr(service, "Runner")
    assert issubclass(product.FeedSource, Service)
