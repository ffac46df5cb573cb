"""The representation that a request prefers (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The offer with the highest weight in the Accept header; None if it accepts none of them.

    The most specific range that contains an offer gives its weight. Of equal offers the first
    is returned. An empty header, or one without a range, is `*/*`.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    weights = {offer: _weight(offer, ranges or [("*/*", 1.0)]) for offer in offers}
    best = max(offers, key=lambda offer: weights[offer])
    return best if weights[best] > 0 else None


def _range(part: str) -> tuple[str, float]:
    media, *parameters = (field.strip().lower() for field in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            weight = _quality(value.strip())
    return media, weight


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0.0 <= value <= 1.0 else 0.0


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    weights = dict(ranges)
    for media in (offer, offer.partition("/")[0] + "/*", "*/*"):
        if media in weights:
            return weights[media]
    return 0.0
