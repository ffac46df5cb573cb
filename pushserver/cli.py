"""`pushserver`: run a server, publish, subscribe and check a configuration."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from typing import Any, TextIO
from urllib.error import HTTPError
from urllib.parse import urlencode

from pushserver import __version__
from pushserver.config.loader import read, unknown_variables
from pushserver.console import (
    CommandFailed,
    complain,
    discard_output,
    end_with_reader,
    escape_output,
    shown_json,
)
from pushserver.errors import PushServerError, StartFailed
from pushserver.listing import list_channels
from pushserver.opener import TEMPORARY, make_request, printable, refusal, send
from pushserver.piping import Batch, Piper, batches, standard_input
from pushserver.publisher import publish

DEFAULT_URL = "http://localhost:8080"
SILENCE_SECONDS = 60.0
"""The time after which a silent server is taken for dead; it sends a heartbeat every 20 s."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 10.0
"""The pause before another attempt doubles until the server sends a line."""
LINE_BYTES = 67_108_864
"""The longest line of a stream; a publication has `body_bytes` (1 MiB) unless configured."""

_LINES = "application/x-ndjson"
# As Python 3.14 has it; before, argparse takes -1e-5 for an option.
_NEGATIVE = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)


_START = """\
Start a server with

  pushserver serve              random numbers, live on http://localhost:8080/
  pushserver serve ticker.py    your own application, a file that makes a PushServer

and stop it with Ctrl-C. twistd pushserver runs the same server as a daemon."""
_EXAMPLES = """\
examples:
  pushserver serve ticker.py --port 8081 --reload
  pushserver publish numbers '{"number": 3}'
  pushserver subscribe numbers --last 3
  pushserver channels
  pushserver check-config push.toml

pushserver COMMAND --help describes the options of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    escape_output()
    try:
        return _run(arguments)
    except OSError as error:
        discard_output()
        if isinstance(error, BrokenPipeError):
            # The reader has closed the pipe (`pushserver subscribe numbers | head`).
            return 0
        complain(f"standard output: {error.strerror or error}")
        return 1


class _Lost(Exception):
    """The connection to the server is lost, or there was none; the text says why."""


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command; raises OSError for a failure of its output only."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit:
        if sys.stdout is not None:
            sys.stdout.flush()
        raise
    if options.run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        # There may be no standard output (`>&-`).
        options.run(options, sys.stdout or io.StringIO())
    except StartFailed:
        # Python prints its text, and exits with status 1.
        raise
    except PushServerError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _text(argument: str) -> str:
    """An argument of the command line as text; its bytes are UTF-8 where the locale is ASCII."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(argument).decode()
        except UnicodeError:
            raise argparse.ArgumentTypeError(f"{argument!r} is not UTF-8") from None
    return argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pushserver",
        description=_START,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pushserver {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    parser.set_defaults(run=None)
    _add_serve(commands)
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
    command._negative_number_matcher = _NEGATIVE
    command.add_argument("channel", type=_text)
    command.add_argument(
        "data",
        type=_text,
        help="JSON, or any other text; - publishes each line of standard input, and other text"
        " that begins with - needs -- before it",
    )
    command.add_argument(
        "--event", type=_text, default="message", help="the event's name [default: %(default)s]"
    )
    command.set_defaults(run=_publish)

    command = commands.add_parser(
        "subscribe", parents=[server], help="print publications as they arrive, one line each"
    )
    command.add_argument("channel", type=_text, nargs="+")
    command.add_argument(
        "--last", type=int, metavar="N", help="first print the last N publications"
    )
    command.add_argument(
        "--since",
        type=_text,
        metavar="ID",
        help="first print the publications after this id, or all (`oldest`)",
    )
    command.add_argument("--count", type=int, metavar="N", help="exit after N publications")
    command.set_defaults(run=_subscribe)

    command = commands.add_parser(
        "channels", parents=[server], help="list the channels, those with the newest events first"
    )
    command.add_argument("text", nargs="?", default="", type=_text, help="a part of their names")
    command.add_argument("--json", action="store_true", help="print JSON, one channel in a line")
    command.set_defaults(run=list_channels)

    command = commands.add_parser("check-config", help="report errors in a configuration file")
    command.add_argument("file")
    command.set_defaults(run=_check_config)
    return parser


def _add_serve(commands: Any) -> None:
    command = commands.add_parser("serve", help="run the server until Ctrl-C")
    command.add_argument(
        "app",
        nargs="?",
        default="",
        type=_text,
        metavar="MODULE:NAME | FILE.py",
        help="the application; without one, the server has a source of random numbers",
    )
    command.add_argument("--port", help="the port to listen on [default: 8080]")
    command.add_argument("--host", default="", help="the address [default: 127.0.0.1]")
    command.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help="in place of --host and --port, repeatable: a port, HOST:PORT, or an endpoint of"
        " Twisted such as unix:/run/push.sock",
    )
    command.add_argument("--config", default="", metavar="FILE", help="a configuration (TOML)")
    command.add_argument(
        "--reload", action="store_true", help="start again when a Python file has changed"
    )
    command.add_argument("--open", action="store_true", help="open the page in a browser")
    command.add_argument(
        "--reactor",
        default="",
        help="asyncio, epoll, ... [default: asyncio if the application has coroutine functions]",
    )
    command.add_argument("--debug", action="store_true", help="also log connects and disconnects")
    command.set_defaults(run=_serve)


def _serve(options: Any, out: TextIO) -> None:
    # Imported here: the other commands need no Twisted, which takes time to import.
    from pushserver.server.foreground import end_by, serve
    from pushserver.server.options import Options

    known = Options()
    known.update({key: value for key, value in vars(options).items() if key in known})
    number = serve(known, reactor=options.reactor, browse=options.open)
    if number:
        out.flush()
        end_by(number)


def _publish(options: Any, out: TextIO) -> None:
    if options.data != "-":
        _print(_publish_one(options, _value(options.data)), out)
        return
    piper = Piper(options.url, options.channel, options.event, options.key)
    for batch in _input_batches():
        if len(batch) > 1:
            _print(piper.publish(batch), out)
        else:
            # With an idempotency key, so that it may be sent again.
            _print(_publish_one(options, json.loads(batch[0]), piper.patience), out)
            piper.first += 1


def _publish_one(options: Any, data: object, seconds: float = 1.0) -> dict[str, object]:
    more = {"event": options.event, "api_key": options.key, "retry_seconds": seconds}
    return publish(options.url, options.channel, data, **more)


def _print(answer: dict[str, object], out: TextIO) -> None:
    print(json.dumps(answer), file=out, flush=True)


def _input_batches() -> Iterator[Batch]:
    try:
        yield from batches(standard_input())
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise CommandFailed(f"standard input: {problem}") from None


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
    end_with_reader(out)
    left, pause = options.count, RETRY_SECONDS
    while left is None or left > 0:
        try:
            for line in _lines(options, start):
                pause = RETRY_SECONDS
                cursor, publication = _read(options, line)
                start = {"since": cursor}
                if publication:
                    print(shown_json(line, out), file=out, flush=True)
                    left = None if left is None else left - 1
                    if left == 0:
                        return
        except _Lost as error:
            complain(f"{options.url}: {error}; trying again")
        time.sleep(pause)
        pause = min(2 * pause, MAX_RETRY_SECONDS)


def _read(options: Any, line: str) -> tuple[str, bool]:
    """Return the cursor after this line, and whether it is a publication."""
    try:
        message = json.loads(line)
        if "subscribed" in message:
            return str(message["subscribed"]["id"]), False
        if "reset" in message:
            reset = message["reset"]
            reason = printable(str(reset["reason"]))
            complain(f"publications are missing: {reason}")
            return str(reset["id"]), False
        return str(message["id"]), True
    except (ValueError, TypeError, KeyError, RecursionError):
        problem = f"expected a publication of pushserver, got {line[:60]!r}"
        raise CommandFailed(f"{options.url}: {problem}") from None


def _lines(options: Any, start: dict[str, str]) -> Iterator[str]:
    """The lines of one connection; raises _Lost for a failure of the network."""
    try:
        yield from _stream(options, start)
    except (OSError, HTTPException) as error:
        raise _Lost(printable(str(getattr(error, "reason", None) or error))) from None


def _stream(options: Any, start: dict[str, str]) -> Iterator[str]:
    query = urlencode([("channel", name) for name in options.channel] + list(start.items()))
    try:
        request = make_request(options.url, f"/events?{query}", {"Accept": _LINES}, options.key)
        response = send(request, SILENCE_SECONDS)
    except HTTPError as error:
        message = refusal(request, error, SILENCE_SECONDS)
        raise (_Lost if error.code in TEMPORARY else CommandFailed)(message) from None
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
    # Imported here, as in _serve.
    from pushserver.sources.registry import SourceTypes

    types = SourceTypes()
    config = read(options.file, os.environ, types)
    for line in unknown_variables(os.environ, types, config):
        complain(line)
    print(f"{options.file}: good", file=out)
