from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.web.accept import coding, preferred

JSON, EVENTS, HTML = OFFERS = ("application/json", "text/event-stream", "text/html")
CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
    "*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
)


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("", JSON),
        (" , ", JSON),
        ("*/*", JSON),
        (CHROMIUM, HTML),
        ("text/event-stream", EVENTS),
        ("TEXT/HTML", HTML),
        ("text/*", EVENTS),
        ("text/html;q=0.2, application/json;q=0.8", JSON),
        ("application/json;q=0.2, text/html;q=0.8", HTML),
        ("text/*;q=0.9, text/event-stream;q=0.1", HTML),
        ("*/*;q=0.1, text/html", HTML),
        ("application/json;q=0, */*", EVENTS),
        ("text/html; level=1 ; q = 0.7", HTML),
        ("text/html;charset=utf-8", HTML),
        ("text/html;q=0.5, application/json;q=0.5", HTML),
        ("text/event-stream, text/html, application/json", EVENTS),
        ("text/event-stream, */*", EVENTS),
        ("text/event-stream;q=0.8, */*;q=0.8", EVENTS),
        ("*/*, text/event-stream", EVENTS),
        ("application/json, text/event-stream", JSON),
        ("text/html, application/xhtml+xml, text/event-stream, */*", HTML),
        ("application/json, text/plain, */*", JSON),
        ("text/plain, text/event-stream, text/html, text/event-stream", EVENTS),
        ("text/event-stream;q=0.9, application/json", JSON),
        ("text/event-stream;q=0, text/html, */*", HTML),
        ("text/*, */*", EVENTS),
        ("image/png", None),
        ("text/html;q=0", None),
        ("application/json;q=0, text/*;q=0, */*;q=0", None),
        ("text/html;q=nonsense", None),
        ("text/html;q=nan", None),
        ("text/html;q=2", None),
        ("text/html;q=-1", None),
        ("text/html;q=inf, application/json;q=0.1", JSON),
    ],
)
def test_offer_with_the_highest_weight_is_preferred(accept: str, best: str | None) -> None:
    assert preferred(accept, OFFERS) == best


def test_the_order_of_the_offers_decides_within_a_range() -> None:
    assert preferred("*/*", (HTML, JSON)) == HTML
    assert preferred("*/*", (JSON, HTML)) == JSON


@given(st.text(alphabet="text/html*json;,q=0.19 \t\x00é", max_size=60))
def test_no_header_raises(accept: str) -> None:
    assert preferred(accept, OFFERS) in {*OFFERS, None}


OURS = ("br", "gzip")


@pytest.mark.parametrize(
    ("header", "best"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "br"),
        ("GZIP", "gzip"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0.5, gzip;q=0.5", "br"),
        ("br;q=0, gzip", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip; Q=0.000", "identity"),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=0.3, identity;q=0.7", "identity"),
        ("gzip;q=0.7, identity;q=0.7", "gzip"),
        ("*", "br"),
        ("*;q=0.5, br;q=0", "gzip"),
        ("*;q=0", "identity"),
        ("*;q=0, gzip", "gzip"),
        ("gzip;q=0.5, *", "br"),
        ("gzip;q=0.5, br;q=0, *", "identity"),
        ("identity", "identity"),
        # None of them may be sent: RFC 9110 permits the answer without a coding.
        ("identity;q=0", "identity"),
        ("identity;q=0, zstd", "identity"),
        ("identity;q=0, *;q=0.1", "br"),
        ("gzip, gzip;q=0", "identity"),
        ("gzip;q=0, gzip", "identity"),
        ("gzip;q=nonsense", "identity"),
        ("gzip;q=nan", "identity"),
        ("gzip;q=2", "identity"),
        ("gzip;level=9;q=0", "identity"),
        ("xgzip, x-br", "identity"),
        (",, ,gzip,", "gzip"),
    ],
)
def test_coding_with_the_highest_weight_is_chosen(header: str | None, best: str) -> None:
    assert coding(header, OURS) == best


WEIGHTS = st.sampled_from(["", ";q=0", ";q=0.0", ";q=0.3", "; q=0.7", ";Q=1.000", ";q=1"])
NAMES = st.sampled_from(["br", "gzip", "identity", "*", "deflate", "BR"])


def weight(text: str) -> float:
    return float(text.partition("=")[2] or 1)


@given(st.dictionaries(NAMES, WEIGHTS, max_size=6))
def test_no_coding_is_chosen_that_the_client_refuses(header: dict[str, str]) -> None:
    chosen = coding(", ".join(map("".join, header.items())), OURS)
    given_weights = {name.lower(): 1.0 for name in header}
    for name, text in header.items():
        given_weights[name.lower()] = min(weight(text), given_weights[name.lower()])
    others = given_weights.get("*", 0.0)
    weights = {name: given_weights.get(name, others) for name in (*OURS, "identity")}
    if chosen == "identity":
        assert all(weights[name] == 0 or weights[name] < weights["identity"] for name in OURS)
    else:
        assert weights[chosen] == max(weights.values()) > 0


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40))
def test_any_header_chooses_a_coding(header: str) -> None:
    assert coding(header, OURS) in (*OURS, "identity")
