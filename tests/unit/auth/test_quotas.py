from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.excess import Excesses
from pushserver.auth.proxies import Proxies
from pushserver.auth.quotas import BURST, RESERVED, Addresses, Connections, Users
from pushserver.errors import TooMany
from pushserver.usercode.rate import LOGGED_AT_ONCE

A, B = "203.0.113.9", "198.51.100.7"


def refusal(connections: Connections, name: str, now: float = 0.0) -> tuple[str, int]:
    """The setting and the status of a refused connection."""
    with pytest.raises(TooMany) as caught:
        connections.enter(name, now)
    assert str(caught.value).endswith(f"({caught.value.setting})")
    return caught.value.setting, caught.value.http_status


class TestConnections:
    def test_of_one_address_are_bounded(self) -> None:
        connections = Connections(100, 3, 1_000)
        for _ in range(3):
            connections.enter(A, 0.0)
        assert refusal(connections, A) == ("connections_per_address", 429)
        connections.enter(B, 0.0)
        connections.leave(A)
        connections.enter(A, 0.0)

    def test_in_all_are_bounded_and_leave_room_for_exempt_ones(self) -> None:
        connections = Connections(5, 100, 1_000)
        for n in range(5):
            connections.enter(f"10.0.0.{n}", 0.0)
        assert refusal(connections, A) == ("connections", 503)
        for _ in range(RESERVED):
            connections.enter("", 0.0)
        assert refusal(connections, "") == ("connections", 503)
        connections.leave("")
        connections.enter("", 0.0)

    def test_of_one_address_have_a_rate_when_they_are_new(self) -> None:
        connections = Connections(10_000, 1_000, 10)
        for _ in range(BURST * 10):
            connections.enter(A, 0.0)
            connections.leave(A)
        assert refusal(connections, A) == ("new_connections_per_second", 429)
        connections.enter(B, 0.0)
        for _ in range(10):
            connections.enter(A, 1.0)
        assert refusal(connections, A, 1.0) == ("new_connections_per_second", 429)

    def test_that_is_refused_is_not_counted(self) -> None:
        connections = Connections(100, 1, 1_000)
        connections.enter(A, 0.0)
        connections.enter("", 0.0)
        for _ in range(50):
            refusal(connections, A)
            with pytest.raises(TooMany):
                connections.rename("", A, 0.0)
        assert connections.open == 2
        connections.leave(A)
        connections.rename("", A, 0.0)
        connections.leave(A)
        assert (connections.open, connections._by_name) == (0, {})

    @given(st.lists(st.tuples(st.sampled_from(["in", "out", "move"]), st.integers(0, 5))))
    def test_are_counted_like_a_list_of_them(self, steps: list[tuple[str, int]]) -> None:
        names = ["", A, B]
        connections, there = Connections(6, 3, 10**6), list[str]()
        for step, number in steps:
            name = names[number % 3]
            room = not name or there.count(name) < 3
            if step == "in":
                allowed = room and len(there) < 6 + (0 if name else RESERVED)
                try:
                    connections.enter(name, 0.0)
                except TooMany:
                    assert not allowed
                else:
                    assert allowed
                    there.append(name)
            elif there:
                old = there[number % len(there)]
                if step == "out":
                    connections.leave(old)
                    there.remove(old)
                elif room:
                    connections.rename(old, name, 0.0)
                    there.remove(old)
                    there.append(name)
            assert connections.open == len(there)
            assert connections._by_name == {n: c for n, c in Counter(there).items() if n}

    def test_of_other_processes_count_too(self) -> None:
        connections = Connections(6, 3, 10**6)
        connections.enter(A, 0.0)
        connections.add(A, 2)
        connections.add("", 2)
        assert connections.open == 5
        assert refusal(connections, A) == ("connections_per_address", 429)
        connections.enter(B, 0.0)
        assert refusal(connections, B) == ("connections", 503)
        connections.add(A, -2)
        connections.add("", -2)
        connections.enter(A, 0.0)
        for name in (A, A, B):
            connections.leave(name)
        assert (connections.open, connections._by_name) == (0, {})

    def test_are_reported_as_they_change(self) -> None:
        connections, changes = Connections(100, 2, 1_000), list[tuple[str, int]]()
        connections.changed = lambda *change: changes.append(change)
        connections.enter("", 0.0)
        connections.rename("", A, 0.0)
        connections.add(A, 1)
        refusal(connections, A)
        connections.leave(A)
        assert changes == [("", 1), (A, 1), ("", -1), (A, -1)]


class TestUsers:
    def test_connections_of_other_processes_count_too(self) -> None:
        users = Users(2)
        users.enter("anna")
        users.add("anna", 1)
        with pytest.raises(TooMany):
            users.check("anna")
        users.check("bo")
        users.add("anna", -1)
        users.check("anna")
        users.leave("anna")
        assert users._counts == {}

    def test_connections_are_reported_as_they_change(self) -> None:
        users, changes = Users(2), list[tuple[str, int]]()
        users.changed = lambda *change: changes.append(change)
        users.enter("anna")
        users.enter("")
        users.add("anna", 1)
        users.leave("")
        users.leave("anna")
        assert changes == [("anna", 1), ("anna", -1)]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1", ""),
        ("127.9.9.9", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        (None, ""),
        ("10.0.0.9", ""),
        (A, A),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", A),
    ],
)
def test_address_has_a_name_unless_it_is_exempt_or_a_proxy(address: str | None, name: str) -> None:
    addresses = Addresses(Proxies.of(["127.0.0.0/8", "::1", "unix"]), Proxies.of(["10.0.0.9"]))
    assert addresses.name(address) == name
    assert Addresses(Proxies(), Proxies()).name(address) != "" or address is None


class TestExcesses:
    def make(self) -> None:
        self.now = 0.0
        self.lines: list[tuple[int, str | None, str]] = []
        self.counts: Counter[str] = Counter()
        self.excesses = Excesses(
            self.counts, lambda: self.now, lambda *line: self.lines.append(line)
        )

    def note(self, address: str | None = A, setting: str = "connections", code: int = 0) -> None:
        self.excesses.note(TooMany("too many", setting), address, code)

    def test_are_counted_and_have_one_line_a_minute_for_each_setting_and_address(self) -> None:
        self.make()
        for _ in range(100):
            self.note()
        self.note(B)
        self.note(setting="connections_per_address", code=3013)
        assert self.lines == [
            (429, A, "too many (connections)"),
            (429, B, "too many (connections) (and 99 that were not logged)"),
            (3013, A, "too many (connections_per_address)"),
        ]
        assert self.counts == {"connections": 101, "connections_per_address": 1}
        self.now = 61.0
        self.note()
        self.note(B)
        assert self.lines[3:] == [(429, A, "too many (connections)"), (429, B, self.lines[0][2])]

    def test_of_many_addresses_have_few_lines(self) -> None:
        self.make()
        for n in range(1_000):
            self.note(f"10.0.{n // 250}.{n % 250}")
            self.note(f"2001:db8::{n:x}")
        assert len(self.lines) == LOGGED_AT_ONCE
        assert sum(map(len, self.excesses._logged.values())) == LOGGED_AT_ONCE
