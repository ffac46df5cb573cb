"""`pushserver nodes`: lists the servers that share a Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

from pushserver.api_call import call_method
from pushserver.command_line.console import complain
from pushserver.command_line.top_report import MAX_CHARACTERS
from pushserver.command_line.top_view import columns, duration
from pushserver.opener import printable

_HEADING = ("NAME", "HOST", "PID", "VERSION", "UP", "LAG", "CONNECTIONS", "SOURCES")


def add_nodes_command(commands: Any, server: Any) -> None:
    """Add the command; `server` is the parser of the URL and the key."""
    command = commands.add_parser(
        "nodes",
        parents=[server],
        help="list the servers that share a Redis",
        description="Lists the servers that share a Redis with the one at the URL: the name, the"
        " machine, the process, the version, the time since its start, the publications that have"
        " not arrived there, its connections, and the sources that run there. Needs a key with the"
        " scope admin for all channels, or none for a program of the server's own user or of root"
        " while no keys are configured.",
    )
    command.add_argument("--json", action="store_true", help="print JSON, one server in a line")
    command.set_defaults(run=list_nodes)


def list_nodes(options: Any, out: TextIO) -> None:
    """Print the list; raises CommandFailed."""

    def convert(answer: Any) -> list[tuple[str, list[str]]]:
        return [(json.dumps(node), _row(node)) for node in answer["nodes"]]

    nodes = call_method(
        options.url, "nodes", convert, expected="a list of servers", key=options.key
    )
    if not nodes:
        complain("the server is alone: it has no broker")
    elif options.json:
        for line, _ in nodes:
            print(line, file=out)
    else:
        rows = [list(_HEADING), *(row for _, row in nodes)]
        widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print(_line(row, widths), file=out)


def _row(node: Mapping[str, Any]) -> list[str]:
    up = float(node["time"]) - float(node["since"])
    texts = [
        str(node["name"]),
        str(node["host"]),
        str(int(node["pid"])),
        str(node["version"]),
        duration(max(up, 0.0)),
        f"{int(node['lag']):,}",
        f"{int(node['connections']):,}",
        ", ".join(map(str, node["sources"])) or "-",
    ]
    return [printable(text[:MAX_CHARACTERS]) for text in texts]


def _line(row: list[str], widths: list[int]) -> str:
    cells = [text + " " * (width - columns(text)) for text, width in zip(row, widths, strict=True)]
    return "  ".join(cells).rstrip()
