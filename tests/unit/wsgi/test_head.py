"""The status and headers of an application are checked before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.wsgi.head import Head, make_head


def test_status_and_headers_are_kept() -> None:
    fields = [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=\xe9")]
    assert make_head("404 Not Found", fields) == Head(
        404,
        b"Not Found",
        [(b"Content-Type", b"text/plain"), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=\xe9")],
        None,
    )


@pytest.mark.parametrize(
    ("status", "expected"), [("200", (200, b"OK")), ("299", (299, b"Status")), ("204 ", (204, b""))]
)
def test_status_may_have_no_reason(status: str, expected: tuple[int, bytes]) -> None:
    head = make_head(status, [])
    assert (head.status, head.reason) == expected


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (b"200 OK", [], r"the status is b'200 OK', expected a str"),
        (200, [], r"the status is 200, expected a str"),
        ("OK", [], r"the status is 'OK', expected one such as"),
        ("20", [], r"the status is '20'"),
        ("2000 OK", [], r"the status is '2000 OK'"),
        ("100 Continue", [], r"the status is '100 Continue'"),
        ("600 Yes", [], r"the status is '600 Yes'"),
        ("٢٠٠ OK", [], r"the status is"),
        ("200 OK\r\nX: y", [], r"the status is '200 OK\\r\\nX: y'"),
        ("200 \u2713", [], r"the status has '\u2713', expected latin-1"),
        ("200 OK", None, r"the headers are None, expected a list"),
        ("200 OK", "X: y", r"the headers are 'X: y', expected a list"),
        ("200 OK", {"X": "y"}, r"the headers are \{'X': 'y'\}, expected a list"),
        ("200 OK", ["X: y"], r"a header is 'X: y', expected \(name, value\)"),
        ("200 OK", [("X",)], r"a header is \('X',\), expected \(name, value\)"),
        ("200 OK", [("X", 1)], r"a header is \('X', 1\), expected two str"),
        ("200 OK", [(b"X", b"y")], r"a header is \(b'X', b'y'\), expected two str"),
        ("200 OK", [("X Y", "z")], r"a header has the name 'X Y'"),
        ("200 OK", [("", "z")], r"a header has the name ''"),
        ("200 OK", [("X\r\nY", "z")], r"a header has the name 'X\\r\\nY'"),
        ("200 OK", [("X\n", "z")], r"a header has the name 'X\\n'"),
        ("200 OK", [("X", "a\r\nSet-Cookie: b=c")], r"the header X has the value 'a\\r\\nSet-Co"),
        ("200 OK", [("X", "a\n")], r"the header X has the value 'a\\n'"),
        ("200 OK", [("X", "a\x00")], r"the header X has the value 'a\\x00'"),
        ("200 OK", [("X", "\u20ac")], r"the header X has '\u20ac', expected latin-1"),
        ("200 OK", [("Content-Length", "-1")], r"the header Content-Length is '-1'"),
        ("200 OK", [("Content-Length", "1_0")], r"the header Content-Length is '1_0'"),
        ("200 OK", [("Content-Length", "9" * 4_301)], r"the header Content-Length is '999"),
        ("200 OK", [("Content-Length", "1"), ("content-length", "1")], r"two headers Content-Len"),
    ],
)
def test_other_arguments_are_errors(status: Any, headers: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make_head(status, headers)


@pytest.mark.parametrize(
    "name", ["Connection", "Transfer-Encoding", "keep-alive", "Upgrade", "Server", "Date", "TE"]
)
def test_headers_of_the_connection_and_the_server_are_left_out(name: str) -> None:
    assert make_head("200 OK", [(name, "x"), ("X", "y")]).headers == [(b"X", b"y")]


def test_length_is_read_and_written_as_a_number() -> None:
    head = make_head("200 OK", [("CONTENT-LENGTH", " 007 ")])
    assert (head.length, head.headers) == (7, [(b"CONTENT-LENGTH", b"7")])


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_some_statuses_have_no_body(status: str) -> None:
    assert not make_head(status, []).has_body
    assert make_head("200 OK", []).has_body


@given(st.text(), st.text(), st.text())
def test_no_text_gets_a_line_break_into_the_answer(reason: str, name: str, value: str) -> None:
    try:
        head = make_head(f"200 {reason}", [(name, value)])
    except ValueError:
        return
    for part in (head.reason, *(part for field in head.headers for part in field)):
        assert not {*b"\r\n\x00"} & {*part}
