"""The command `pushserver key`: makes API keys."""

from __future__ import annotations

import json
import secrets
from typing import Any, TextIO

from pushserver.auth.keys import check_key_name, check_scopes, hash_of, new_key
from pushserver.auth.patterns import Patterns
from pushserver.errors import CommandFailed

_WORDS = """\
# The line above is the key, and is shown only now. The server needs its hash alone: put these lines
# into its configuration, and run pushserver reload."""


def add_key_commands(commands: Any) -> None:
    """Add `key new` to the commands of a parser."""
    group = commands.add_parser("key", help="make an API key")
    actions = group.add_subparsers(metavar="ACTION", title="actions", required=True)
    command = actions.add_parser(
        "new", help="print a new key, and the lines of the configuration that allow it"
    )
    command.add_argument("--name", default="", help="its name, for the log [default: a random one]")
    command.add_argument(
        "--channels",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="the channels on which it counts; * stands for any text [default: *]",
    )
    command.add_argument(
        "--may",
        default="publish,read",
        metavar="SCOPES",
        help="publish, read and admin, with commas [default: %(default)s]",
    )
    command.set_defaults(run=new)


def new(options: Any, out: TextIO) -> None:
    """Print a new key, and its table for the configuration; raises CommandFailed."""
    name = options.name or f"key-{secrets.token_hex(3)}"
    try:
        check_key_name(name)
        channels = Patterns.of(options.channels).texts
    except ValueError as error:
        raise CommandFailed(str(error)) from None
    may = options.may.replace(",", " ").split()
    try:
        check_scopes(may)
    except ValueError as error:
        raise CommandFailed(f"--may: {error}") from None
    key = new_key()
    lines = [
        key,
        "",
        _WORDS,
        f"[auth.keys.{name}]",
        f'hash = "{hash_of(key)}"',
        f"channels = {json.dumps(channels)}",
        f"may = {json.dumps(may)}",
    ]
    print("\n".join(lines), file=out)
