"""Which of several representations a request prefers (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The offer that the Accept header likes best, the first of equals; None if it likes none.

    An offer is liked as much as the most specific range that it is in says. No header, or
    nothing in it that can be read, is `*/*`.
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
    found = dict(ranges)
    for media in (offer, offer.partition("/")[0] + "/*", "*/*"):
        if media in found:
            return found[media]
    return 0.0
