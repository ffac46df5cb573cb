"""`wsgi.errors`: messages of an application are lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from pushserver.wsgi.errors import MAX_WAITING, Errors
from tests.unit.fakes.web import Trouble


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda errors: errors.write("a\n"), ["a"]),
        (lambda errors: (errors.write("a"), errors.write("b\n")), ["ab"]),
        (lambda errors: (errors.write("a"), errors.flush(), errors.flush()), ["a"]),
        (lambda errors: errors.write("Traceback\n  line\nError\n"), ["Traceback\n  line\nError"]),
        (lambda errors: errors.writelines(["a\n", "b\n"]), ["a\nb"]),
        (lambda errors: errors.write("\n"), []),
        (lambda errors: errors.write("{braces}\n"), ["{braces}"]),
        (lambda errors: errors.write("x" * (MAX_WAITING + 1)), ["x" * (MAX_WAITING + 1)]),
        (lambda errors: print("printed", file=errors), ["printed"]),
    ],
)
def test_messages_are_logged(
    trouble: Trouble, write: Callable[[Errors], object], expected: list[str]
) -> None:
    write(Errors())
    assert trouble.take() == expected


def test_handler_of_logging_writes_there(trouble: Trouble) -> None:
    handler = logging.StreamHandler(Errors())
    handler.emit(logging.makeLogRecord({"msg": "a warning"}))
    assert trouble.take() == ["a warning"]
