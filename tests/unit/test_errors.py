"""The exceptions of the package, with the status and the code of each."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import pushserver
from pushserver import errors
from pushserver.errors import PushServerError, escaped
from pushserver.protocols import centrifuge
from tests.e2e.blocks import ROOT

CLASSES: dict[str, Any] = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, BaseException)
}

OF_THE_API = {104, 110}
"""The codes that only the server API has."""

ANSWERS = {
    "Invalid": (400, 107, False),
    "InvalidConfig": (400, 107, False),
    "InvalidCursor": (400, 107, False),
    "InvalidData": (400, 107, False),
    "InvalidKey": (400, 107, False),
    "InvalidName": (400, 107, False),
    "NotJSON": (400, 107, False),
    "Unavailable": (503, 100, True),
    "LimitExceeded": (503, 106, True),
    "WrongKey": (0, 103, False),
    "NeedsKey": (0, 103, False),
    "InvalidToken": (0, 103, False),
    "UnknownKeyId": (0, 103, False),
    "ExpiredToken": (0, 109, False),
    "TooMany": (429, 111, True),
    "Denied": (0, 103, False),  # the status is that of the instance
    "Refused": (403, 103, False),
    "Unsubscribed": (403, 103, False),
    "NotHandled": (0, 108, False),
    "HandlerFailed": (503, 100, True),
    "SourceFailed": (503, 0, False),
    "Stopped": (503, 0, False),
}
"""HTTP status, Centrifuge code, temporary. The text of other exceptions is not sent to peers."""


def test_all_have_one_base() -> None:
    assert all(issubclass(kind, PushServerError) for kind in CLASSES.values())


@pytest.mark.parametrize("name", CLASSES)
def test_each_has_its_status_and_code(name: str) -> None:
    kind = CLASSES[name]
    answer = (kind.http_status, kind.centrifuge_code, kind.temporary)
    assert answer == ANSWERS.get(name, (0, 0, False))


@pytest.mark.parametrize(
    ("name", "base"),
    [("Invalid", ValueError), ("NotRunning", RuntimeError), ("StartFailed", SystemExit)],
)
def test_some_are_built_in_exceptions_too(name: str, base: type[BaseException]) -> None:
    assert issubclass(CLASSES[name], base)


def test_code_of_a_refusal_is_that_of_its_reply() -> None:
    assert errors.Refused("no", 401).centrifuge_code == 401
    assert errors.Refused("no").centrifuge_code == 103


def test_text_of_a_refusal_can_be_sent() -> None:
    assert str(errors.Refused("\ud800")) == "?"


@pytest.mark.parametrize("name", sorted(set(CLASSES) & set(pushserver.__all__)))
def test_package_exports_the_same_classes(name: str) -> None:
    assert getattr(pushserver, name) is CLASSES[name]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        # The right-to-left override, and C1's own CSI.
        ("a\u202eb\x9b1m", "a\\u202eb\\x9b1m"),
        ("é中", "é中"),
        ("\ud800", "\\ud800"),
    ],
)
def test_characters_of_control_are_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def codes_in(section: str) -> set[int]:
    """The codes in the table of errors of a section of docs/protocols.md."""
    text = (ROOT / "docs" / "protocols.md").read_text("utf-8").partition(f"\n{section}\n")[2]
    rows = text.partition("\n| error | |\n| --- | --- |\n")[2].partition("\n\n")[0]
    return {int(row.split(" | ")[0].strip("| ")) for row in rows.splitlines()}


def test_document_of_the_protocols_has_each_code() -> None:
    codes = {kind.centrifuge_code for kind in CLASSES.values() if hasattr(kind, "centrifuge_code")}
    codes |= {code for code in vars(centrifuge).values() if type(code) is int and 100 <= code < 120}
    assert codes_in("### Refusals") == codes - {0} - OF_THE_API
    assert codes_in("## Server API") >= OF_THE_API
    assert codes_in("## Server API") <= codes


def test_document_of_the_protocols_has_each_close_code() -> None:
    text = (ROOT / "docs" / "protocols.md").read_text("utf-8").partition("\n## Close codes\n")[2]
    shown = set(re.findall(r"^\| (\d{4}) \|", text.partition("\n## ")[0], re.MULTILINE))
    codes = {code for code in vars(centrifuge).values() if type(code) is int and 3000 < code < 5000}
    # A slow reader gets no close frame.
    assert {int(code) for code in shown} >= codes - {centrifuge.SLOW}
