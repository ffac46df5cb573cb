"""Finds the application that `--app MODULE:NAME` names."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from types import ModuleType

from pushserver.app.app import App
from pushserver.errors import StartFailed


def load(text: str) -> App:
    """The application; modules in the current folder are found too.

    Raises StartFailed, with the traceback in the user's own files when the module could not be
    imported.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise StartFailed(f"--app {text}: expected MODULE:NAME, such as ticker:app")
    if os.sep in module or module.startswith(".") or module.endswith(".py"):
        meant = _dotted(module) or "ticker"
        raise StartFailed(f"--app {text}: expected MODULE:NAME, such as {meant}:{name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = getattr(_import(text, module), name, None)
    if isinstance(found, App):
        return found
    there = [n for n, v in vars(sys.modules[module]).items() if isinstance(v, App)]
    hint = f"; there is {module}:{there[0]}" if there else ""
    problem = f" has no {name}" if found is None else f":{name} is {found!r:.60}"
    raise StartFailed(f"--app {text}: {module}{problem}, expected a PushServer{hint}")


def _dotted(path: str) -> str:
    """The module that somebody means by a file; that of the current folder if it is elsewhere."""
    parts = path.removesuffix(".py").split(os.sep)
    inside = not os.path.isabs(path) and ".." not in parts
    return ".".join(p.strip(".") for p in (parts if inside else parts[-1:]) if p.strip("."))


def _import(text: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            place = f"neither in {os.getcwd()} nor installed"
            raise StartFailed(f"--app {text}: there is no module {error.name}, {place}") from None
        raise StartFailed(_told(text, error)) from None
    except (Exception, SystemExit) as error:
        raise StartFailed(_told(text, error)) from None


def _told(text: str, error: BaseException) -> str:
    """What happened, from the user's first line to the last, without what is ours behind it."""
    told = traceback.TracebackException.from_exception(error)
    own = next((n for n, frame in enumerate(told.stack) if not _passed(frame.filename)), None)
    if own is not None:
        del told.stack[:own]
        while len(told.stack) > 1 and told.stack[-1].filename.startswith(_PACKAGE):
            del told.stack[-1]
    else:
        told.stack.clear()
    return f"--app {text} cannot be imported:\n{''.join(told.format()).rstrip()}"


def _passed(filename: str) -> bool:
    """Whether a frame is of the import itself."""
    return filename.startswith("<frozen") or filename in (__file__, _IMPORTLIB)


_IMPORTLIB = import_module.__code__.co_filename
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
