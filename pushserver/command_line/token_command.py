"""The commands `pushserver token`: make, read and check tokens of clients."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from pushserver.auth.issuer import SECRET_VARIABLE, token
from pushserver.command_line.console import shown_json
from pushserver.command_line.token_reading import claim_lines, given, in_json, parts
from pushserver.errors import CommandFailed

if TYPE_CHECKING:
    from pushserver.config.settings import Config


def add_token_commands(commands: Any) -> None:
    """Add `token new`, `token read` and `token check` to the commands of a parser."""
    group = commands.add_parser("token", help="make, read or check the token of a client")
    actions = group.add_subparsers(metavar="ACTION", title="actions", required=True)

    command = actions.add_parser("new", help="print a token for a user")
    command.add_argument("user", help='the user; "" for a token without one')
    command.add_argument(
        "--channels",
        nargs="+",
        metavar="PATTERN",
        help="channels that the token permits; * stands for any text",
    )
    command.add_argument(
        "--channel", help="make the token of a subscription to this channel, not of a connection"
    )
    command.add_argument(
        "--seconds", type=_seconds, default=3600.0, metavar="N", help="[default: %(default)g]"
    )
    command.add_argument("--info", metavar="JSON", help="shown to other clients")
    _add_config(command)
    command.set_defaults(run=new)

    command = actions.add_parser("read", help="show the content of a token, without verifying it")
    _add_token(command)
    command.set_defaults(run=show)

    command = actions.add_parser(
        "check", help="verify a token, and say what it allows or why it is refused"
    )
    _add_token(command)
    _add_config(command)
    command.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="NAME",
        help="also decide on this channel; repeatable",
    )
    command.add_argument(
        "--url", help="connect to this server with the token, in place of a configuration"
    )
    command.set_defaults(run=check)


def _add_config(command: Any) -> None:
    command.add_argument(
        "--config",
        default="",
        metavar="FILE",
        help="the configuration of the server; the environment is read too",
    )


def _add_token(command: Any) -> None:
    command.add_argument(
        "token", help="the token, or - for standard input: other users see the command line"
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, got {text!r}") from None


def new(options: Any, out: TextIO) -> None:
    """Print a token; raises ValueError."""
    info = None
    if options.info is not None:
        try:
            info = json.loads(options.info)
        except (ValueError, RecursionError) as error:
            raise CommandFailed(f"--info {options.info!r:.80} is not JSON: {error}") from None
    make: Callable[..., str] = token
    if options.config:
        # Imported here: without a configuration, the command needs no cryptography.
        from pushserver.config.tokens import make_issuer

        issuer = make_issuer(configured(options.config).auth)
        make = issuer.token
        if not issuer.secret:
            raise CommandFailed(
                f"{options.config}: there is no secret to make tokens: expected auth.token_secret,"
                " or one of auth.token_keys with HS256"
            )
    elif not os.environ.get(SECRET_VARIABLE):
        raise CommandFailed(
            "there is no secret: expected --config FILE with auth.token_secret, or"
            f" {SECRET_VARIABLE}"
        )
    text = make(
        options.user,
        channels=options.channels,
        channel=options.channel,
        seconds=options.seconds,
        info=info,
    )
    print(text, file=out)


def show(options: Any, out: TextIO) -> None:
    """Print the head and the claims of a token in words; raises CommandFailed."""
    head, claims = parts(given(options.token))
    print("This token is only read here: everyone can write one. `check` verifies it.", file=out)
    for name, value in head.items():
        print(shown_json(f"  {name}: {in_json(value)}", out), file=out)
    print("claims:", file=out)
    for line in claim_lines(claims, time.time()):
        print(shown_json(f"  {line}", out), file=out)


def check(options: Any, out: TextIO) -> None:
    """Verify a token, and print the rights that it gives; raises CommandFailed."""
    text = given(options.token)
    # Imported here: the other commands need no cryptography.
    from pushserver.command_line.token_checking import checked, checked_by_server

    lines = (
        checked_by_server(options.url, text)
        if options.url
        else checked(configured(options.config), text, options.channel)
    )
    for line in list(lines):
        print(shown_json(line, out), file=out)


def configured(path: str) -> Config:
    """The configuration of a server; raises InvalidConfig."""
    # Imported here, as in cli.
    from pushserver.config.loader import read
    from pushserver.sources.registry import SourceTypes

    return read(path, os.environ, SourceTypes())
