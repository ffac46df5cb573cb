"""The account of `make soak` finds each fault of a reader and of a history."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.doors.account import Account
from tests.doors.readers import Row


def history(*values: int, offset: int = 0) -> Any:
    rows = [{"data": value, "offset": at} for at, value in enumerate(values, 1)]
    return {"epoch": "e", "offset": offset or len(values), "publications": rows}


def reader(*values: int, gaps: tuple[int, ...] = (), told: Any = "epoch") -> Any:
    return SimpleNamespace(rows=[Row(v) for v in values], gaps=list(gaps), told=told)


def found(history: Any, *connections: Any, lost: bool = False) -> list[str]:
    """The problems, when 0, 2, 4 and 6 were published; `lost`: a failure may have lost 6."""
    account = Account()
    for value in (0, 2, 4, 6):
        account.publish(value, None)
    if lost:
        account.lose({0, 2, 4, 6}, {row["data"] for row in history["publications"]})
    account.check_history(history)
    pairs = [(each, True) for each in connections]
    account.check_reader("it", pairs)
    account.check_order("it", pairs)
    return account.problems


ALL = history(0, 2, 4, 6)


def test_finds_nothing_where_all_is_well() -> None:
    assert found(ALL, reader(0, 2), reader(4, 6)) == []
    assert found(history(0, 2, 4), reader(0, 2), reader(gaps=(0,)), reader(4), lost=True) == []


def test_the_last_of_an_epoch_may_be_lost_behind_one_that_is_kept_in_the_next() -> None:
    account = Account()
    for value, offset in ((0, 1), (2, 2), (4, 3)):
        account.publish(value, {"epoch": "before", "offset": offset})
    account.lose({0, 2, 4}, {0, 2})
    account.check_history(history(0, 2))
    account.check_order("it", [(reader(0, 2, 4), True)])
    assert account.problems == []
    account.check_order("it", [(reader(0, 4), True)])
    assert "it got Row(data=4" in "\n".join(account.problems)


@pytest.mark.parametrize(
    ("problem", "problems"),
    [
        ("lost: [6]", found(history(0, 2, 4))),
        ("twice", found(history(0, 2, 4, 6, 6))),
        ("out of order", found(history(0, 4, 2, 6))),
        ("has the offsets", found(history(0, 2, 4, 6, offset=5))),
        ("[2] are lost, and later ones are there", found(history(0, 4, 6), lost=True)),
        ("it got some twice", found(ALL, reader(0, 2), reader(2, 4))),
        ("it got Row(data=4", found(ALL, reader(0), reader(4))),
        ("it got Row(data=0", found(ALL, reader(2, 0))),
        ("it was told ['epoch']", found(ALL, reader(0, 6, gaps=(1,)))),
        ("expected epoch", found(ALL, reader(0, 6, gaps=(1,), told="limit"), lost=True)),
    ],
)
def test_finds(problem: str, problems: list[str]) -> None:
    assert problem in "\n".join(problems)
