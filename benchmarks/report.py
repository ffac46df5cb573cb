"""The report of a benchmark in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import scaling
from benchmarks.goals import Goal, goals
from benchmarks.results import Figure, Results, Run

NAMES = {
    ("limit", "websocket"): "C, one `send()` a client (the limit)",
    ("limit", "sse"): "C, one `send()` a client, SSE (the limit of SSE)",
    ("pushserver", "websocket"): "**pushserver**, raw WebSocket",
    ("pushserver", "centrifuge"): "**pushserver**, Centrifuge protocol",
    ("pushserver", "sse"): "**pushserver**, SSE",
    ("pushserver", "socketio"): "**pushserver**, Socket.IO",
    ("pushserver", "upgrade"): "**pushserver**, Socket.IO, polling and upgrade",
    ("pushserver", "polling"): "**pushserver**, Socket.IO by polling",
    ("Socket.IO (Node)", "upgrade"): "Socket.IO (Node), polling and upgrade",
    ("Socket.IO (Node)", "polling"): "Socket.IO (Node) by polling",
    ("python-socketio", "upgrade"): "python-socketio, polling and upgrade",
    ("python-socketio", "polling"): "python-socketio by polling",
    ("pushserver", "deflate"): "**pushserver**, raw WebSocket, permessage-deflate",
    ("picows", "websocket"): "picows on uvloop (Cython)",
    ("websockets", "websocket"): "Python `websockets` on uvloop, `broadcast()`",
    ("Autobahn", "websocket"): "Autobahn on Twisted, `sendPreparedMessage()`",
}
COMPARED = (1_000, 10_000)
KINDS = {
    "full": "a full run",
    "quick": "a quick run: ours and the limit only",
    "socketio": "Socket.IO and the limit only",
    "workers": "workers only",
}
MADE = """\
This page compares the cost of a publication with other servers. `make bench` generates it; do not
edit. [benchmarks/README.md](../benchmarks/README.md) has the method, and how to profile the server.
"""
METHOD = """\
One process publishes a 98-byte JSON event to N clients over loopback. The server has one core, and
the load tool has the other and counts every loss and repetition. The measure is the server's CPU
time for each publication that reached a client, over three windows: the median, with minimum and
maximum in brackets. Times and maxima on a shared machine are indicative only; differences under
15 % are not significant.

The limit is a C program that formats an event once and calls `send()` once for each client. It has
no queue, no history and no channel names, and drops a client that does not take a whole frame.
Nearly all of its time is in the kernel. A server that sends once for each client cannot be below
1.00; a server that joins several publications into one send, as pushserver does when it is behind,
can. The limit is measured first and last with the same number of clients, in the same run as all
servers. SSE has more bytes, so it has its own limit.

pushserver runs complete and with its default settings: history on, pings on. The other servers
broadcast as their own documentation recommends. Features that they lack (history, recovery, a bound
for slow readers) cost them nothing here.
"""
REACTORS = """\
`pushserver serve` runs an application with coroutines on [asyncio's
reactor](applications.md#asyncio). In runs that alternated between the reactors at 1,000 clients
(2026-11-29, six pairs), a delivery cost 1.02 times as much as on epoll (0.87 to 1.19), and a
connect and subscribe 1.06 times (0.95 to 1.16). 1,000 idle connections used 0.11 % of a core, and
0.09 % on epoll.
"""
SOCKETIO = """\
Socket.IO: medians of two runs that alternated between the servers at 1,000 clients (2026-11-29,
`python -m benchmarks socketio`). In three such runs, a delivery over WebSocket cost 0.98, 1.17 and
1.24 times the limit's and 0.53 to 0.55 times Node's, a connect by WebSocket 0.40 to 0.48 times
Node's, and one with an upgrade 0.73 to 0.88 times.

| | pushserver | Node 4.8.4 | python-socketio 5.18.1 |
| --- | --- | --- | --- |
| µs a delivery over WebSocket, also after an upgrade | 6.9 | 13.2 | 77 |
| µs a delivery by polling, with its request | 170 | 59 | 326 |
| CPU µs a connect by WebSocket | 256 | 602 | 789 |
| CPU µs a connect by polling, and the upgrade | 918 | 1,265 | 1,829 |
| KB a connection by WebSocket | 4.2 | 25.5 | 40.6 |
"""
WORKERS = """\
`python -m benchmarks workers` measures one process and [workers](scaling.md) in turn. The load tool
needs one of the two cores, so all processes of the server share the other one, and nothing was
measured on two free cores. The CPU time of each process is measured by itself. What they would do
with a free core for each worker is computed from it: no process uses more than one core, and all
together use no more than there are. The factors compare windows of one run, with minimum and
maximum in brackets.
"""
WAKE_UPS = """
No program can avoid the two further wake-ups of a lone publication through a worker: on this
virtual machine, two processes that pass 200 bytes to and fro over a socket pair need 110 µs on one
idle core, and 240 µs on two.
"""
LIVE_PAGE = """\
The first visit of the live page, with a graph, has 97 KB over the wire with gzip, and about 86 KB
with brotli (`https`, and the wheel); a test in Chromium asserts at most 120 KB. The next visit has
2 KB. `tools/first_paint.py` measures it on the slow lines of Chromium, from an empty cache
(2026-11-30, five runs in turn, median with minimum and maximum, at a load of 8). Without the
bundle and with 171 KB, the first paint was at 888, 1,596 and 3,124 ms.

| line | ms a request | kbit/s | first paint, ms | the same on a phone, ms |
| --- | --- | --- | --- | --- |
| 3G, good | 150 | 1,600 | 504 (500-576) | 732 (720-872) |
| Fast 3G of the developer tools | 562.5 | 1,440 | 1,344 (1,340-1,380) | 1,624 (1,484-1,948) |
| 3G, poor | 400 | 400 | 1,372 (1,352-1,400) | 1,548 (1,504-1,624) |

The phone (`--phone`, three runs) has 390 pixels and a processor that is four times slower. On it,
the layout shifts by 0.0001 while the page loads and fills (the sum of Chromium's scores; 0.1 is
good).

`make smooth` publishes 100 events a second for ten minutes, and fails if the page grows. On an idle
machine (2026-11-30), no task took more than 50 ms in nine of the ten minutes, and one took 66 ms
when other work began. The heap stayed between 3.7 and 3.9 MB, and the page used 15 to 18 % of a
core.
"""

POSTS = """\
A publication by HTTP keep-alive, from eight connections and without subscribers, costs 0.30 times
the CPU time that it cost without the short path of small requests (2026-11-29, runs that alternated
between the two on a busy machine: 65 and 218 µs; on an idle machine, 105 µs without that path).
On another machine it costs 6.5 times the CPU time of one of nchan (142 and 22 µs, medians of nine
windows of runs in turn); without that path, 17 times.
From 64 connections that send 16 requests at a time, a publication costs 0.25 times the CPU time
that it cost when only single requests took that path (2026-11-29, three pairs: 116 and 463 µs).

A connect of a raw stream, in a storm of 6,000, costs 0.62 times the CPU time that it cost when
Autobahn did the handshake, and a connect and subscribe of the Centrifuge protocol 0.71 times
(2026-11-29, five pairs of storms on a busy machine: 317 and 507 µs, 387 and 542 µs). One of 10,000
raw streams that connect costs 0.67 times the CPU time that it cost with fc4bedc of 2026-11-28
(2026-11-29, five pairs on a busy machine: 269 and 375 µs).

Compared with 0.1.0, in turns on an idle machine (2026-11-30): a start of `twistd pushserver` with
its first page takes 0.84 s of CPU time, 1.12 times as much, and 55.7 MB, 1.16 times as much
(medians of eight); a delivery by raw WebSocket costs 1.06 times as much at 1,000 clients (two
pairs) and as much at 10,000 (four pairs: 12.5 and 12.4 µs); a publication in process that nobody
watches 1.05 times as much (median of six runs in turn).
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comparison(results: Results) -> str:
    """The cost of each server, as a multiple of the limit, and of its connections."""
    sizes = [n for n in COMPARED if any(r.clients == n for r in results.fan_outs())]
    head = ["server", f"µs a delivery at {sizes[0]:,}" if sizes else "µs a delivery"]
    head += [f"× limit at {clients:,}" for clients in sizes]
    head += ["KB a connection", "connects/s", "CPU µs a connect"]
    rows = []
    for server, protocol in dict.fromkeys((r.server, r.protocol) for r in results.fan_outs()):
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
    """Each goal, the measured value, and whether it is met."""
    return _goals(goals(results))


def workers(results: Results) -> str:
    """The tables of a server with workers, and their goals."""
    parts = (
        table(scaling.FAN_OUT, list(scaling.fan_out_rows(results))),
        table(scaling.OTHER_HEAD, list(scaling.other_rows(results))),
        _goals(scaling.goals(results)),
    )
    return "\n".join(parts)


def _goals(found: Sequence[Goal]) -> str:
    rows = [
        [goal.name, goal.must, goal.measured, "met" if goal.met else "**falls short**"]
        for goal in found
    ]
    return table(["goal", "must", "measured", ""], rows) if rows else ""


def shortcomings(results: Results) -> list[str]:
    """The missed goals, and the advantages of other servers."""
    return [
        *(f"{g.name}: {g.measured}, must be {g.must}." for g in goals(results) if not g.met),
        *_better_peers(results),
    ]


def complaints(results: Results) -> list[str]:
    """The runs with unreliable figures, and the reasons."""
    return [
        f"{run.server}, {run.protocol}, {run.scenario}, {run.clients:,} clients: {complaint}"
        for run in results.runs
        for complaint in run.complaints()
    ]


def page(results: Results, several: Results | None = None, brokers: str = "") -> str:
    """The whole page; `several` are the results with workers, `brokers` is a section."""
    machine = ", ".join(f"{name}: {value}" for name, value in results.machine.items())
    used = ", ".join(f"{name} {value}" for name, value in results.versions.items())
    wrong = complaints(results)
    short = shortcomings(results) + [f"Missing: {x}: {why}." for x, why in _missing(results)]
    parts = [
        "# Performance\n",
        MADE,
        METHOD,
        comparison(results),
        REACTORS,
        SOCKETIO,
        POSTS,
        "\n## Goals\n",
        goal_table(results),
        "\n## Where it falls short\n",
        _items(short) or "Every goal is met, and no other server is better in any measure.\n",
        "\n## Losses\n",
        _items(wrong)
        or "None: every publication reached every reading client, once and in order.\n",
        *(_workers_section(several) if several else ()),
        *([brokers] if brokers else ()),
        "\n## The live page\n",
        LIVE_PAGE,
        "\n## Machine and versions\n",
        f"{results.when}, {KINDS.get(results.kind, results.kind)}; {machine}.\n",
        f"{used}.\n",
    ]
    return "\n".join(parts)


def _workers_section(results: Results) -> Iterator[str]:
    yield "\n## Workers\n"
    yield WORKERS
    yield workers(results)
    yield from _items(complaints(results)).splitlines()
    machine = ", ".join(f"{name}: {value}" for name, value in results.machine.items())
    yield f"{results.when}; {machine}; pushserver {results.versions.get('pushserver', '?')}."
    yield WAKE_UPS


def _items(texts: Sequence[str]) -> str:
    return "".join(f"- {text}\n" for text in texts)


def _better_peers(results: Results) -> Iterator[str]:
    """Each server that is better in a figure, on the same protocol."""
    for peer, protocol in dict.fromkeys((r.server, r.protocol) for r in results.fan_outs()):
        if peer in ("limit", "pushserver"):
            continue
        for clients in COMPARED:
            theirs = results.find(peer, protocol, clients)
            ours = results.find("pushserver", protocol, clients)
            if theirs and ours and (better := _better(theirs[0], ours[0])):
                yield f"{peer} at {clients:,} clients is better in {'; '.join(better)}."


def _better(their: Run, our: Run) -> list[str]:
    rows = []
    costs = [run.cost() for run in (their, our)]
    if costs[0] and costs[1]:
        rows.append(("CPU a delivery", costs[0].middle, costs[1].middle, "µs"))
    rows += [
        ("memory a connection", their.connection_kilobytes(), our.connection_kilobytes(), "KB"),
        ("CPU a connect", their.connect_microseconds(), our.connect_microseconds(), "µs"),
    ]
    return [
        f"{what}: {theirs:.1f} {unit}, ours {ours:.1f}"
        for what, theirs, ours, unit in rows
        if theirs < ours
    ]


def _missing(results: Results) -> list[tuple[str, str]]:
    return list(results.missing.items())


def _cost(cost: Figure | None) -> str:
    return f"{cost.middle:.1f} ({cost.least:.1f}-{cost.most:.1f})" if cost else "-"


def _ratio(results: Results, server: str, protocol: str, clients: int) -> str:
    ratio = results.ratio(server, protocol, clients)
    return f"{ratio:.2f}" if ratio is not None else "-"
