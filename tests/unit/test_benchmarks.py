"""The benchmark computes and reports correctly. No test here asserts a duration."""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Service

from benchmarks import attacks, build, floods, plan, report, results, scaling
from benchmarks.broker_report import section
from benchmarks.brokers import Figures
from benchmarks.contestants import ALL, LIMIT, PRODUCT, Place, with_workers
from benchmarks.goals import Goal, goals
from benchmarks.results import Figure, Results, Run
from benchmarks.scaling import Shares
from benchmarks.scenario import Group, Load
from benchmarks.servers import product
from benchmarks.servers.feed import BYTES, Feed
from benchmarks.servers.turns import Turns
from pushserver.config import loader
from pushserver.config.limits import Limits
from pushserver.server import front as assembly
from pushserver.sources.registry import SourceTypes
from pushserver.transports.outlet import KERNEL_BYTES


def window(cpu: float, deliveries: int, **more: Any) -> dict[str, Any]:
    """The report of the load tool on one window."""
    times = {"count": deliveries, "p50_us": 12_000, "p99_us": 20_000, "max_us": 30_000}
    return {
        "seconds": 2.0,
        "cpu_seconds": cpu,
        "published": deliveries // 1_000,
        "deliveries": deliveries,
        "bytes": deliveries * 100,
        "rss_kb": 50_000,
        "passes": times,
        "peak_rss_kb": 51_000,
        "peak_tcp_kb": 2_048,
        "groups": [{"times": times, "closed": 0}],
        **more,
    }


def group(**more: Any) -> dict[str, Any]:
    """The report of the load tool on one group."""
    counts = ("failed", "missing", "duplicates", "bad", "closed", "deflated")
    return {**dict.fromkeys(counts, 0), "behaviour": "reads", "channels": 1, **more}


def run(
    server: str, protocol: str, *windows: dict[str, Any], scenario: str = "fan-out", **more: Any
) -> Run:
    """One run with a thousand clients and no loss."""
    measured = {
        "connect": {"seconds": 0.5, "cpu_seconds": 0.25},
        "rss_before_kb": 40_000,
        "rss_kb": 48_000,
        "windows": list(windows),
        "refused_posts": 0,
        "groups": [group()],
        **more,
    }
    return Run(server, protocol, scenario, 1_000, 10.0, measured)


@pytest.fixture
def measured() -> Results:
    """The limit, pushserver, and the limit again."""
    comparison = Results("quick", "2026-01-01", {"cores": "2"}, {"Python": "3.11"})
    comparison.runs = [
        run("limit", "websocket", window(0.9, 100_000)),
        run("pushserver", "websocket", window(1.2, 100_000), window(1.1, 100_000)),
        run("limit", "websocket", window(1.1, 100_000)),
    ]
    return comparison


class TestFigures:
    def test_a_figure_is_the_median_with_least_and_most(self) -> None:
        assert results.figure([3.0, 1.0, 2.0, 10.0]) == Figure(2.5, 1.0, 10.0)

    def test_a_figure_of_nothing_is_not_a_number(self) -> None:
        assert math.isnan(results.figure([]).middle)

    def test_the_cost_is_cpu_time_per_delivery(self, measured: Results) -> None:
        cost = measured.cost("pushserver", "websocket", 1_000)
        assert cost is not None
        assert (cost.middle, cost.least, cost.most) == pytest.approx((11.5, 11.0, 12.0))

    def test_the_ratio_is_to_the_limit_before_and_after(self, measured: Results) -> None:
        assert measured.ratio("pushserver", "websocket", 1_000) == pytest.approx(1.15)

    def test_sse_has_a_limit_of_its_own(self, measured: Results) -> None:
        measured.runs.append(run("pushserver", "sse", window(1.0, 100_000)))
        assert measured.ratio("pushserver", "sse", 1_000) is None
        measured.runs.append(run("limit", "sse", window(0.5, 100_000)))
        assert measured.ratio("pushserver", "sse", 1_000) == pytest.approx(2.0)

    def test_a_server_that_was_not_measured_has_no_ratio(self, measured: Results) -> None:
        assert measured.ratio("pushserver", "websocket", 10_000) is None

    def test_connects_and_memory_are_for_each_client(self, measured: Results) -> None:
        first = measured.runs[0]
        assert first.connects_per_second() == pytest.approx(2_000)
        assert first.connect_microseconds() == pytest.approx(250)
        assert first.connection_kilobytes() == pytest.approx(8)

    def test_a_window_without_deliveries_has_no_cost(self) -> None:
        assert run("limit", "websocket", window(0.1, 0)).values(results.delivery_microseconds) == []

    def test_results_survive_their_file(self, measured: Results) -> None:
        assert results.from_json(measured.to_json()) == measured


class TestLosses:
    def test_a_run_without_loss_has_no_complaints(self, measured: Results) -> None:
        assert report.complaints(measured) == []

    @pytest.mark.parametrize("loss", ["failed", "missing", "duplicates", "bad", "closed"])
    def test_each_kind_of_loss_is_a_complaint(self, loss: str) -> None:
        lossy = run("ours", "sse", groups=[group(**{loss: 3})])
        assert lossy.complaints() == [f"group 0: 3 {loss}"]

    def test_a_client_that_never_reads_may_be_dropped(self) -> None:
        assert run("ours", "sse", groups=[group(behaviour="stalls", closed=3)]).complaints() == []

    def test_refused_posts_and_clients_that_do_not_return_are_complaints(self) -> None:
        lossy = run("ours", "sse", refused_posts=2, storm={"clients": 9, "back": 7})
        assert lossy.complaints() == ["2 posts refused", "2 did not come back"]

    def test_a_missing_long_publication_is_a_complaint(self) -> None:
        lossy = run("ours", "websocket", once={"clients": 9, "have": 6})
        assert lossy.complaints() == ["3 did not get the long publication"]

    def test_a_run_with_compression_in_which_nothing_is_compressed_is_complained_about(
        self,
    ) -> None:
        assert run("ours", "deflate").complaints() == ["nothing came compressed"]
        assert run("ours", "deflate", groups=[group(deflated=9)]).complaints() == []


ONE, TWO = (with_workers(count).name for count in (1, 2))


def with_processes(server: str, *cpu: float, clients: int = 1_000, **more: Any) -> Run:
    """One run with 100,000 deliveries, for which the processes of the server took these seconds."""
    each = {"processes_cpu_seconds": list(cpu)}
    told = {
        "connect": {"seconds": 0.5, "cpu_seconds": sum(cpu), **each},
        "pss_before_kb": [30 * 1024] * len(cpu),
        "pss_kb": [33 * 1024] * len(cpu),
        **more,
    }
    made = run(server, "websocket", window(sum(cpu), 100_000, **each), **told)
    return replace(made, clients=clients)


@pytest.fixture
def workers() -> Results:
    """One process, two workers, and lone publications."""
    found = Results("workers", "2026-01-01", {"cores": "2"}, {"pushserver": "abc"})
    lone = {scaling.ALONE: [100.0] * 9, scaling.SAME: [300.0] * 9, scaling.OTHER: [500.0] * 9}
    found.runs = [
        with_processes(ONE, 1.0),
        with_processes(TWO, 0.04, 0.5, 0.52),
        Run("pushserver", "websocket", "lone", 1, 1.0, {"groups": [], "times_us": lone}),
    ]
    return found


class TestWorkers:
    def test_busiest_process_bounds_the_speed(self) -> None:
        assert Shares(10.0).speed(1) == 100_000
        assert Shares(10.0).speed(2) == 100_000
        assert Shares(1.0, (8.0, 2.0)).speed(4) == 125_000

    def test_cores_bound_the_speed_of_all(self) -> None:
        assert Shares(2.0, (4.0, 4.0)).speed(2) == 200_000
        assert Shares(2.0, (4.0, 4.0)).speed(3) == 250_000

    def test_goals_are_compared_with_one_process(self, workers: Results) -> None:
        times, same, other = scaling.goals(workers)
        assert (times.met, times.measured) == (True, "1.89 × (1.89-1.89)")
        assert (same.met, same.measured) == (True, "+200 µs")
        assert (other.met, other.measured) == (False, "+400 µs")

    def test_tables_have_the_share_of_each_process(self, workers: Results) -> None:
        times = "1.89 (1.89-1.89)"
        rows = [row for row in report.workers(workers).splitlines() if row.startswith("| 1,000")]
        assert rows == [
            "| 1,000 | one | - | 10.0 | 10.0 | 100,000 | 1.00 (1.00-1.00) |",
            f"| 1,000 | main process and 2 workers | 0.4 | 5.0, 5.2 | 10.6 | 188,679 | {times} |",
        ]

    def test_tables_have_each_measure(self, workers: Results) -> None:
        for server, cpu in ((ONE, (0.3,)), (TWO, (0.1, 0.2, 0.2))):
            storm = {"back": 1_000, "seconds": 2.0, "processes_cpu_seconds": list(cpu)}
            workers.runs += [
                replace(with_processes(server, *cpu, storm=storm), scenario="storm"),
                replace(with_processes(server, *cpu), scenario="post"),
                replace(with_processes(server, *cpu), scenario="flood"),
                with_processes(server, *cpu, clients=10_000),
            ]
        text = report.workers(workers)
        assert "| CPU µs a connect and subscribe, 10,000 | 30 | 10; 20, 20; 50 |" in text
        assert "recover | 300 | 100; 200, 200; 500 |" in text
        assert "all processes on one core | 2.0 | 2.0 |" in text
        assert (
            "| CPU µs a publication by HTTP keep-alive | 3,000 | 1,000; 2,000, 2,000; 5,000 |"
            in text
        )
        assert "to 1,000 clients | 3.00 | 1.00; 2.00, 2.00; 5.00 |" in text
        assert "core for each | 333 | 400 |" in text
        assert "| memory (Pss), MB, idle | 30.0 | 30.0; 30.0, 30.0 |" in text
        assert "| 100 and 100 | the same worker 300 and 300; the other worker 500 and 500 |" in text

    def test_page_has_what_was_measured(self, measured: Results, workers: Results) -> None:
        assert "## Workers" not in report.page(measured)
        page = report.page(measured, workers)
        assert "2026-01-01; cores: 2; pushserver abc." in page
        workers.runs.clear()
        assert "| memory (Pss), MB, idle | - | - |" in report.page(measured, workers)


class TestPage:
    def test_the_tables_say_how_many_times_the_limit(self, measured: Results) -> None:
        row = next(x for x in report.comparison(measured).splitlines() if "**pushserver**" in x)
        expected = "| **pushserver**, raw WebSocket | 11.5 (11.0-12.0) | 1.15 | 8.0 | 2,000 | 250 |"
        assert row == expected

    def test_goals_are_met_or_fall_short(self, measured: Results) -> None:
        goals = report.goal_table(measured)
        assert "| ≤ 1.25 × limit | 1.15 × limit | met |" in goals
        measured.runs.append(run("pushserver", "websocket", *[window(9.0, 100_000)] * 3))
        assert "| ≤ 1.25 × limit | 9.00 × limit | **falls short** |" in report.goal_table(measured)

    def test_publications_are_compared_with_a_server_in_c(self, measured: Results) -> None:
        measured.runs += [
            run("pushserver", "http", window(1.4, 0, published=10_000), scenario="post"),
            run("nginx + nchan", "http", window(0.2, 0, published=10_000), scenario="post"),
        ]
        goals = report.goal_table(measured)
        published = "CPU a publication by HTTP keep-alive, relative to nchan"
        assert f"| {published} | ≤ 7.2 × | 7.0 × (140 µs) | met |" in goals

    def test_a_missing_server_is_named_with_the_reason(self, measured: Results) -> None:
        measured.missing["nginx + nchan"] = "this is no Debian"
        assert "| nginx + nchan | missing: this is no Debian |" in report.comparison(measured)

    def test_the_page_names_the_machine_and_the_versions(self, measured: Results) -> None:
        page = report.page(measured)
        assert "The limit is a C program" in page
        assert "2026-01-01, a quick run: ours and the limit only; cores: 2." in page
        assert "Python 3.11." in page

    def test_missed_goals_are_on_the_page(self, measured: Results) -> None:
        assert report.shortcomings(measured) == []
        assert "Every goal is met, and no other server is better" in report.page(measured)
        measured.runs.append(run("pushserver", "websocket", *[window(9.0, 100_000)] * 3))
        measured.missing["picows"] = "pip failed"
        short = report.page(measured).partition("## Where it falls short")[2].partition("##")[0]
        assert "- CPU for each delivery, 1,000, websocket: 9.00 × limit, must be ≤ 1.25" in short
        assert "- Missing: picows: pip failed." in short

    def test_a_better_server_is_named_with_its_advantage(self, measured: Results) -> None:
        lean = run("picows", "websocket", window(1.0, 100_000), rss_kb=44_000)
        measured.runs.append(lean)
        assert " ".join(report.shortcomings(measured)) == (
            "picows at 1,000 clients is better in CPU a delivery: 10.0 µs, ours 11.5; "
            "memory a connection: 4.0 KB, ours 8.0."
        )

    def test_compression_has_a_row_with_its_ratio_to_the_limit(self, measured: Results) -> None:
        measured.runs.append(run("pushserver", "deflate", window(1.5, 100_000)))
        row = next(x for x in report.comparison(measured).splitlines() if "deflate" in x)
        assert row.split(" | ")[2] == "1.50"

    def test_losses_stand_on_the_page(self, measured: Results) -> None:
        assert "every publication reached every reading client" in report.page(measured)
        measured.runs.append(run("pushserver", "sse", groups=[group(missing=4)]))
        assert "- pushserver, sse, fan-out, 1,000 clients: group 0: 4 missing" in report.page(
            measured
        )

    def test_results_without_runs_make_a_page(self) -> None:
        assert "# Performance" in report.page(Results("full", "2026-01-01"))


class TestGoals:
    def row(self, measured: Results, name: str) -> Goal:
        return next(goal for goal in goals(measured) if name in goal.name)

    def test_an_idle_connection_has_a_cost_per_ping(self, measured: Results) -> None:
        idle = {"cpu_seconds": 0.3, "seconds": 30.0, "answered": 12_000}
        measured.runs.append(run("pushserver", "centrifuge", window(1.0, 100_000), idle=idle))
        assert self.row(measured, "idle").measured == "1.0%, 25 µs for each ping and its pong"

    def test_a_connect_has_its_cost_for_each_protocol(self, measured: Results) -> None:
        cheap = {"seconds": 0.5, "cpu_seconds": 0.35}
        measured.runs.append(run("pushserver", "centrifuge", window(1.0, 100_000), connect=cheap))
        for protocol, microseconds, met in (
            ("websocket", "250", True),
            ("centrifuge", "350", False),
        ):
            row = self.row(measured, f"connect and subscribe, {protocol}")
            assert (row.measured, row.met) == (f"{microseconds} µs", met)

    def test_socketio_has_goals_beside_the_limit_and_node(self, measured: Results) -> None:
        for protocol in ("socketio", "upgrade"):
            slow = {"seconds": 0.5, "cpu_seconds": 0.2}
            measured.runs += [
                run("pushserver", protocol, window(1.3, 100_000)),
                run("Socket.IO (Node)", protocol, window(2.6, 100_000), connect=slow),
            ]
        assert self.row(measured, "1,000, socketio")[1:] == ("≤ 1.35 × limit", "1.30 × limit", True)
        assert self.row(measured, "socketio, relative to Socket.IO (Node)").measured == "0.50 ×"
        for way in ("by WebSocket", "by polling and upgrade"):
            row = self.row(measured, f"a connect of Socket.IO, {way}")
            assert (row.measured, row.met) == ("1.25 × (250 µs)", False)

    @pytest.mark.parametrize(
        ("turn", "collection", "met"),
        [(0.0149, 0.019, True), (0.02, 0.01, False), (0.01, 0.03, False)],
    )
    def test_turns_and_collections_are_bounded(
        self, measured: Results, turn: float, collection: float, met: bool
    ) -> None:
        turns = {"longest_turn": turn, "longest_collection": collection}
        ours = run("pushserver", "centrifuge", window(1.0, 100_000), turns=turns)
        measured.runs.append(replace(ours, clients=10_000))
        row = self.row(measured, "turn")
        assert row.met == met
        assert row.measured == f"{turn * 1000:.0f} and {collection * 1000:.0f} ms"

    @pytest.mark.parametrize(
        ("dropped", "missing", "peak", "met"),
        [
            (100, 0, 148_000, True),
            (99, 0, 148_000, False),
            (100, 1, 148_000, False),
            (100, 0, 500_000, False),
        ],
    )
    def test_a_tenth_stalled_is_each_dropped_within_its_memory(
        self, measured: Results, dropped: int, missing: int, peak: int, met: bool
    ) -> None:
        stalled = group(behaviour="stalls", closed=dropped, clients=100)
        windows = [window(1.0, 100_000, peak_rss_kb=peak) for _ in range(2)]
        for each in windows:
            each["groups"] = [each["groups"][0], {"closed": 0}]
        windows[1]["groups"][1]["closed"] = dropped
        beside = [group(clients=900, missing=missing), stalled]
        name = "nine tenths alone"
        measured.runs += [
            run("pushserver", "websocket", window(1.0, 100_000), scenario=name),
            run("pushserver", "websocket", *windows, scenario="a tenth stalled", groups=beside),
        ]
        goal = self.row(measured, "never read")
        assert (goal.name, goal.met) == ("100 never read beside 900 that do", met)
        assert goal.measured.startswith(
            f"readers lost {missing}, p99 20 ms, in the worst of 2 windows 20 (alone 20 and 20), "
            f"at 5 MB/s; {dropped} dropped within 4 s, memory "
        )
        assert f"memory {(peak - 48_000) / 1024:+.0f} MB (alone +3)" in goal.measured

    def test_a_long_publication_must_reach_all_clients(self, measured: Results) -> None:
        others = {"times": {"count": 100, "p50_us": 1_000, "p99_us": 30_000, "max_us": 40_000}}
        once: dict[str, Any] = {
            "clients": 1_000,
            "have": 1_000,
            "size": 16 * 2**20,
            "seconds": 17.3,
        }
        once |= {"peak_rss_kb": 148_000, "groups": [others, others]}
        report = {"once": once, "groups": [group(clients=100), group(clients=1_000)]}
        measured.runs.append(run("pushserver", "websocket", scenario="long publication", **report))
        goal = self.row(measured, "one publication of")
        assert goal.name == "one publication of 16 MB to 1,000, small ones to 100"
        assert goal.measured == (
            "delivered to all after 17.3 s, others' p99 30 ms, memory +98 MB, lost 0"
        )
        assert goal.met
        once["have"] = 999
        assert not self.row(measured, "one publication of").met

    @pytest.mark.parametrize(
        ("channels", "name"),
        [
            (100, "100 channels × 10 subscribers, beside one with 10,000 (this machine"),
            (10_000, "10,000 channels × 10 subscribers, beside one with 10,000"),
        ],
    )
    def test_the_goal_for_many_channels_names_their_number(
        self, measured: Results, channels: int, name: str
    ) -> None:
        one = run("pushserver", "websocket", window(1.0, 100_000))
        many = run(
            "pushserver", "websocket", window(1.6, 100_000), groups=[group(channels=channels)]
        )
        measured.runs += [
            replace(one, clients=10_000),
            replace(many, scenario="many channels", clients=channels * 10),
        ]
        goal = self.row(measured, "channels ×")
        assert goal.name.startswith(name)
        assert (goal.measured, goal.met) == ("1.60 × (16.0 µs)", False)


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

    def test_the_full_plan_fits_into_twenty_five_minutes(self, tmp_path: Path) -> None:
        assert plan.seconds(plan.full(tmp_path, files=101_000)) / 60 < 25

    def test_there_are_as_many_channels_as_there_may_be_files(self) -> None:
        assert (plan.many_channels(101_000).channels, plan.many_channels(10**6).channels) == (
            10_000,
            10_000,
        )
        few = plan.many_channels(20_000)
        assert (few.channels, few.load.clients) == (1_900, 19_000)
        assert few.load.clients + plan.OWN_FILES <= 20_000

    def test_a_client_that_never_reads_exceeds_its_budget_within_the_run(self) -> None:
        alone, beside = plan.tenth_stalled()
        stalls = beside.load.groups[1].clients
        assert (alone.load.clients, stalls) == (beside.load.groups[0].clients, 1_000)
        seconds = beside.load.windows * beside.load.window
        waiting = seconds * beside.load.rate * beside.load.size - KERNEL_BYTES * 2
        patience = Limits().queue_seconds * beside.load.rate * beside.load.size
        assert waiting > Limits().queue_bytes + patience

    def test_the_product_takes_the_settings_of_every_trial(self, tmp_path: Path) -> None:
        for trial in (*plan.full(tmp_path), *plan.socketio()):
            if trial.server is not PRODUCT:
                assert trial.settings == {}
                continue
            place = Place(8_000, tmp_path / "feed", tmp_path, trial.channels, trial.settings)
            config = loader.read(PRODUCT.command(place)[-1], {}, SourceTypes())
            assert config.server.listen == ["tcp:8000:interface=127.0.0.1"]
            assert config.sources["feed"].channel == "bench"
            assert config.socketio.channel == "bench"
            assert config.server.compress == (trial.protocol == "deflate")
            assert bool(config.store.path) == (trial.scenario == "SQLite")
            assert config.limits.body_bytes >= trial.load.once

    def test_workers_are_a_setting_of_the_product(self, tmp_path: Path) -> None:
        for trial in plan.workers():
            place = Place(8_000, tmp_path / "feed", tmp_path, trial.channels, trial.settings)
            config = loader.read(trial.server.command(place)[-1], {}, SourceTypes())
            assert config.server.workers == trial.server.workers
            assert config.server.listen == ["tcp:8000:interface=127.0.0.1"]
        assert {trial.server.workers for trial in plan.workers()} == set(scaling.WORKERS)
        assert plan.seconds(plan.workers()) / 60 < 10

    def test_no_server_is_loaded_beyond_half_a_core(self) -> None:
        for server in ALL:
            busy = plan.rate(server, 1_000) * 1_000 * server.cost / 1e6
            assert busy <= 0.5

    def test_a_full_plan_measures_all_servers(self, tmp_path: Path) -> None:
        assert {t.server.name for t in plan.full(tmp_path)} == {server.name for server in ALL}


def test_a_load_becomes_options_of_the_tool() -> None:
    stormers = Group("centrifuge", 10, "/connection/websocket", "bench", "stalls", storms=True)
    arguments = list(Load((stormers,), 10.0, storm=21, storm_ramp=5).arguments())
    assert arguments[0] == (
        "--group=protocol=centrifuge,clients=10,path=/connection/websocket,"
        "behaviour=stalls,channels=1,channel=bench,storms=1"
    )
    assert {"--rate=10.0", "--storm=21", "--storm-ramp=5", "--windows=3"} < set(arguments)


PUBLISHED = 9
SCRIPT = [1, 2, 4, 4, 3, 5, 6]
"""The events of a bad server: 3 comes late, 4 twice, 7 to 9 never."""


def frame(text: bytes, kind: int = 0x81) -> bytes:
    length = len(text)
    if length < 126:
        return bytes([kind, length]) + text
    return bytes([kind, 126]) + length.to_bytes(2, "big") + text


def event(seq: int, size: int = 0) -> bytes:
    return b'{"seq":%d,"stamp":%d,"pad":"%b"}' % (seq, time.monotonic_ns(), b"x" * size)


def serve_one(
    listener: socket.socket,
    feed: Path,
    extension: bytes,
    frames: Sequence[bytes],
    published: int,
    resets: bool,
) -> None:
    """Serve one client with these frames, in small pieces, when the feed starts.

    `resets`: then reset the connection, and do not wait for the client to close it.
    """
    client, _ = listener.accept()
    with client:
        client.recv(4096)
        accept = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n%b%b\r\n" % (accept, extension))
        while struct.unpack("=d", feed.read_bytes()[:8])[0] == 0:
            time.sleep(0.01)
        for sent in frames:
            step = 3 if len(sent) < 1_000 else 997
            for start in range(0, len(sent), step):
                client.sendall(sent[start : start + step])
        with feed.open("r+b") as file:
            file.seek(8)
            file.write(struct.pack("=Q", published))
        if resets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        while client.recv(4096):
            pass


def counted_by_the_tool(
    folder: Path,
    group: Group,
    frames: Sequence[bytes],
    published: int,
    extension: bytes = b"",
    resets: bool = False,
) -> dict[str, Any]:
    """The report of the load tool on the one client of such a server."""
    tool = build.load_tool()
    feed = folder / "feed"
    feed.write_bytes(bytes(BYTES))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(
            target=serve_one, args=(listener, feed, extension, frames, published, resets)
        )
        server.start()
        load = Load((group,), 1.0, warmup=0.1, windows=1, window=0.1, settle=0.05, drain=0.1)
        here = [f"--port={listener.getsockname()[1]}", f"--feed={feed}", f"--pid={os.getpid()}"]
        done = subprocess.run(
            [str(tool), *here, *load.arguments()], capture_output=True, check=True, timeout=60
        )
        server.join(10)
    counted: dict[str, Any] = json.loads(done.stdout)["groups"][0]
    return counted


@pytest.mark.slow
def test_the_load_tool_counts_every_loss_and_repetition(tmp_path: Path) -> None:
    fragment, no_stamp = b"\x01\x02hi", frame(b'{"seq":7}')
    frames = [*(frame(event(n)) for n in SCRIPT), fragment, no_stamp]
    counted = counted_by_the_tool(tmp_path, Group("websocket", 1, "/"), frames, PUBLISHED)
    assert (counted["ready"], counted["deliveries"]) == (1, len(SCRIPT))
    assert counted["missing"] == 1 + 3
    assert counted["duplicates"] == 2
    assert counted["bad"] == 2


@pytest.mark.slow
def test_the_load_tool_reads_the_beginning_of_a_long_frame_and_counts_the_rest(
    tmp_path: Path,
) -> None:
    long, no_event = frame(event(1, size=40_000)), frame(b"y" * 40_000)
    frames = [long, no_event, frame(event(2)), frame(event(3, size=50_000))[:-1]]
    counted = counted_by_the_tool(tmp_path, Group("websocket", 1, "/"), frames, 3)
    assert (counted["deliveries"], counted["missing"], counted["bad"]) == (2, 1, 1)


@pytest.mark.slow
def test_a_ping_that_the_load_tool_reads_after_a_reset_is_no_bad_frame(tmp_path: Path) -> None:
    # So many that the reset comes before the tool has answered them.
    frames = [frame(event(1)), frame(b"", kind=0x89) * 20_000]
    group = Group("websocket", 1, "/")
    counted = counted_by_the_tool(tmp_path, group, frames, 1, resets=True)
    assert (counted["deliveries"], counted["closed"], counted["bad"]) == (1, 1, 0)


OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n"


@pytest.mark.slow
def test_the_load_tool_counts_a_compressed_frame_as_the_next_publication(tmp_path: Path) -> None:
    packed, long = frame(b"\x00" * 9, kind=0xC1), frame(b"\x00" * 30_000, kind=0xC1)
    frames = [packed, frame(event(2)), long, frame(b"\x00", kind=0xA1)]
    group = Group("websocket", 1, "/", deflate=True)
    counted = counted_by_the_tool(tmp_path, group, frames, 4, OFFER)
    assert (counted["deliveries"], counted["deflated"]) == (3, 2)
    assert (counted["missing"], counted["duplicates"], counted["bad"]) == (1, 0, 1)


@pytest.mark.slow
def test_the_load_tool_rejects_compression_that_it_did_not_offer(tmp_path: Path) -> None:
    packed = frame(b"\x00" * 9, kind=0xC1)
    counted = counted_by_the_tool(tmp_path, Group("websocket", 1, "/"), [packed], 1)
    assert (counted["deliveries"], counted["missing"], counted["bad"]) == (0, 1, 1)


def answer_polls(listener: socket.socket, asked: list[bytes]) -> None:
    """Admit one client of Socket.IO that polls, with one body in chunks; then upgrade it."""
    bodies = [
        b"Content-Length: 22\r\n\r\n" + b'0{"sid":"s1","x":true}',
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"content-length: 15\r\n\r\n" + b'2\x1e40{"sid":"a"}',
    ]
    client, _ = listener.accept()
    with client:
        for body in bodies:
            asked.append(client.recv(4096))
            answer = b"HTTP/1.1 200 OK\r\n" + body
            client.sendall(answer[:-4])
            client.sendall(answer[-4:])
        assert client.recv(4096) == b""
    client, _ = listener.accept()
    with client:
        asked.append(client.recv(4096))
        accept = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + accept)
        for reply in (frame(b"3probe"), frame(b'42["message",' + event(1) + b"]"), b""):
            asked.append(client.recv(4096))
            client.sendall(reply)


@pytest.mark.slow
def test_the_load_tool_polls_and_upgrades(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    feed.write_bytes(bytes(BYTES))
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_polls, args=(listener, asked))
        server.start()
        load = Load((Group("upgrade", 1, "/e?EIO=4"),), 1.0, windows=0, settle=0.1, drain=0.1)
        here = [f"--port={listener.getsockname()[1]}", f"--feed={feed}", f"--pid={os.getpid()}"]
        done = subprocess.run(
            [str(build.load_tool()), *here, *load.arguments()],
            capture_output=True,
            check=True,
            timeout=60,
        )
        server.join(10)
    counted = json.loads(done.stdout)["groups"][0]
    assert (counted["ready"], counted["deliveries"], counted["bad"]) == (1, 1, 0)
    assert [text.split(b" HTTP")[0] for text in asked[:4]] == [
        b"GET /e?EIO=4&transport=polling",
        b"POST /e?EIO=4&transport=polling&sid=s1",
        b"GET /e?EIO=4&transport=polling&sid=s1",
        b"GET /e?EIO=4&transport=websocket&sid=s1",
    ]
    assert asked[1].endswith(b"\r\n\r\n40")
    assert [text[6:] for text in asked[4:]] == [b"2probe", b"5", b""]


class TestFeed:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Time goes on by 50 µs at each reading, so that a turn has about 50 events."""
        monkeypatch.setattr(time, "monotonic", itertools.count(1.0, 0.00005).__next__)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "feed"
        path.write_bytes(bytes(BYTES))
        return path

    def test_no_event_is_due_while_paused(self, path: Path) -> None:
        assert list(Feed(str(path)).due()) == []

    def test_events_are_numbered_and_have_the_wanted_length(self, path: Path) -> None:
        feed = Feed(str(path))
        path.write_bytes(struct.pack("=dQQ", 1e9, 0, 98))
        events = [event for _, event in feed.due()]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        text = str(events[0]).replace("'", '"').replace(" ", "")
        assert len(text) == 98
        assert struct.unpack("=dQQ", path.read_bytes())[1] == len(events)

    def test_each_channel_counts_separately(self, path: Path) -> None:
        feed = Feed(str(path), channels=3)
        path.write_bytes(struct.pack("=dQQ", 1e9, 0, 98))
        seen: dict[int, list[object]] = {}
        for channel, event in feed.due():
            seen.setdefault(channel, []).append(event["seq"])
        assert set(seen) == {0, 1, 2}
        assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in seen.values())


def test_the_product_has_the_names_that_the_benchmark_replaces() -> None:
    assert hasattr(assembly, "Runner")
    assert issubclass(product.FeedSource, Service)


def test_the_longest_turn_and_collection_of_a_process_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock advances one second at each reading.
    monkeypatch.setattr(time, "thread_time", itertools.count(1.0).__next__)
    monkeypatch.setattr(gc, "callbacks", [])

    class Poller:
        def poll(self, timeout: float, most: int) -> list[int]:
            return [most]

        def fileno(self) -> int:
            return 7

    class Reactor:
        _poller: Any = Poller()

    counting = False
    turns, reactor = Turns(lambda: counting), Reactor()
    turns.watch(reactor)
    try:
        assert reactor._poller.poll(0.0, 3) == [3]
        assert reactor._poller.fileno() == 7
        reactor._poller.poll(0.0, 3)
        assert turns.longest_turn == 0.0, "counted too early"
        counting = True
        [callback] = gc.callbacks
        callback("start", {})
        callback("stop", {})
        reactor._poller.poll(0.0, 3)
        # One of the three seconds is the collection's.
        assert (turns.longest_turn, turns.longest_collection) == (2.0, 1.0)
        reactor._poller.poll(0.0, 3)
        assert turns.longest_turn == 2.0
    finally:
        turns.stop()
    assert gc.callbacks == []
    turns.write(tmp_path / "turns")
    assert json.loads((tmp_path / "turns").read_text()).keys() == {
        "longest_turn",
        "longest_collection",
    }


class TestAttacks:
    def test_have_one_name_each_and_send_something(self) -> None:
        names = [attack.name for attack in floods.ATTACKS]
        assert len(set(names)) == len(names)
        assert all(attack.hello or attack.bytes or attack.once for attack in floods.ATTACKS[1:])
        assert all(attack.bytes or attack.once for attack in floods.ATTACKS[1:])

    def test_frame_is_one_of_a_client(self) -> None:
        assert floods.frame(9) == b"\x89\x80\0\0\0\0"
        assert floods.frame(0, b"x", False) == b"\x00\x81\0\0\0\0x"
        assert floods.frame(1, b"x" * 300)[:4] == b"\x81\xfe\x01\x2c"

    def test_result_names_each_goal_that_was_missed(self) -> None:
        result = attacks.Result("pings", latencies=[0.001] * 99 + [0.4], memory=10)
        assert result.complaints() == ["p99 400 ms"]
        result = attacks.Result("pings", latencies=[0.1], memory=70, lost=1, tracebacks=2, lines=99)
        assert result.complaints() == [
            "memory +70 MiB",
            "1 publications lost",
            "2 tracebacks",
            "99 lines in the log",
        ]
        assert attacks.Result("pings").complaints() == ["p99 inf ms"]

    def test_row_has_a_cell_for_each_column(self) -> None:
        result = attacks.Result("pings", latencies=[0.001, 0.002], ends=Counter({"1008": 2_000}))
        row = result.row()
        head = attacks.HEAD.splitlines()
        assert row.count("|") == head[0].count("|") == head[1].count("|")
        assert row.startswith("| pings | 2 ms / 2 ms | none | 0% |")
        assert row.endswith("| 2,000 × 1008 |")


def test_section_of_several_servers_has_the_figures_and_judges_the_goals() -> None:
    found = Figures(when="2026-01-02", missing={"python-socketio": "no network"})
    for value in (40.0, 60.0, 50.0):
        found.add("publish, us of Redis", value)
        found.add("unwatched, us of the node", value / 10)
    found.add("pushserver, us of Redis", 1234.0)
    text = section(found)
    assert "| a publication, µs of Redis | 50.0 (40.0-60.0) |" in text
    assert "| publications/s through one Redis | ≥ 20,000 | 25,000 | met |" in text
    assert "there | ≤ 3 | 4.0 | **falls short** |" in text
    assert "client of another server | ≤ 1 | - | **falls short** |" in text
    assert "| pushserver | - | 1,234 (1,234-1,234) | - | - |" in text
    assert "- Missing: python-socketio: no network" in text


@pytest.mark.parametrize(
    "words", ["MADE", "METHOD", "REACTORS", "SOCKETIO", "POSTS", "WORKERS", "WAKE_UPS", "LIVE_PAGE"]
)
def test_page_has_the_words_that_the_next_run_writes(words: str) -> None:
    page = (Path(report.__file__).parents[1] / "docs" / "performance.md").read_text("utf-8")
    assert getattr(report, words).strip() in page
