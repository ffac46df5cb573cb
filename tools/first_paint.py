#!/usr/bin/env python3
"""Measure the first paint of a running page on slow lines, and its bytes over the wire.

    tools/first_paint.py URL [--runs N] [--phone]

Prints a Markdown table: milliseconds until the first paint and until the page is live, as the
median of the runs with the least and the most, kilobytes, the sum of unexpected layout shifts, and
the longest task in milliseconds. Each run has an empty cache; runs alternate between the lines.
Chromium delays each request by the latency and shares the rate among all answers
(`Network.emulateNetworkConditions`). `--phone`: the size of a phone, and a processor that is four
times slower.

Needs Playwright for Python and Chromium, as tools/screenshot.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from screenshot import CHROMIUM, CHROMIUM_ARGUMENTS

TIMEOUT_MS = 60_000
SETTLED_MS = 1_000
OBSERVE = """
  window.shift = 0;
  window.longest = 0;
  const watch = (type, note) => new PerformanceObserver((list) => list.getEntries().forEach(note))
    .observe({type, buffered: true});
  watch("layout-shift", (entry) => { if (!entry.hadRecentInput) window.shift += entry.value; });
  watch("longtask", (entry) => (window.longest = Math.max(window.longest, entry.duration)));
"""
FIRST_PAINT = """() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime"""


@dataclass
class Line:
    """A slow line: milliseconds for each request, and kilobits a second in each direction."""

    name: str
    latency: float
    down: float
    up: float
    painted: list[float] = field(default_factory=list)
    live: list[float] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    shift: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)


LINES = (
    Line("3G, good", 150, 1_600, 750),
    Line("DevTools, Fast 3G (Slow 4G)", 562.5, 1_440, 675),
    Line("3G, poor", 400, 400, 400),
)


def measure(browser: Browser, url: str, line: Line, phone: bool) -> None:
    """Load the page once over this line, and note the figures."""
    context = browser.new_context(viewport={"width": 390, "height": 844} if phone else None)
    context.add_init_script(OBSERVE)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    client = context.new_cdp_session(page)
    client.send("Network.enable")
    conditions = {
        "offline": False,
        "latency": line.latency,
        "downloadThroughput": line.down * 125,
        "uploadThroughput": line.up * 125,
    }
    client.send("Network.emulateNetworkConditions", conditions)
    if phone:
        client.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    sizes: list[int] = []

    def loaded(event: dict[str, Any]) -> None:
        sizes.append(int(event["encodedDataLength"]))

    client.on("Network.loadingFinished", loaded)
    page.goto(url, wait_until="commit")
    page.wait_for_selector("#state[data-state=live]")
    line.live.append(page.evaluate("performance.now()"))
    page.wait_for_selector("#graph canvas")
    line.painted.append(page.evaluate(FIRST_PAINT))
    line.size.append(sum(sizes))
    page.wait_for_timeout(SETTLED_MS)
    line.shift.append(page.evaluate("window.shift"))
    line.longest.append(page.evaluate("window.longest"))
    context.close()


def cell(values: list[float]) -> str:
    """The median, and the least and the most."""
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the running page of a channel with numbers")
    parser.add_argument("--runs", type=int, default=5, help="of each line; default: 5")
    parser.add_argument("--phone", action="store_true", help="of a phone's size and processor")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS)
        )
        for _ in range(arguments.runs):
            for line in LINES:
                measure(browser, arguments.url, line, arguments.phone)
        browser.close()
    print("| line | ms a request | kbit/s | first paint, ms | live, ms | KB | shift | task, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for line in LINES:
        figures = f"{cell(line.painted)} | {cell(line.live)} | {max(line.size) / 1000:.1f}"
        figures += f" | {max(line.shift):.4f} | {max(line.longest):.0f}"
        print(f"| {line.name} | {line.latency:g} | {line.down:g} | {figures} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
