"""`pushserver doctor`: says what is wrong between clients and a server, and what to do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from pushserver.channels.names import check_name
from pushserver.diagnosis.finding import Finding
from pushserver.errors import CommandFailed, InvalidName, escaped

_INDENT = " " * 9
LEVELS = ("ok", "note", "warning", "error")


def add_doctor_command(commands: Any, server: Any) -> None:
    """Add the command; `server` is the parser of the URL and the key."""
    command = commands.add_parser(
        "doctor",
        parents=[server],
        help="say what is wrong between clients and a server, each with a fix to paste",
        description="Measures the server at the URL as its clients see it: reachability, the"
        " transports through the proxies in front of it, and clocks. With a key that has the scope"
        " admin (or none, on the server's machine, while no keys are configured) it also shows the"
        " server's own findings: headers that arrive, recent refusals, sources, store, open files."
        " Ends with status 1 if a finding is an error.",
    )
    command.add_argument(
        "--channel",
        type=_channel,
        default="numbers",
        help="for the long-poll [default: %(default)s]",
    )
    command.add_argument(
        "--wait",
        type=_seconds,
        default=2,
        metavar="SECONDS",
        help="the longest wait for an event, and the time of the long-poll, 1 to 60; 30 also shows"
        " proxies that end idle requests too early [default: %(default)s]",
    )
    command.add_argument("--json", action="store_true", help="print JSON, in one line")
    command.set_defaults(run=doctor)


def doctor(options: Any, out: TextIO) -> None:
    """Print the findings; raises CommandFailed if one of them is an error."""
    # Imported here: the other commands need none of the settings, which take time to import.
    from pushserver.command_line.measuring import Meter
    from pushserver.diagnosis.client_findings import client_findings

    try:
        meter = Meter(options.url, options.key, options.channel, options.wait)
    except ValueError as error:
        # It names the URL, but not one with a password.
        raise CommandFailed(str(error)) from None
    measured, answer = meter.measure()
    findings = [*client_findings(measured), *server_findings(answer)]
    if options.json:
        facts = answer.get("facts")
        value = {
            "findings": [asdict(finding) for finding in findings],
            "measured": asdict(measured),
            "server": facts,
        }
        print(json.dumps(value), file=out, flush=True)
    else:
        for line in lines(findings):
            print(line, file=out, flush=True)
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        raise CommandFailed(f"{errors} of {len(findings)} findings are errors")


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings as text, in lines without control characters."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        yield escaped(f"{finding.level:8} {finding.subject:{width}}  {finding.text}").rstrip()
        for number, line in enumerate(finding.fix.splitlines()):
            start = f"{_INDENT}{'fix:' if number == 0 else '':{width}}"
            yield escaped(f"{start}  {line}").rstrip()


def server_findings(answer: dict[str, Any]) -> Iterator[Finding]:
    """The findings in an answer of `/status`; others than findings are left out."""
    values = answer.get("findings")
    for value in values if isinstance(values, list) else ():
        if isinstance(value, dict):
            level, subject, text, fix = (
                str(value.get(key, "")) for key in ("level", "subject", "text", "fix")
            )
            known = next((each for each in LEVELS if each == level), "note")
            yield Finding(known, subject, text, fix)  # type: ignore[arg-type]


def _channel(text: str) -> str:
    try:
        return check_name(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> int:
    try:
        seconds = int(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number of 1 to 60")
    return seconds
