#!/usr/bin/env python3
"""Take the screenshot of a running page for the README: a channel, or the list of channels.

    tools/screenshot.py URL [OUT]            docs/screenshot.png, or OUT: wide, light
    tools/screenshot.py URL --all FOLDER     wide and phone, light and dark, into FOLDER

Needs Playwright for Python and Chromium: the program in the environment variable CHROMIUM, or
Debian's.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

DEFAULT_PICTURE = Path(__file__).resolve().parent.parent / "docs" / "screenshot.png"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium-headless-shell")
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 60_000  # a new server needs twenty seconds for ten numbers

# A drawn graph has a pixel inside the axes that is not transparent.
GRAPH_IS_DRAWN = """() => {
  const canvas = document.querySelector("#graph canvas");
  if (!canvas || Number(document.querySelector("#graph").dataset.points) < 10) return false;
  const {width, height} = canvas;
  const pixels = canvas.getContext("2d").getImageData(width / 4, 0, width / 2, height).data;
  return pixels.some((value, index) => index % 4 === 3 && value > 128);
}"""


@dataclass(frozen=True, slots=True)
class View:
    """A size and colour scheme of the page; sizes in CSS pixels."""

    width: int
    height: int
    scheme: str
    scale: int = 2
    whole_page: bool = False


WIDE_LIGHT = View(1240, 800, "light")
VIEWS = {
    "wide-light": WIDE_LIGHT,
    "wide-dark": View(1240, 800, "dark"),
    "phone-light": View(390, 844, "light", whole_page=True),
    "phone-dark": View(390, 844, "dark", whole_page=True),
}


def wait_until_drawn(page: Page) -> None:
    """Wait until the page shows what it has to show."""
    if page.query_selector("#channels"):
        page.wait_for_selector("#channels tbody tr, #channels-empty:not([hidden])")
    else:
        wait_for_channel(page)


def wait_for_channel(page: Page) -> None:
    """Wait until the page is live and shows ten rows, the graph and the number of watchers."""
    page.wait_for_selector("#state[data-state=live]")
    page.wait_for_function("document.querySelectorAll('#list li[data-offset]').length === 10")
    page.wait_for_function(GRAPH_IS_DRAWN)
    page.wait_for_function("/^[0-9]/.test(document.querySelector('#watching').textContent)")
    # The newest row appears with an animation, which the picture would catch half way.
    page.wait_for_function(
        "document.getAnimations().every((animation) => animation.playState !== 'running')"
    )


def take(browser: Browser, url: str, view: View, out: Path) -> None:
    """Open the page in this view and write its picture."""
    context = browser.new_context(
        bypass_csp=True,
        viewport={"width": view.width, "height": view.height},
        color_scheme="dark" if view.scheme == "dark" else "light",
        device_scale_factor=view.scale,
        reduced_motion="reduce",
    )
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(url)
    wait_until_drawn(page)
    out.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=out, full_page=view.whole_page)
    context.close()
    print(out)


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the running page, as http://localhost:8080/")
    parser.add_argument(
        "out", nargs="?", type=Path, default=DEFAULT_PICTURE, help="default: docs/screenshot.png"
    )
    parser.add_argument(
        "--all", type=Path, metavar="FOLDER", help="all views instead, into this folder"
    )
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS)
        )
        if arguments.all is None:
            take(browser, arguments.url, WIDE_LIGHT, arguments.out)
        else:
            for name, view in VIEWS.items():
                take(browser, arguments.url, view, arguments.all / f"{name}.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
