"""The representation and the coding that a request prefers (RFC 9110, 12.5)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The offer with the highest weight in the Accept header; None if it accepts none of them.

    The most specific range that contains an offer gives its weight. Of equal weights the more
    specific range decides, then the earlier one in the header, then the order of the offers. An
    empty header, or one without a range, is `*/*`.
    """
    ranges = dict(_range(part) for part in accept.split(",") if part.strip()) or {"*/*": 1.0}
    places = {media: place for place, media in enumerate(ranges)}

    def rank(offer: str) -> tuple[float, int, int]:
        for wildcards, media in enumerate((offer, offer.partition("/")[0] + "/*", "*/*")):
            if media in ranges:
                return ranges[media], -wildcards, -places[media]
        return 0.0, 0, 0

    best = max(offers, key=rank)
    return best if rank(best)[0] > 0 else None


def coding(accept_encoding: str | None, offers: Sequence[str]) -> str:
    """The offer with the highest weight in the Accept-Encoding header, or "identity".

    Of equal weights the earlier offer decides; a coding that the header names twice has the lower
    one. "identity" is last, unless the header gives it a higher weight. It is the answer even if
    the header refuses it, as RFC 9110 (12.5.3) permits: a file as it is serves more than an error.
    """
    weights: dict[str, float] = {}
    for part in (accept_encoding or "").split(","):
        name, weight = _range(part)
        weights[name] = min(weight, weights.get(name, 1.0))
    others = weights.get("*", 0.0)
    best = max(offers, key=lambda offer: weights.get(offer, others))
    weight = weights.get(best, others)
    return best if weight > 0.0 and weight >= weights.get("identity", others) else "identity"


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
