"""The refusals of a server by cause."""

from __future__ import annotations

from collections import Counter

from pushserver.auth.excess import Excesses
from pushserver.diagnosis.recent_refusals import MAX_CAUSES, MAX_REASON, RecentRefusals
from pushserver.errors import TooMany


class TestRecentRefusals:
    def setup_method(self) -> None:
        self.time = 1_000.0
        self.recent = RecentRefusals(lambda: self.time)

    def test_count_one_cause_together_whatever_the_peer_sent(self) -> None:
        for number, name in enumerate(["a", "b", "it"]):
            self.time = 1_000.0 + number
            self.recent.note(403, f"192.0.2.{number}", f"'{name}{number}' is too long by {number}")
        [refusal] = self.recent.newest_first()
        assert (refusal.count, refusal.time, refusal.address) == (3, 1_002.0, "192.0.2.2")
        assert refusal.reason == "'it2' is too long by 2"

    def test_are_others_with_another_status_or_reason(self) -> None:
        for status, reason in [(403, "a"), (404, "a"), (403, "b"), (403, "a")]:
            self.recent.note(status, None, reason)
        found = [(each.status, each.reason, each.count) for each in self.recent.newest_first()]
        assert found == [(403, "a", 2), (403, "b", 1), (404, "a", 1)]
        assert self.recent.newest_first()[0].address == "unix"

    def test_forget_the_cause_that_was_seen_least_recently(self) -> None:
        self.recent.note(403, None, "first")
        self.recent.note(403, None, "second")
        for code in range(MAX_CAUSES - 1):
            self.recent.note(403, None, "first")
            self.recent.note(code, None, "other")
        reasons = [refusal.reason for refusal in self.recent.newest_first()]
        assert len(reasons) == MAX_CAUSES
        assert reasons.count("first") == 1
        assert "second" not in reasons

    def test_are_cut_and_have_no_control_characters(self) -> None:
        self.recent.note(400, None, "\x1b[2J\n" + "x" * 1_000_000)
        [refusal] = self.recent.newest_first()
        assert refusal.reason.startswith("\\x1b[2J\\n")
        assert len(refusal.reason) < MAX_REASON + 10

    def test_have_the_excesses_that_the_log_leaves_out(self) -> None:
        excesses = Excesses(Counter(), lambda: 0.0, lambda *_: None, self.recent.note)
        for number in range(500):
            excesses.note(TooMany(f"{number} connections", "connections"), "192.0.2.1")
        [refusal] = self.recent.newest_first()
        assert (refusal.count, refusal.setting) == (500, "limits.connections")
