"""Autobahn without the texts that nobody reads.

Autobahn 26.10 formats the arguments of its debug lines before anybody asks whether the line
is wanted: the options of each new connection with `pformat` (two thirds of what a connect
cost), and the name of each function with `hltype`, in colour where `click` is installed.
"""

from __future__ import annotations

from types import ModuleType

from autobahn.twisted import websocket as adapter
from autobahn.websocket import protocol

FORMATTERS: dict[ModuleType, tuple[str, ...]] = {
    protocol: ("pformat", "hltype", "hlval"),
    adapter: ("hltype", "hlval"),
}
"""Where each is looked up by its name when a line is to be written."""


def hush() -> None:
    """Let Autobahn's debug lines go without their arguments, for the whole process."""
    for module, names in FORMATTERS.items():
        for name in names:
            if hasattr(module, name):
                setattr(module, name, _nothing)


def _nothing(*args: object, **kwargs: object) -> str:
    return ""
