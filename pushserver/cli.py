"""`pushserver`: run a server, publish, subscribe and check a configuration."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TextIO

from pushserver import __version__
from pushserver.command_line.console import complain, discard_output, escape_output
from pushserver.command_line.doctor_command import add_doctor_command
from pushserver.command_line.key_command import add_key_commands
from pushserver.command_line.listing import list_channels
from pushserver.command_line.nodes_command import add_nodes_command
from pushserver.command_line.piping import Batch, Piper, batches, parse_json, standard_input
from pushserver.command_line.reload_command import add_reload_command
from pushserver.command_line.store_command import add_store_commands
from pushserver.command_line.subscribing import subscribe
from pushserver.command_line.token_command import add_token_commands
from pushserver.command_line.top_command import add_top_command
from pushserver.command_line.unit_command import add_unit_commands
from pushserver.config.secret_files import read_secret
from pushserver.errors import CommandFailed, PushServerError, StartFailed
from pushserver.publisher import publish
from pushserver.server.gc_policy import without_collections
from pushserver.usercode.hangup import take_early

DEFAULT_URL = "http://localhost:8080"
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
  pushserver top
  pushserver nodes
  pushserver check-config push.toml
  pushserver doctor https://push.example
  pushserver reload
  pushserver key new --name shop --channels 'orders:*' --may publish
  pushserver store backup copy.db --config push.toml

pushserver COMMAND --help describes the options of a command."""


class _Parser(argparse.ArgumentParser):
    """Errors show the usage of the command that they are about, and the word that was meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse itself leaves the rest of a command to the parser of all commands.
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            names = [name for action in self._actions for name in action.option_strings]
            words = [word.partition("=")[0] for word in rest if word.startswith("-")]
            near = [each for word in words for each in get_close_matches(word, names, 1)]
            hint = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return options, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # Public hooks of argparse have only the text of its own message.
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            self.error(f"there is no command {value!r}; {self._meant(value, action.choices)}")
        super()._check_value(action, value)

    def _meant(self, word: str, commands: Iterable[str]) -> str:
        if "serve" in commands and word.endswith(".py"):
            return f"did you mean {self.prog} serve {word}?"
        near = get_close_matches(word, [*commands, "--help", "--version"], 1)
        return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(commands)}"


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
        # An error of a write has no file.
        complain(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return 1


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
        _read_key(options)
        if target := getattr(options, "target", None):
            options.url = target
        # There may be no standard output (`>&-`).
        options.run(options, sys.stdout or io.StringIO())
    except StartFailed:
        # Python prints its text, and exits with status 1.
        raise
    except PushServerError as error:
        complain(str(error))
        return 1
    except UnicodeEncodeError as error:
        # A name of a file, in a locale of another encoding.
        complain(f"{error.object!r:.200} cannot be written as {error.encoding}: set LC_ALL=C.UTF-8")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _read_key(options: Any) -> None:
    """Put the key of `--api-key-file` in the place of that of `--key`; raises CommandFailed."""
    path = getattr(options, "api_key_file", None)
    if path is None:
        return
    try:
        options.key = read_secret(path, or_pipe=True)
    except ValueError as error:
        raise CommandFailed(f"--api-key-file {error}") from None


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


def _no_url(argument: str) -> str:
    """A text that is no URL: only some commands take that of the server without `--url`."""
    if "://" in argument:
        raise argparse.ArgumentTypeError(f"{argument!r:.80} is a URL: give it as --url URL")
    return _text(argument)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pushserver",
        description=_START,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pushserver {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    parser.set_defaults(run=None)
    _add_serve(commands)
    server = _Parser(add_help=False)
    server.add_argument(
        "--url",
        default=os.environ.get("PUSHSERVER_URL", DEFAULT_URL),
        help="the URL of the server; also PUSHSERVER_URL [default: %(default)s]",
    )
    server.add_argument(
        "--key",
        default=os.environ.get("PUSHSERVER_KEY"),
        help="an API key; also PUSHSERVER_KEY. Other users of this machine can see it",
    )
    server.add_argument(
        "--api-key-file", metavar="FILE", help="a file with the API key, in place of --key"
    )
    target = _Parser(add_help=False, parents=[server])
    target.add_argument("target", nargs="?", metavar="URL", help="in place of --url")

    command = commands.add_parser("publish", parents=[server], help="publish to a channel")
    command._negative_number_matcher = _NEGATIVE
    command.add_argument("channel", type=_no_url)
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
    command.add_argument("channel", type=_no_url, nargs="+")
    command.add_argument(
        "--last", type=_number, metavar="N", help="first print the last N publications"
    )
    command.add_argument(
        "--since",
        type=_text,
        metavar="ID",
        help="first print the publications after this id, or all (`oldest`)",
    )
    command.add_argument("--count", type=_number, metavar="N", help="exit after N publications")
    command.set_defaults(run=subscribe)

    command = commands.add_parser(
        "channels", parents=[server], help="list the channels, those with the newest events first"
    )
    command.add_argument("text", nargs="?", default="", type=_no_url, help="a part of their names")
    command.add_argument("--json", action="store_true", help="print JSON, one channel in a line")
    command.set_defaults(run=list_channels)

    command = commands.add_parser("check-config", help="report errors in a configuration file")
    file = command.add_mutually_exclusive_group(required=True)
    file.add_argument("file", nargs="?")
    file.add_argument("--config", metavar="FILE", help="the same")
    command.set_defaults(run=_check_config)
    add_doctor_command(commands, target)
    add_top_command(commands, target)
    add_nodes_command(commands, target)
    add_reload_command(commands, target)
    add_key_commands(commands)
    add_token_commands(commands)
    add_store_commands(commands)
    add_unit_commands(commands)
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
    command.add_argument(
        "--wsgi",
        default="",
        metavar="MODULE:NAME",
        help="a WSGI application, such as one of Flask, to serve on the same port",
    )
    command.add_argument(
        "--templates",
        default="",
        metavar="FOLDER",
        help="templates of channels, and in place of the server's own pages",
    )
    command.add_argument(
        "--static",
        default="",
        metavar="FOLDER",
        help="scripts, styles and pictures, also in place of the server's own at /static",
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
        "--broker",
        action="append",
        metavar="URL",
        help="the Redis of several servers, such as redis://10.0.0.7, repeatable; other users of"
        " this machine can see it, so put a URL with a password into the configuration",
    )
    command.add_argument(
        "--workers",
        metavar="N | auto",
        help="the processes for the connections; auto: one less than the cores [default: 1]",
    )
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
    take_early()
    # Imported here: the other commands need no Twisted, which takes time to import.
    with without_collections():
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
            _print(_publish_one(options, parse_json(batch[0].decode()), piper.patience), out)
            piper.first += 1


def _publish_one(options: Any, data: object, seconds: float = 1.0) -> dict[str, object]:
    more = {"event": options.event, "api_key": options.key, "retry_seconds": seconds}
    return publish(options.url, options.channel, data, **more)


def _print(answer: dict[str, object], out: TextIO) -> None:
    print(json.dumps(answer), file=out, flush=True)


def _input_batches() -> Iterator[Batch]:
    try:
        yield from batches(standard_input())
    except OSError as error:
        raise CommandFailed(f"standard input: {error.strerror or error}") from None


def _value(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        if text.lstrip()[:1] in ("{", "["):
            complain(f"the data is published as a text, since it is no JSON: {error}")
        return text


def _check_config(options: Any, out: TextIO) -> None:
    # Imported here, as in _serve: this takes longer than all other imports together.
    with without_collections():
        from pushserver.config.loader import read, warnings
        from pushserver.resources.pages import look_problems
        from pushserver.resources.templates import Templates
        from pushserver.server.broker_parts import check_libraries
        from pushserver.server.options import with_look, with_pages
        from pushserver.server.ports import check_endpoints
        from pushserver.sources.registry import SourceTypes

    types, file = SourceTypes(), options.file or options.config
    config = with_look(with_pages(read(file, os.environ, types), file))
    try:
        check_endpoints(config.server.listen, config.server.metrics_listen)
    except StartFailed as error:
        problem = str(error).removeprefix("pushserver: ")
        raise CommandFailed(f"{file}: {problem}") from None
    if config.broker.urls:
        check_libraries()
    found = [*warnings(os.environ, types, config)]
    # Without a folder here, that of the application counts.
    if folder := config.server.templates or config.server.pages:
        found += Templates(os.path.abspath(folder)).problems(config.templates)
    elif config.templates:
        names = ", ".join(map(repr, sorted(config.templates)))
        found.append(f"template = {names}: server.templates names no folder of templates")
    if config.server.templates:
        found += look_problems(os.path.abspath(config.server.templates))
    for line in found:
        complain(line)
    count = "a warning" if len(found) == 1 else f"{len(found)} warnings"
    print(f"{file}: good{', with ' + count if found else ''}", file=out)
