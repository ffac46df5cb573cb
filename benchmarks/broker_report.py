"""The section about several servers of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.brokers import CATCH_UP, PAIRS, RATE, RATES, SIMULATED, Figures
from benchmarks.report import table

ABOUT = """\
`python -m benchmarks redis` measures [several servers](scaling.md#several-servers) on one Redis,
beside Socket.IO's adapters and python-socketio's manager on the same Redis, in one run. Each figure
in µs is the CPU time of the process that it names, the median of three to ten windows with least
and most in brackets. All servers and Redis share one core, so times of the wall depend on other
work on the machine (its load is below); what one Redis takes in a second is computed from the
least CPU time.
"""
GOALS: tuple[tuple[str, Callable[[Figures], float | None], str, float, bool], ...] = (
    (
        "publications/s through one Redis",
        lambda found: _inverse(found.least("publish, us of Redis")),
        "≥ 20,000",
        20_000,
        True,
    ),
    (
        "µs of a server for a publication that nobody watches there",
        lambda found: found.least("unwatched, us of the node"),
        "≤ 3",
        3,
        False,
    ),
    (
        "ms of a lone publication to a client of another server",
        lambda found: found.middle("pushserver, ms to a client"),
        "≤ 1",
        1,
        False,
    ),
)


def section(found: Figures) -> str:
    """The section."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    machine = ", ".join(f"{name}: {value}" for name, value in found.machine.items())
    missing = "".join(f"- Missing: {name}: {why}\n" for name, why in found.missing.items())
    parts = [
        "\n## Several servers\n",
        ABOUT,
        table(("what", "median (least - most)"), _rows(found)),
        _pairs(found),
        table(("goal", "must", "measured", ""), _goals(found)),
        f"{found.when}; {machine}; {versions}.\n",
        missing,
    ]
    return "\n".join(part for part in parts if part)


def _rows(found: Figures) -> list[Sequence[str]]:
    each = [
        ("a bare XADD in a pipeline, µs of Redis", "floor XADD, us of Redis"),
        ("an entry of XREAD, µs of Redis", "floor XREAD, us of Redis"),
        ("an entry of XREAD, µs of a reader in C", "floor XREAD, us of the reader"),
        ("a publication, µs of Redis", "publish, us of Redis"),
        ("a publication that nobody watches, µs of the server", "unwatched, us of the node"),
        (
            f"a server comes back to {CATCH_UP:,} publications, ms of its CPU",
            "catching up, ms of CPU",
        ),
        ("the same, ms of the wall", "catching up, ms"),
        ("a server without publications, % of a core", "an idle node, % of a core"),
        ("the same, % of Redis", "an idle node, % of Redis"),
    ]
    for rate in RATES:
        name = f"{SIMULATED} nodes, {rate:,.0f}/s"
        text = f"a publication of {rate:,.0f} a second at {SIMULATED} servers"
        each += [
            (f"{text}, µs of Redis", f"{name}, us of Redis"),
            (f"{text}, µs of each", f"{name}, us of each node"),
        ]
    return [(text, _figure(found, key)) for text, key in each]


def _pairs(found: Figures) -> str:
    head = (
        f"at {RATE:,.0f} publications a second",
        "µs of the server that publishes",
        "µs of Redis",
        "µs of another server without clients",
        "ms of a lone one to a client there",
    )
    keys = ("us of the server", "us of Redis", "us of another", "ms to a client")
    rows = [(each.name, *(_figure(found, f"{each.name}, {key}") for key in keys)) for each in PAIRS]
    return table(head, rows)


def _goals(found: Figures) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for name, value_of, must, bound, is_least in GOALS:
        value = value_of(found)
        met = value is not None and (value >= bound if is_least else value <= bound)
        text = "-" if value is None else f"{value:,.0f}" if is_least else f"{value:.1f}"
        rows.append((name, must, text, "met" if met else "**falls short**"))
    return rows


def _inverse(microseconds: float | None) -> float | None:
    return None if microseconds is None else 1e6 / microseconds


def _figure(found: Figures, key: str) -> str:
    values = found.values.get(key)
    if not values:
        return "-"
    texts = [_number(value) for value in (found.middle(key) or 0.0, min(values), max(values))]
    return f"{texts[0]} ({texts[1]}-{texts[2]})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
