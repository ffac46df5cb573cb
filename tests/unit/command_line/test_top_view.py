"""The report and the lines of `pushserver top`, from answers of a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.cli import DEFAULT_URL
from pushserver.command_line.top_report import make_report
from pushserver.command_line.top_view import columns, cut, duration, number, size, view
from tests.e2e.blocks import block_with
from tests.unit.fakes.loads import channel, load, reader, source


def lines(
    answer: dict[str, Any],
    width: int = 200,
    height: int = 100,
    before: Any = None,
    sort: str = "subscribers",
) -> list[str]:
    return view(make_report(answer, before), "title", width, height, sort)


class TestReport:
    def test_rates_are_those_between_two_answers(self) -> None:
        before, now = load(60.0), load(62.0, channels=[channel("a", 3, 17), channel("b", 1, 5)])
        now["metrics"]["items"] |= {"publications": 14, "refusals.queue_bytes": 1}
        report = make_report(now, before)
        assert report["seconds"] == 2.0
        assert (report["rates"]["publications"], report["rates"]["refusals"]) == (2.0, 0.5)
        assert report["totals"]["refusals"] == 4
        a, b = report["channels"]
        assert (a["publications"], a["deliveries"]) == (5.0, 15.0)
        # It was not in the list before.
        assert (b["publications"], b["deliveries"]) == (None, None)

    @pytest.mark.parametrize(
        "before",
        [
            None,
            load(60.0, uid="another"),
            # After a restart with a store.
            load(90.0),
            load(61.0),
        ],
    )
    def test_without_an_earlier_answer_of_the_same_run_there_are_no_rates(
        self, before: dict[str, Any] | None
    ) -> None:
        report = make_report(load(61.0), before)
        assert {*report["rates"].values(), report["seconds"]} == {None}
        assert report["channels"][0]["publications"] is None

    def test_the_rate_of_a_channel_with_new_offsets_is_unknown(self) -> None:
        before = load(60.0, channels=[channel("a", 1, 9, "old"), channel("b", 1, 9)])
        now = load(61.0, channels=[channel("a", 1, 12, "new"), channel("b", 1, 2)])
        assert [row["publications"] for row in make_report(now, before)["channels"]] == [None] * 2

    def test_is_json(self) -> None:
        report = make_report(load(61.0), load(60.0))
        assert json.loads(json.dumps(report, allow_nan=False)) == report

    @pytest.mark.parametrize(
        "answer",
        [
            load(uptime=[]),  # type: ignore[arg-type]
            load(num_clients=None),
            load(num_clients=float("inf")),
            load(channels=[{}]),
            load(channels=[channel([])]),  # type: ignore[arg-type]
            load(channels=7),
            load(readers=[reader(bytes="many")]),
            load(sources=[source(state=1)]),
            load(metrics={}),
            {},
        ],
    )
    def test_an_answer_of_another_server_is_an_error(self, answer: dict[str, Any]) -> None:
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError, OverflowError)):
            make_report(answer, load(1.0))


class TestView:
    def test_has_all_parts(self) -> None:
        assert lines(load(62.0, channels=[channel("a", 2, 8)]), before=load(60.0)) == [
            "title",
            "3 clients  2 users  5 subscriptions  4 watched channels",
            "3 sse",
            "0.0 publications/s  0.0 deliveries/s  0 B/s",
            "1.5 kB unread by 1 clients  1 dropped  7 refused",
            "",
            "SUBSCRIBERS  PUBL/S  DELIV/S  CHANNEL",
            "          2     0.5      1.0  a",
            "",
            "UNREAD  STUCK  TRANSPORT  SLOW READER",
            "1.5 kB    2 s  websocket  192.0.2.7:5000  ada",
            "",
            "PUBL/S  ERRORS    STATE  SOURCE",
            "   0.5       0  running  numbers",
        ]

    def test_has_no_table_without_rows(self) -> None:
        answer = load(channels=[], readers=[], sources=[])
        assert len(lines(answer)) == 5

    def test_sorts_channels_by_subscribers_or_publications(self) -> None:
        before = load(60.0, channels=[channel("a", 1, 0), channel("b", 2, 0)])
        now = load(61.0, channels=[channel("a", 1, 9), channel("b", 2, 1), channel("c", 0, 99)])
        by = {
            sort: [line[-1] for line in lines(now, before=before, sort=sort)[7:10]]
            for sort in ("subscribers", "publications")
        }
        assert by == {"subscribers": ["b", "a", "c"], "publications": ["a", "b", "c"]}

    def test_has_sources_with_errors_first(self) -> None:
        bad = source(name="z", state="backing off", last_error="no\nway")
        shown = lines(load(sources=[source(), bad]))
        assert shown[-2:] == [
            "   0.5       0  backing off  z  no\\nway",
            "   0.5       0      running  numbers",
        ]

    def test_a_narrow_terminal_has_more_lines_above_the_tables(self) -> None:
        shown = lines(load(), 24)
        assert shown[1:4] == ["3 clients  2 users", "5 subscriptions", "4 watched channels"]
        assert "SUBSCRIBERS  PUBL/S  DEL" in shown

    def test_a_short_terminal_shares_its_lines_among_the_tables(self) -> None:
        answer = load(channels=[channel(f"c{n:02}") for n in range(40)])
        shown = lines(answer, 80, 20)
        assert len(shown) == 20
        assert "... 34 more" in shown
        assert shown[-1].endswith("numbers")
        assert shown[-4].endswith("ada")

    @pytest.mark.parametrize("height", range(12))
    def test_a_terminal_of_few_lines_has_the_first_ones(self, height: int) -> None:
        shown = lines(load(), 80, height)
        assert len(shown) <= height
        assert shown == lines(load())[: len(shown)]

    @given(
        st.text(max_size=40),
        st.lists(st.text(max_size=20), max_size=8),
        st.integers(1, 60),
        st.integers(0, 30),
    )
    def test_fits_into_each_terminal_and_cannot_move_its_cursor(
        self, title: str, names: list[str], width: int, height: int
    ) -> None:
        answer = load(
            version=title,
            channels=[channel(name, len(name)) for name in names],
            readers=[reader(address=name, user=name, transport=name) for name in names],
            sources=[source(name=name, state=name, last_error=name) for name in names],
            connections=[{"transport": n, "protocol": n, "count": 1} for n in names],
        )
        shown = view(make_report(answer, None), title, width, height)
        assert len(shown) <= height
        for line in shown:
            assert line == "" or line.isprintable()
            assert columns(line) <= width


def test_the_example_of_the_document_is_a_view() -> None:
    shown = block_with("docs/monitoring.md", "up 3 h 12 min").text.splitlines()
    before, now = (
        load(
            uptime,
            version="pushserver 1.0.0",
            num_clients=5_012,
            num_users=812,
            num_subs=5_430,
            num_channels=118,
            connections=[
                {"transport": "sse", "protocol": "plain", "count": 900},
                {"transport": "websocket", "protocol": "centrifuge", "count": 4_100},
                {"transport": "websocket", "protocol": "plain", "count": 12},
            ],
            channels=[
                channel("metrics", 0, int(49 * uptime)),
                channel("news", 4_100, int(uptime)),
                channel("prices", 90, int(2 * uptime)),
            ],
            unsent={"clients": 2, "bytes": 2_340_000, "most": 268_435_456},
            readers=[
                reader(
                    address="192.0.2.9", transport="polling", user="", bytes=120e3, seconds=None
                ),
                reader(address="192.0.2.7:50412", bytes=2_220_000, seconds=12.25),
            ],
            sources=[
                source(
                    name="weather",
                    state="backing off",
                    rate=0.0,
                    errors=3,
                    last_error="Connection was refused",
                ),
                source(name="news", rate=1.0),
            ],
        )
        for uptime in (11_520.0, 11_521.0)
    )
    now["metrics"]["items"] = {
        "publications": 62,
        "deliveries": 4_300,
        "delivered_bytes": 1_203_000,
        "slow": 1,
        "gaps": 0,
    }
    before["metrics"]["items"] = now["metrics"]["items"] | {
        "publications": 10,
        "deliveries": 20,
        "delivered_bytes": 3_000,
    }
    assert view(make_report(now, before), shown[0]) == shown
    assert shown[0].startswith(f"pushserver 1.0.0 at {DEFAULT_URL}, up {duration(11_521)}, ")


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "width", "shown"),
        [
            ("中中中", 5, "中中"),
            ("中中", 4, "中中"),
            ("e\u0301e\u0301e\u0301", 2, "e\u0301e\u0301"),
            ("abc", 2, "ab"),
            ("\x1b", 2, "\\x"),
            ("abc", 0, ""),
        ],
    )
    def test_wide_characters_take_two_columns_and_accents_none(
        self, text: str, width: int, shown: str
    ) -> None:
        assert cut(text, width) == shown

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (123_456, "123 kB"),
            (5e6, "5.0 MB"),
            (7e12, "7,000.0 GB"),
            (None, "-"),
        ],
    )
    def test_sizes_have_units(self, value: float | None, shown: str) -> None:
        assert size(value) == shown

    def test_numbers_have_no_more_digits_than_needed(self) -> None:
        assert [number(value) for value in (None, 0.0, 99.94, 12_345.6)] == [
            "-",
            "0.0",
            "99.9",
            "12,346",
        ]

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            (0, "0 s"),
            (61, "1 min 1 s"),
            (3_600, "1 h 0 min"),
            (90_000, "1 d 1 h"),
            (8.64e8, "10,000 d 0 h"),
        ],
    )
    def test_times_have_their_two_largest_units(self, seconds: float, shown: str) -> None:
        assert duration(seconds) == shown
