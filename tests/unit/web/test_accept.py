from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.web.accept import preferred

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
