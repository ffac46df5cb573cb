"""The colours of the server's pages, and their contrast (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

from collections.abc import Iterator

from pushserver.config.settings import Page

LEAST_CONTRAST = 4.5
"""Of text with its background, for level AA."""
LIGHT, DARK = ("#ffffff", "#f6f8fb"), ("#11161d", "#19202a")
"""The backgrounds of light and of dark pages (`--page` and `--panel` in static/app.css)."""

Rgb = tuple[int, int, int]


def page_style(page: Page) -> str:
    """The style with the colours of the settings; empty without any.

    The colour of dark pages is by default that of light ones, with as much white as it needs.
    """
    light, dark = page.accent, page.accent_dark or _lightened(page.accent)
    return "".join(
        f'[data-bs-theme="{theme}"] {{ --pushserver-accent: {colour}; }}\n'
        for theme, colour in (("light", light), ("dark", dark))
        if colour
    )


def colour_warnings(page: Page) -> Iterator[str]:
    """A line for each colour that is hard to read."""
    for name, colour, grounds in (
        ("accent", page.accent, LIGHT),
        ("accent_dark", page.accent_dark, DARK),
    ):
        found = _least(colour, grounds) if colour else LEAST_CONTRAST
        if found < LEAST_CONTRAST:
            theme, remedy = ("light", "darker") if grounds is LIGHT else ("dark", "lighter")
            # Rounded down: 4.49 is not enough.
            rounded = int(found * 10) / 10
            yield (
                f"page.{name}: {colour} has a contrast of {rounded} with {theme} pages, and text"
                f" needs {LEAST_CONTRAST} (WCAG AA): take a {remedy} colour"
            )


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21."""
    darker, lighter = sorted((_luminance(_rgb(one)), _luminance(_rgb(other))))
    return (lighter + 0.05) / (darker + 0.05)


def _least(colour: str, grounds: tuple[str, ...]) -> float:
    return min(contrast(colour, ground) for ground in grounds)


def _lightened(colour: str) -> str:
    """The colour with so much white that it can be read on dark pages; "" of ""."""
    if not colour:
        return ""
    rgb = _rgb(colour)
    for percent in range(0, 101, 5):
        red, green, blue = (part + (255 - part) * percent // 100 for part in rgb)
        mixed = f"#{red:02x}{green:02x}{blue:02x}"
        if _least(mixed, DARK) >= LEAST_CONTRAST:
            break
    return mixed


def _rgb(colour: str) -> Rgb:
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def _luminance(rgb: Rgb) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in rgb)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
