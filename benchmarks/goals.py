"""The goals of pushserver, and whether the results meet them."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.results import (
    Results,
    Run,
    core_share,
    deliveries_per_second,
    delivery_microseconds,
    figure,
    peak_kilobytes,
    publication_microseconds,
    publications_per_second,
)


class Goal(NamedTuple):
    """One measured goal."""

    name: str
    must: str
    measured: str
    met: bool


def goals(results: Results) -> list[Goal]:
    """All goals that these results cover."""
    costs = (_cost_goals, _peer_goals, _socketio_connects, _flat, _alone, _flood, _connection_goals)
    others = (_turns, _storms, _stalls, _tenth, _long, _publishing, _channels)
    return [row for part in (*costs, *others) for row in part(results)]


def _cost_goals(results: Results) -> list[Goal]:
    rows = []
    both = ("websocket", "centrifuge")
    for clients, most, protocols in (
        (1_000, 1.25, both),
        (10_000, 1.35, both),
        (1_000, 1.35, ("socketio",)),
    ):
        for protocol in protocols:
            ratio = results.ratio("pushserver", protocol, clients)
            if ratio is not None:
                name = f"CPU for each delivery, {clients:,}, {protocol}"
                rows.append(Goal(name, f"≤ {most} × limit", f"{ratio:.2f} × limit", ratio <= most))
    ratio = results.ratio("pushserver", "sse", 1_000)
    if ratio is not None:
        measured = f"{ratio:.2f} × limit"
        rows.append(
            Goal("CPU for each delivery, 1,000, SSE", "≤ 1.3 × its limit", measured, ratio <= 1.3)
        )
    return rows


def _peer_goals(results: Results) -> list[Goal]:
    rows = []
    both = ("websocket", "centrifuge")
    bounds = (
        ("nginx + nchan", "websocket", 1.0, both),
        ("websockets", "websocket", 0.65, both),
        ("python-socketio", "socketio", 0.12, both),
        ("Socket.IO (Node)", "socketio", 0.6, ("socketio",)),
    )
    for peer, protocol, most, protocols in bounds:
        theirs = results.cost(peer, protocol, 1_000)
        for own in protocols:
            ours = results.cost("pushserver", own, 1_000)
            if ours and theirs:
                ratio = ours.over(theirs)
                name = f"CPU for each delivery, 1,000, {own}, relative to {peer}"
                rows.append(Goal(name, f"≤ {most} ×", f"{ratio:.2f} ×", ratio <= most))
    return rows


def _socketio_connects(results: Results) -> list[Goal]:
    rows = []
    for protocol, way in (("socketio", "by WebSocket"), ("upgrade", "by polling and upgrade")):
        found = [
            [run.connect_microseconds() for run in results.find(server, protocol, 1_000)]
            for server in ("pushserver", "Socket.IO (Node)")
        ]
        if all(found):
            ours, theirs = map(figure, found)
            ratio = ours.over(theirs)
            name = f"CPU a connect of Socket.IO, {way}, relative to Socket.IO (Node)"
            measured = f"{ratio:.2f} × ({ours.middle:.0f} µs)"
            rows.append(Goal(name, "≤ 1.2 ×", measured, ratio <= 1.2))
    return rows


def _flat(results: Results) -> list[Goal]:
    sizes = sorted({r.clients for r in results.fan_outs() if (r.server, r.protocol) == _CENTRIFUGE})
    costs = [cost.middle for n in sizes if (cost := results.cost(*_CENTRIFUGE, n))]
    if len(costs) < 2:
        return []
    spread = max(costs) / min(costs)
    name = f"CPU for each delivery, from {sizes[0]:,} to {sizes[-1]:,} clients"
    return [Goal(name, "± 20 %", f"{spread:.2f} × between least and most", spread <= 1.5)]


_CENTRIFUGE = ("pushserver", "centrifuge")


def _alone(results: Results) -> list[Goal]:
    limit = results.completion("limit", "websocket", 1_000)
    ours = results.completion("pushserver", "websocket", 1_000)
    if not limit or not ours:
        return []
    measured = f"{ours.over(limit):.2f} × ({ours.middle:.1f} ms)"
    met = ours.over(limit) <= 1.3
    return [Goal("one publication alone, to the last of 1,000", "≤ 1.3 ×", measured, met)]


def _flood(results: Results) -> list[Goal]:
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
        rows.append(Goal("flood: 1,000/s × 1,000", must, measured, met))
    ours = results.first("pushserver", "maximum")
    nchan = results.first("nginx + nchan", "maximum")
    if ours and nchan:
        most, other = (figure(map(deliveries_per_second, found.windows)) for found in (ours, nchan))
        measured = f"{most.over(other):.1f} × ({most.middle:,.0f}/s)"
        met = most.over(other) >= 10
        rows.append(Goal("most deliveries a second", "≥ 10 × nchan's", measured, met))
    return rows


def _connection_goals(results: Results) -> list[Goal]:
    rows = []
    for protocol in ("websocket", "centrifuge"):
        run = _largest(results, protocol)
        if run is not None:
            cost = run.connect_microseconds()
            name = f"CPU a connect and subscribe, {protocol}"
            rows.append(Goal(name, "≤ 300 µs", f"{cost:.0f} µs", cost <= 300))
    run = _largest(results, "centrifuge")
    if run is None:
        return rows
    size = run.connection_kilobytes()
    name = f"memory a connection, {run.clients:,}"
    rows.append(Goal(name, "≤ 8 KB", f"{size:.1f} KB", size <= 8))
    if "idle" in run.told:
        idle = run.told["idle"]
        share = core_share(idle)
        measured = f"{share:.1%}"
        if idle.get("answered"):
            each = idle["cpu_seconds"] / idle["answered"] * 1e6
            measured += f", {each:.0f} µs for each ping and its pong"
        name = f"idle, {run.clients:,} connections"
        rows.append(Goal(name, "≤ 2 % of a core", measured, share <= 0.02))
    return rows


def _largest(results: Results, protocol: str) -> Run | None:
    """The fan-out with the most clients, up to 10,000 if there is one."""
    found = [r for r in results.fan_outs() if (r.server, r.protocol) == ("pushserver", protocol)]
    return max(found, key=lambda run: run.clients if run.clients <= 10_000 else 0, default=None)


def _turns(results: Results) -> list[Goal]:
    found = [run.told["turns"] for run in results.find(*_CENTRIFUGE, 10_000) if "turns" in run.told]
    if not found:
        return []
    turn, collection = (
        max(told[name] for told in found) * 1000 for name in ("longest_turn", "longest_collection")
    )
    measured = f"{turn:.0f} and {collection:.0f} ms"
    name = "longest reactor turn at 10,000 without garbage collections, and longest collection"
    return [Goal(name, "≤ 15 and 20 ms", measured, turn <= 15 and collection <= 20)]


def _storms(results: Results) -> list[Goal]:
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
        rows.append(Goal(name, "≤ 8 s, others' p99 ≤ 250 ms", measured, met))
    return rows


def _stalls(results: Results) -> list[Goal]:
    alone = results.first("pushserver", "readers alone")
    beside = results.first("pushserver", "5 % stalled")
    if not alone or not beside:
        return []
    # The share of the readers, without the bytes for clients that never read.
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
    return [Goal("5 % never read", must, measured, met)]


def _tenth(results: Results) -> list[Goal]:
    alone = results.first("pushserver", "nine tenths alone")
    beside = results.first("pushserver", "a tenth stalled")
    if not alone or not beside:
        return []
    readers, stalled = beside.told["groups"]
    p99 = [
        figure(w["groups"][0]["times"]["p99_us"] / 1000 for w in run.windows)
        for run in (alone, beside)
    ]
    rise = [(peak_kilobytes(run) - run.told["rss_kb"]) / 1024 for run in (alone, beside)]
    kernel = max(w["peak_tcp_kb"] for w in beside.windows) / 1024
    sent = figure(w["bytes"] / w["seconds"] / 1e6 for w in beside.windows)
    bound = stalled["clients"] * 4
    dropped = [w["groups"][1]["closed"] for w in beside.windows]
    met = dropped[-1] == stalled["clients"]
    windows = beside.windows[: dropped.index(dropped[-1]) + 1]
    seconds = sum(w["seconds"] for w in windows)
    measured = (
        f"readers lost {readers['missing']}, p99 {p99[1].middle:.0f} ms, in the worst of "
        f"{len(beside.windows)} windows {p99[1].most:.0f} (alone {p99[0].middle:.0f} and "
        f"{p99[0].most:.0f}), at {sent.middle:.0f} MB/s; "
        f"{dropped[-1]:,} dropped within {seconds:.0f} s, memory "
        f"{rise[1]:+.0f} MB (alone {rise[0]:+.0f}), all sockets in the kernel {kernel:,.0f} MB"
    )
    met = met and not beside.complaints() and rise[1] <= bound
    must = f"readers lose nothing, each dropped, memory below {bound:,} MB"
    name = f"{stalled['clients']:,} never read beside {readers['clients']:,} that do"
    return [Goal(name, must, measured, met)]


def _long(results: Results) -> list[Goal]:
    run = results.first("pushserver", "long publication")
    if not run:
        return []
    told = run.told["once"]
    others = told["groups"][0]["times"]
    rise = (told["peak_rss_kb"] - run.told["rss_kb"]) / 1024
    lost = sum(group["missing"] + group["closed"] for group in run.told["groups"])
    measured = (
        f"delivered to all after {told['seconds']:.1f} s, "
        f"others' p99 {others['p99_us'] / 1000:.0f} ms, "
        f"memory {rise:+.0f} MB, lost {lost}"
    )
    clients, small = told["clients"], run.told["groups"][0]["clients"]
    name = f"one publication of {told['size'] / 2**20:.0f} MB to {clients:,}, small ones to {small}"
    return [Goal(name, "nothing lost, nobody dropped", measured, not run.complaints())]


def _publishing(results: Results) -> list[Goal]:
    rows = []
    for name, least in (("in process", 100_000), ("SQLite", 20_000), ("post", 20_000)):
        run = results.first("pushserver", name)
        if run:
            rate = figure(map(publications_per_second, run.windows))
            what = {"post": "by HTTP keep-alive", "SQLite": "in process, SQLite batched"}
            label = f"publish, history on, nobody watching, {what.get(name, name)}"
            measured = f"{rate.middle:,.0f}/s"
            rows.append(Goal(label, f"≥ {least:,}/s", measured, rate.middle >= least))
    ours, theirs = (results.first(server, "post") for server in ("pushserver", "nginx + nchan"))
    if ours and theirs:
        cost = figure(map(publication_microseconds, ours.windows))
        ratio = cost.over(figure(map(publication_microseconds, theirs.windows)))
        name = "CPU a publication by HTTP keep-alive, relative to nchan"
        measured = f"{ratio:.1f} × ({cost.middle:.0f} µs)"
        rows.append(Goal(name, "≤ 7.2 ×", measured, ratio <= 7.2))
    return rows


def _channels(results: Results) -> list[Goal]:
    run = results.first("pushserver", "many channels")
    one = results.cost("pushserver", "websocket", 10_000)
    if not run or not one:
        return []
    cost = figure(run.values(delivery_microseconds))
    ratio = cost.over(one)
    channels = run.told["groups"][0]["channels"]
    name = f"{channels:,} channels × {run.clients // channels} subscribers, beside one with 10,000"
    if channels < 10_000:
        name += " (this machine's limit of open files allows no more)"
    measured = f"{ratio:.2f} × ({cost.middle:.1f} µs)"
    return [Goal(name, "≤ 1.5 × a delivery's cost", measured, ratio <= 1.5)]
