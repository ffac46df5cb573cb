#!/usr/bin/env python3
"""Watch the live page on a busy channel: long tasks, and what grows.

    tools/smooth.py [--seconds 600] [--rate 100] [--query view=table] [--phone]

Starts a server on loopback, publishes, and prints a line a minute: events that the page has
seen, tasks over 50 ms with the longest, the processor time of the page in milliseconds a second,
nodes, listeners, and megabytes of the heap without garbage. Exits with 1 if one of the last three
grew by more than a quarter after the first minute. Tasks are measured by the wall clock: on a
machine that does other work too, the processor time says more.

Needs Playwright for Python and Chromium, as tools/screenshot.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from threading import Event, Thread
from urllib.request import Request, urlopen

from playwright.sync_api import CDPSession, Page, sync_playwright
from screenshot import CHROMIUM, CHROMIUM_ARGUMENTS

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from tests.e2e.server import Server, running  # noqa: E402

CHANNEL = "busy"
OBSERVE = """
  window.tasks = [];
  new PerformanceObserver((list) => list.getEntries().forEach((one) => tasks.push(one.duration)))
    .observe({type: "longtask"});
"""
GROWTH = 1.25


def publish(url: str, rate: int, done: Event) -> None:
    """Publish at this rate, ten times a second, until it is done."""
    begin = time.monotonic()
    for step in count():
        if done.wait(max(0.0, begin + step / 10 - time.monotonic())):
            return
        lines = [
            json.dumps({"a": number % 97, "b": -(number % 31), "text": f"t{number}"})
            for number in range(step * rate // 10, (step + 1) * rate // 10)
        ]
        headers = {"Content-Type": "application/x-ndjson"}
        request = Request(f"{url}channels/{CHANNEL}", "\n".join(lines).encode(), headers)
        urlopen(request).close()


def metrics(client: CDPSession) -> dict[str, float]:
    """The figures of Chromium about the page."""
    return {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}


def watch(page: Page, client: CDPSession, seconds: int) -> bool:
    """Print a line a minute; return whether nothing grew."""
    sizes: list[tuple[float, float, float]] = []
    print("| s | seen | tasks > 50 ms | longest, ms | CPU, ms/s | nodes | listeners | MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    period = min(60, seconds)
    for end in range(period, seconds + 1, period):
        before = metrics(client)["TaskDuration"]
        page.evaluate("window.tasks.splice(0)")
        page.wait_for_timeout(period * 1000)
        tasks = page.evaluate("window.tasks.splice(0)")
        used = (metrics(client)["TaskDuration"] - before) * 1000 / period
        client.send("HeapProfiler.collectGarbage")
        now = metrics(client)
        sizes.append((now["Nodes"], now["JSEventListeners"], now["JSHeapUsedSize"] / 1e6))
        nodes, listeners, megabytes = sizes[-1]
        print(
            f"| {end} | {page.locator('#events-seen').inner_text()} | {len(tasks)} |"
            f" {max(tasks, default=0):.0f} | {used:.0f} | {nodes:.0f} | {listeners:.0f} |"
            f" {megabytes:.1f} |",
            flush=True,
        )
    return all(last <= GROWTH * first for first, last in zip(sizes[0], sizes[-1], strict=True))


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--rate", type=int, default=100, help="publications a second")
    parser.add_argument("--query", default="", help="of the page, such as view=table")
    parser.add_argument("--phone", action="store_true", help="of a phone's size and processor")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Server(Path(folder))) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS)
        )
        phone = arguments.phone
        page = browser.new_page(viewport={"width": 390, "height": 844} if phone else None)
        page.add_init_script(OBSERVE)
        page.goto(f"{server.url}channels/{CHANNEL}?{arguments.query}")
        page.wait_for_selector("#state[data-state=live]")
        client = page.context.new_cdp_session(page)
        client.send("Performance.enable", {"timeDomain": "threadTicks"})
        if phone:
            client.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        done = Event()
        publisher = Thread(target=publish, args=(server.url, arguments.rate, done), daemon=True)
        publisher.start()
        is_flat = watch(page, client, arguments.seconds)
        done.set()
        publisher.join()
        browser.close()
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
