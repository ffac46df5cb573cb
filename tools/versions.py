"""Compares the lowest versions that setup.py declares with those that were tested.

`constraints` prints constraints.txt with the lowest versions in it. `record` is run by an
environment that has just passed the tests: it writes its versions to tools/lowest.txt.
`make test` checks that this file has what setup.py declares.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
LOWEST = CHECKOUT / "tools" / "lowest.txt"
_BOUND = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9][0-9.]*)")


def declared(setup: str) -> dict[str, str]:
    """Return the lower bounds in the text of setup.py: of Python, and of each requirement.

    Raises ValueError for a requirement with anything but a lower bound.
    """
    [call] = [
        node
        for node in ast.walk(ast.parse(setup))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    requirements: list[str] = [*ast.literal_eval(values["install_requires"])]
    for extra in ast.literal_eval(values["extras_require"]).values():
        requirements += extra
    python = "python" + ast.literal_eval(values["python_requires"])
    return dict(map(_bound, [python, *requirements]))


def _bound(requirement: str) -> tuple[str, str]:
    match = _BOUND.fullmatch(requirement)
    if match is None:
        raise ValueError(f"{requirement!r} in setup.py: expected NAME>=VERSION and no more")
    return match[1].lower(), match[2]


def constraints(pinned: str, lowest: dict[str, str]) -> Iterator[str]:
    """Yield the lines of constraints.txt, with the lowest versions of what setup.py declares."""
    for line in pinned.splitlines():
        name = line.partition("==")[0].lower()
        yield f"{name}=={lowest[name]}" if name in lowest else line


def installed(names: Iterator[str]) -> Iterator[str]:
    """Yield a line for each package of this environment, and its Python."""
    for name in names:
        if name == "python":
            yield f"python=={sys.version_info[0]}.{sys.version_info[1]}"
        else:
            yield f"{name}=={version(name)}"


def main() -> None:
    """Run the command in the arguments."""
    lowest = declared((CHECKOUT / "setup.py").read_text())
    if sys.argv[1:] == ["constraints"]:
        print(*constraints((CHECKOUT / "constraints.txt").read_text(), lowest), sep="\n")
    elif sys.argv[1:] == ["record"]:
        LOWEST.write_text("".join(f"{line}\n" for line in installed(iter(lowest))))
    else:
        raise SystemExit("expected: constraints or record")


if __name__ == "__main__":
    main()
