"""`pushserver`: publish, subscribe and check a configuration from the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from typing import Any, TextIO
from urllib.error import HTTPError
from urllib.parse import urlencode

from pushserver import __version__
from pushserver.config.loader import read
from pushserver.errors import PushServerError
from pushserver.opener import make_request, printable, refusal, send
from pushserver.publisher import publish

DEFAULT_URL = "http://localhost:8080"
SILENCE_SECONDS = 60.0
"""The time after which a silent server is taken for dead; it sends a heartbeat every 20 s."""
RETRY_SECONDS = 1.0
LINE_BYTES = 67_108_864
"""The longest line of a stream; a publication has `body_bytes` (1 MiB) unless configured."""

_LINES = "application/x-ndjson"


class CommandFailed(PushServerError):
    """Ends the command with one line and status 1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options, sys.stdout)
    except PushServerError as error:
        print(f"pushserver: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe (`pushserver subscribe numbers | head`).
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pushserver", description=__doc__)
    parser.add_argument("--version", action="version", version=f"pushserver {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--url",
        default=os.environ.get("PUSHSERVER_URL", DEFAULT_URL),
        help="the URL of the server; also PUSHSERVER_URL [default: %(default)s]",
    )
    server.add_argument(
        "--key", default=os.environ.get("PUSHSERVER_KEY"), help="an API key; also PUSHSERVER_KEY"
    )

    command = commands.add_parser("publish", parents=[server], help="publish to a channel")
    command.add_argument("channel")
    command.add_argument(
        "data", help="JSON, or any other text; - publishes each line of standard input"
    )
    command.add_argument(
        "--event", default="message", help="the event's name [default: %(default)s]"
    )
    command.set_defaults(run=_publish)

    command = commands.add_parser(
        "subscribe", parents=[server], help="print publications as they arrive, one line each"
    )
    command.add_argument("channel", nargs="+")
    command.add_argument(
        "--last", type=int, metavar="N", help="first print the last N publications"
    )
    command.add_argument(
        "--since",
        metavar="ID",
        help="first print the publications after this id, or all (`oldest`)",
    )
    command.add_argument("--count", type=int, metavar="N", help="exit after N publications")
    command.set_defaults(run=_subscribe)

    command = commands.add_parser("check-config", help="report errors in a configuration file")
    command.add_argument("file")
    command.set_defaults(run=_check_config)
    return parser


def _publish(options: Any, out: TextIO) -> None:
    lines = [options.data] if options.data != "-" else (line.rstrip("\n") for line in sys.stdin)
    for line in lines:
        answer = publish(
            options.url, options.channel, _value(line), event=options.event, key=options.key
        )
        print(json.dumps(answer), file=out, flush=True)


def _value(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(word: str) -> None:
    raise ValueError(word)


def _subscribe(options: Any, out: TextIO) -> None:
    if options.since and options.last is not None:
        raise CommandFailed("--since and --last exclude each other")
    start = {"since": options.since} if options.since else {}
    if options.last is not None:
        start = {"last": str(options.last)}
    left = options.count
    while left is None or left > 0:
        try:
            for line in _lines(options, start):
                cursor, publication = _read(options, line)
                start = {"since": cursor}
                if publication:
                    print(line, file=out, flush=True)
                    left = None if left is None else left - 1
                    if left == 0:
                        return
        except (OSError, HTTPException) as error:
            reason = printable(str(getattr(error, "reason", None) or error))
            print(f"pushserver: {options.url}: {reason}; trying again", file=sys.stderr)
        time.sleep(RETRY_SECONDS)


def _read(options: Any, line: str) -> tuple[str, bool]:
    """Return the cursor after this line, and whether it is a publication."""
    try:
        message = json.loads(line)
        if "subscribed" in message:
            return str(message["subscribed"]["id"]), False
        if "reset" in message:
            reset = message["reset"]
            reason = printable(str(reset["reason"]))
            print(f"pushserver: publications are missing: {reason}", file=sys.stderr)
            return str(reset["id"]), False
        return str(message["id"]), True
    except (ValueError, TypeError, KeyError, RecursionError):
        problem = f"expected a publication of pushserver, got {line[:60]!r}"
        raise CommandFailed(f"{options.url}: {problem}") from None


def _lines(options: Any, start: dict[str, str]) -> Iterator[str]:
    query = urlencode([("channel", name) for name in options.channel] + list(start.items()))
    try:
        request = make_request(options.url, f"/events?{query}", {"Accept": _LINES}, options.key)
        response = send(request, SILENCE_SECONDS)
    except HTTPError as error:
        raise CommandFailed(refusal(request, error, SILENCE_SECONDS)) from None
    except ValueError as error:
        raise CommandFailed(printable(str(error))) from None
    with response:
        media = response.headers.get("Content-Type") or "no Content-Type"
        if response.status != 200 or media.partition(";")[0].strip().lower() != _LINES:
            raise CommandFailed(
                f"{options.url}: expected status 200 and {_LINES}, got {response.status}"
                f" and {printable(media)}"
            )
        while line := response.readline(LINE_BYTES + 1):
            if len(line) > LINE_BYTES:
                raise CommandFailed(f"{options.url} sent a line of more than {LINE_BYTES} bytes")
            text = line.decode("utf-8", "replace").strip()
            if text:
                yield text


def _check_config(options: Any, out: TextIO) -> None:
    # Imported here: the registry needs Twisted, which takes time to import.
    from pushserver.sources.registry import SourceTypes

    read(options.file, os.environ, SourceTypes())
    print(f"{options.file}: good", file=out)
