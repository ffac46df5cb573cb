"""The tables of a benchmark, as Markdown. Reads results and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import (
    Figure,
    Results,
    Run,
    core_share,
    deliveries_per_second,
    figure,
    publications_per_second,
)

NAMES = {
    ("limit", "websocket"): "C, one `send()` a client (the limit)",
    ("limit", "sse"): "C, one `send()` a client, SSE (the limit of SSE)",
    ("pushserver", "websocket"): "**pushserver**, raw WebSocket",
    ("pushserver", "centrifuge"): "**pushserver**, Centrifuge protocol",
    ("pushserver", "sse"): "**pushserver**, SSE",
}
COMPARED = (1_000, 10_000)
MADE = """\
Made by `make bench`; do not edit. How it is measured, and how to find where the time goes, is in
[benchmarks/README.md](../benchmarks/README.md).
"""
METHOD = """\
One process publishes a 98-byte JSON event to N clients over loopback, the server on one core and
the load tool on the other. What counts is the server's CPU time for each publication that reached
a client, as a multiple of the limit's: a C program that calls `send()` once for each client.
Medians, with least and most in brackets. Times and maxima on a shared machine are indicative only;
differences under 15 % are not real.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comparison(results: Results) -> str:
    """Who takes how many times the limit, and what a connection costs."""
    sizes = [n for n in COMPARED if any(r.clients == n for r in _fan_outs(results))]
    head = ["server", "µs a delivery"]
    head += [f"× limit at {clients:,}" for clients in sizes]
    head += ["KB a connection", "connects/s", "CPU µs a connect"]
    rows = []
    for server, protocol in dict.fromkeys((r.server, r.protocol) for r in _fan_outs(results)):
        if not any(results.find(server, protocol, clients) for clients in sizes):
            continue
        largest = [r for n in sizes for r in results.find(server, protocol, n)][-1]
        row = [NAMES.get((server, protocol), server)]
        row.append(_cost(results.cost(server, protocol, sizes[0])))
        row += [_ratio(results, server, protocol, clients) for clients in sizes]
        row.append(f"{largest.connection_kilobytes():.1f}")
        row.append(f"{largest.connects_per_second():,.0f}")
        row.append(f"{largest.connect_microseconds():.0f}")
        rows.append(row)
    rows += [[name, f"missing: {why}", *[""] * (len(head) - 2)] for name, why in _missing(results)]
    return table(head, rows)


def goal_table(results: Results) -> str:
    """What ours must reach, what it does, and whether that is enough."""
    rows = [list(row) for row in _goals(results)]
    return table(["goal", "must", "measured", ""], rows) if rows else ""


def complaints(results: Results) -> list[str]:
    """The runs whose figures cannot be trusted, and why."""
    return [
        f"{run.server}, {run.protocol}, {run.scenario}, {run.clients:,} clients: {complaint}"
        for run in results.runs
        for complaint in run.complaints()
    ]


def page(results: Results) -> str:
    """The whole page."""
    machine = ", ".join(f"{name}: {value}" for name, value in results.machine.items())
    used = ", ".join(f"{name} {value}" for name, value in results.versions.items())
    wrong = complaints(results)
    parts = [
        "# How fast it is\n",
        MADE,
        METHOD,
        comparison(results),
        "\n## Goals\n",
        goal_table(results),
        "\n## What was lost\n",
        "".join(f"- {text}\n" for text in wrong)
        or "Nothing: every publication reached every client that read, once and in order.\n",
        "\n## On what\n",
        f"{results.when}; {machine}.\n",
        f"{used}.\n",
    ]
    return "\n".join(parts)


def _fan_outs(results: Results) -> list[Run]:
    return [run for run in results.runs if run.scenario == "fan-out"]


def _missing(results: Results) -> list[tuple[str, str]]:
    return list(results.missing.items())


def _cost(cost: Figure | None) -> str:
    return f"{cost.middle:.1f} ({cost.least:.1f}-{cost.most:.1f})" if cost else "-"


def _ratio(results: Results, server: str, protocol: str, clients: int) -> str:
    ratio = results.ratio(server, protocol, clients)
    return f"{ratio:.2f}" if ratio is not None else "-"


Row = tuple[str, str, str, str]


def _verdict(name: str, must: str, measured: str, met: bool) -> Row:
    return name, must, measured, "met" if met else "**falls short**"


def _goals(results: Results) -> list[Row]:
    parts = (_cost_goals, _peer_goals, _flat, _alone, _flood, _connection_goals, _storms, _stalls)
    return [row for part in (*parts, _publishing, _channels) for row in part(results)]


def _cost_goals(results: Results) -> list[Row]:
    rows = []
    for clients, most in ((1_000, 1.25), (10_000, 1.35)):
        for protocol in ("websocket", "centrifuge"):
            ratio = results.ratio("pushserver", protocol, clients)
            if ratio is not None:
                name = f"CPU for each delivery, {clients:,}, {protocol}"
                rows.append(
                    _verdict(name, f"≤ {most} × limit", f"{ratio:.2f} × limit", ratio <= most)
                )
    ratio = results.ratio("pushserver", "sse", 1_000)
    if ratio is not None:
        measured = f"{ratio:.2f} × limit"
        rows.append(_verdict("the same, 1,000, SSE", "≤ 1.3 × its limit", measured, ratio <= 1.3))
    return rows


def _peer_goals(results: Results) -> list[Row]:
    rows = []
    bounds = (
        ("nginx + nchan", "websocket", 1.0),
        ("websockets", "websocket", 0.65),
        ("python-socketio", "socketio", 0.12),
    )
    for peer, protocol, most in bounds:
        theirs = results.cost(peer, protocol, 1_000)
        for own in ("websocket", "centrifuge"):
            ours = results.cost("pushserver", own, 1_000)
            if ours and theirs:
                ratio = ours.over(theirs)
                name = f"the same, 1,000, {own}, beside {peer}"
                rows.append(_verdict(name, f"≤ {most} ×", f"{ratio:.2f} ×", ratio <= most))
    return rows


def _flat(results: Results) -> list[Row]:
    sizes = sorted({r.clients for r in _fan_outs(results) if (r.server, r.protocol) == _CENTRIFUGE})
    costs = [cost.middle for n in sizes if (cost := results.cost(*_CENTRIFUGE, n))]
    if len(costs) < 2:
        return []
    spread = max(costs) / min(costs)
    name = f"the same from {sizes[0]:,} to {sizes[-1]:,} clients"
    return [_verdict(name, "± 20 %", f"{spread:.2f} × between them", spread <= 1.5)]


_CENTRIFUGE = ("pushserver", "centrifuge")


def _alone(results: Results) -> list[Row]:
    limit = results.completion("limit", "websocket", 1_000)
    ours = results.completion("pushserver", "websocket", 1_000)
    if not limit or not ours:
        return []
    measured = f"{ours.over(limit):.2f} × ({ours.middle:.1f} ms)"
    met = ours.over(limit) <= 1.3
    return [_verdict("one publication alone, to the last of 1,000", "≤ 1.3 ×", measured, met)]


def _flood(results: Results) -> list[Row]:
    rows = []
    run = results.first("pushserver", "flood")
    if run:
        windows = run.windows
        rate = figure(map(deliveries_per_second, windows))
        share = figure(map(core_share, windows))
        p50 = figure(w["groups"][0]["times"]["p50_us"] / 1000 for w in windows)
        measured = f"{rate.middle:,.0f}/s, {share.middle:.0%} of a core, p50 {p50.middle:.0f} ms"
        met = rate.middle >= 950_000 and share.middle <= 0.75 and p50.middle <= 50
        met = met and not run.complaints()
        must = "1 million deliveries/s, ≤ 75 % of a core, p50 ≤ 50 ms, none lost"
        rows.append(_verdict("flood: 1,000/s × 1,000", must, measured, met))
    ours = results.first("pushserver", "maximum")
    nchan = results.first("nginx + nchan", "maximum")
    if ours and nchan:
        most, other = (figure(map(deliveries_per_second, found.windows)) for found in (ours, nchan))
        measured = f"{most.over(other):.1f} × ({most.middle:,.0f}/s)"
        met = most.over(other) >= 10
        rows.append(_verdict("most deliveries a second", "≥ 10 × nchan's", measured, met))
    return rows


def _connection_goals(results: Results) -> list[Row]:
    largest = [r for r in _fan_outs(results) if (r.server, r.protocol) == _CENTRIFUGE]
    if not largest:
        return []
    run = max(largest, key=lambda found: found.clients if found.clients <= 10_000 else 0)
    size, cost = run.connection_kilobytes(), run.connect_microseconds()
    rows = [
        _verdict(f"memory a connection, {run.clients:,}", "≤ 8 KB", f"{size:.1f} KB", size <= 8),
        _verdict("CPU a connect and subscribe", "≤ 300 µs", f"{cost:.0f} µs", cost <= 300),
    ]
    if "idle" in run.told:
        share = core_share(run.told["idle"])
        name = f"idle, {run.clients:,} connections"
        rows.append(_verdict(name, "≤ 2 % of a core", f"{share:.1%}", share <= 0.02))
    return rows


def _storms(results: Results) -> list[Row]:
    rows = []
    for run in results.runs:
        if run.scenario != "storm":
            continue
        told = run.told["storm"]
        others = told["groups"][0]["times"]["p99_us"] / 1000
        cost = told["cpu_seconds"] / max(1, told["back"]) * 1e6
        measured = (
            f"{told['back']:,} back in {told['seconds']:.1f} s ({cost:.0f} µs each), "
            f"others' p99 {others:.0f} ms"
        )
        met = told["seconds"] <= 8 and others <= 250 and not run.complaints()
        name = f"reconnect storm, {run.clients:,}, {run.protocol}, 20 to recover each"
        rows.append(_verdict(name, "≤ 8 s, others' p99 ≤ 250 ms", measured, met))
    return rows


def _stalls(results: Results) -> list[Row]:
    alone = results.first("pushserver", "readers alone")
    beside = results.first("pushserver", "5 % stalled")
    if not alone or not beside:
        return []
    # The readers' share: what is sent to those that never read is none of theirs.
    shares = [
        figure(w["cpu_seconds"] / max(1, w["groups"][0]["times"]["count"]) for w in run.windows)
        for run in (alone, beside)
    ]
    more = shares[1].over(shares[0]) - 1
    dropped, stalled = (beside.told["groups"][1][name] for name in ("closed", "clients"))
    memory = (max(w["rss_kb"] for w in beside.windows) - beside.told["rss_kb"]) / 1024
    measured = (
        f"readers lost {beside.told['groups'][0]['missing']}, CPU {more:+.0%}, "
        f"{dropped} of {stalled} dropped, memory {memory:+.0f} MB"
    )
    met = not beside.complaints() and more <= 0.1 and dropped == stalled
    must = "readers lose nothing, CPU + 10 % at most, each dropped"
    return [_verdict("5 % never read", must, measured, met)]


def _publishing(results: Results) -> list[Row]:
    rows = []
    for name, least in (("in process", 100_000), ("SQLite", 20_000), ("post", 3_000)):
        run = results.first("pushserver", name)
        if run:
            rate = figure(map(publications_per_second, run.windows))
            what = {"post": "by HTTP keep-alive", "SQLite": "in process, SQLite batched"}
            label = f"publish, history on, nobody watching, {what.get(name, name)}"
            measured = f"{rate.middle:,.0f}/s"
            rows.append(_verdict(label, f"≥ {least:,}/s", measured, rate.middle >= least))
    return rows


def _channels(results: Results) -> list[Row]:
    run = results.first("pushserver", "many channels")
    one = results.cost("pushserver", "websocket", 10_000)
    if not run or not one:
        return []
    cost = figure(w["cpu_seconds"] / max(1, w["deliveries"]) * 1e6 for w in run.windows)
    ratio = cost.over(one)
    name = "1,000 channels × 10 subscribers, beside one with 10,000"
    return [_verdict(name, "≤ 1.5 × a delivery's cost", f"{ratio:.2f} ×", ratio <= 1.5)]
