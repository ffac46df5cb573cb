"""`pushserver reload`: lets a running server read its configuration again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

from pushserver.api_call import call_method
from pushserver.opener import printable

TIMEOUT_SECONDS = 30.0
"""The longest wait for the outcome."""
SHOWN = 20
"""The most settings in one line."""

NO_SETTING = "no setting; templates, pages and static files were read again"

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

    def convert(outcome: Any) -> tuple[str, str, list[str]]:
        problems = [printable(str(problem)) for problem in outcome.get("problems", ())]
        return _listed(outcome["changed"]), _listed(outcome["restart"]), problems[:SHOWN]

    changed, restart, problems = call_method(
        options.url,
        "reload",
        convert,
        expected="the outcome of a reload",
        key=options.key,
        seconds=TIMEOUT_SECONDS,
        hint=f"is it running? Or {_OTHERS}",
    )
    print(f"changed: {changed or NO_SETTING}", file=out)
    if restart:
        print(f"needs a restart: {restart}", file=out)
    for problem in problems:
        print(f"warning: {problem}", file=out)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    text = ", ".join(printable(str(name)) for name in names[:SHOWN])
    return text + (f" and {more} more" if more > 0 else "")
