"""`pushserver reload`: lets a running server read its configuration again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, TextIO
from urllib.error import HTTPError

from pushserver.console import CommandFailed
from pushserver.opener import make_request, printable, refusal, send

TIMEOUT_SECONDS = 30.0
"""The longest wait for the outcome."""
MAX_ANSWER_BYTES = 1_048_576
"""The longest outcome: the names of some 20,000 settings."""
SHOWN = 20
"""The most settings in one line."""

_OTHERS = "by the system: systemctl reload pushserver, or kill -HUP and the process id"


def add_reload_command(commands: Any, server: Any) -> None:
    """Add the command; `server` is the parser of the URL and the key."""
    command = commands.add_parser(
        "reload",
        parents=[server],
        help="let a server read its configuration again, without dropping a connection",
        description="Lets the server at the URL read its configuration again, waits for the outcome"
        " and prints it. Needs a key with the scope admin for all channels, or none for a program"
        " of the server's own user or of root while no keys are configured."
        f" Without HTTP, {_OTHERS}.",
    )
    command.set_defaults(run=reload)


def reload(options: Any, out: TextIO) -> None:
    """Reload and print which settings changed; raises CommandFailed if the server refuses."""
    headers = {"Content-Type": "application/json"}
    try:
        request = make_request(options.url, "/api/reload", headers, options.key, b"{}")
    except ValueError as error:
        # It names the URL, but not one with a password.
        raise CommandFailed(str(error)) from None
    try:
        with send(request, TIMEOUT_SECONDS) as response:
            answer = json.loads(response.read(MAX_ANSWER_BYTES))
        if "error" in answer:
            raise CommandFailed(printable(str(answer["error"]["message"])))
        changed, restart = (_listed(answer["result"][key]) for key in ("changed", "restart"))
    except HTTPError as error:
        raise CommandFailed(refusal(request, error, TIMEOUT_SECONDS)) from None
    except (OSError, HTTPException) as error:
        reason = printable(str(getattr(error, "reason", None) or error))
        raise CommandFailed(f"{options.url}: {reason}; is it running? Or {_OTHERS}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandFailed(f"{options.url}: {printable(str(error))}") from None
    print(f"changed: {changed or 'nothing'}", file=out)
    if restart:
        print(f"needs a restart: {restart}", file=out)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    text = ", ".join(printable(str(name)) for name in names[:SHOWN])
    return text + (f" and {more} more" if more > 0 else "")
