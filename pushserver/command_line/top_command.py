"""`pushserver top`: shows the load of a server, again and again."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any, TextIO

from pushserver.api_call import Away, call_method
from pushserver.command_line.console import Ended, complain, end_by, end_with_reader, shown_json
from pushserver.command_line.screen import Screen, is_screen, open_screen
from pushserver.command_line.top_report import Report, make_report
from pushserver.command_line.top_view import SORTS, duration, view

LEAST_SECONDS, MOST_SECONDS = 0.1, 3_600.0
"""The range of the interval."""

_KEYS_TO_QUIT = "qQ\x03\x04"


def add_top_command(commands: Any, server: Any) -> None:
    """Add the command; `server` is the parser of the URL and the key."""
    command = commands.add_parser(
        "top",
        parents=[server],
        help="show the load of a server: clients, rates, channels, slow readers, sources",
        description="Shows connections, rates, the busiest channels, the clients that leave most"
        " bytes unread, and the sources, until q or Ctrl-C. Into a file or a pipe it prints one"
        " block after another. Needs a key with the scope admin for all channels, or none for a"
        " program of the server's own user or of root while no keys are configured.",
    )
    command.add_argument(
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="the time between two looks at the server [default: 1]",
    )
    command.add_argument(
        "--sort", choices=SORTS, default=SORTS[0], help="the channels with most of these first"
    )
    command.add_argument("--json", action="store_true", help="print JSON, one line each time")
    command.add_argument(
        "--once", action="store_true", help="print once, with the rates of one interval, and exit"
    )
    command.set_defaults(run=top)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        expected = f"expected {LEAST_SECONDS:g} to {MOST_SECONDS:g} seconds"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    return seconds


class Server:
    """The server, and its last answer."""

    def __init__(self, options: Any):
        self.url: str = options.url.rstrip("/")
        self._key: str | None = options.key
        self._last: Mapping[str, Any] | None = None

    def look(self) -> Report:
        """Ask the server; raises Away and CommandFailed."""
        return call_method(
            self.url, "top", self._report, expected="the load of a pushserver", key=self._key
        )

    def _report(self, load: Mapping[str, Any]) -> Report:
        report = make_report(load, self._last)
        self._last = load
        return report


def top(options: Any, out: TextIO) -> None:
    """Show the load until the end; raises CommandFailed."""
    server = Server(options)
    report = server.look()
    if options.once:
        time.sleep(options.interval)
        report = server.look()
        _print(options, server, report, out)
    elif options.json or not is_screen(out):
        _follow(options, server, out)
    else:
        try:
            with open_screen(out) as screen:
                _watch(options, server, report, screen)
        except Ended as ended:
            end_by(ended.number)


def _follow(options: Any, server: Server, out: TextIO) -> None:
    """Print a report each time."""
    end_with_reader(out)
    while True:
        time.sleep(options.interval)
        try:
            _print(options, server, server.look(), out)
        except Away as error:
            complain(f"{server.url}: {error.reason}; trying again")


def _print(options: Any, server: Server, report: Report, out: TextIO) -> None:
    if options.json:
        print(shown_json(json.dumps(report), out), file=out, flush=True)
        return
    lines = view(report, _title(server, report), sort=options.sort)
    print("\n".join(lines) + ("" if options.once else "\n"), file=out, flush=True)


def _watch(options: Any, server: Server, report: Report, screen: Screen) -> None:
    """Draw a report each time; a server that is away is waited for."""
    title = _title(server, report)
    due = time.monotonic() + options.interval
    while True:
        screen.show(view(report, title, *screen.size, options.sort))
        if set(screen.wait(due - time.monotonic())) & set(_KEYS_TO_QUIT):
            return
        if time.monotonic() < due:
            # The terminal has another size.
            continue
        try:
            report = server.look()
            title = _title(server, report)
        except Away as error:
            title = f"waiting for {server.url}: {error.reason}"
        due = time.monotonic() + options.interval


def _title(server: Server, report: Report) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(report["time"]))
    return f"{report['version']} at {server.url}, up {duration(report['uptime'])}, {at}"
