"""Loads the application of `--app MODULE:NAME`."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from types import ModuleType

from pushserver.app.app import App
from pushserver.errors import StartFailed


def load(text: str) -> App:
    """The application; its module may be in the current folder.

    Raises StartFailed; if the import fails, with the traceback of the user's own files.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise StartFailed(f"--app {text}: expected MODULE:NAME, such as ticker:app")
    if os.sep in module or module.startswith(".") or module.endswith(".py"):
        example = _dotted(module) or "ticker"
        raise StartFailed(f"--app {text}: expected MODULE:NAME, such as {example}:{name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    value = getattr(_import(text, module), name, None)
    if isinstance(value, App):
        return value
    apps = [n for n, v in vars(sys.modules[module]).items() if isinstance(v, App)]
    hint = f"; there is {module}:{apps[0]}" if apps else ""
    problem = f" has no {name}" if value is None else f":{name} is {value!r:.60}"
    raise StartFailed(f"--app {text}: {module}{problem}, expected a PushServer{hint}")


def _dotted(path: str) -> str:
    """The module of a file, as if a file elsewhere were in the current folder."""
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
        raise StartFailed(_traceback(text, error)) from None
    except (Exception, SystemExit) as error:
        raise StartFailed(_traceback(text, error)) from None


def _traceback(text: str, error: BaseException) -> str:
    """The traceback from the user's first frame to the last, without frames of this package."""
    trace = traceback.TracebackException.from_exception(error)
    own = next((n for n, frame in enumerate(trace.stack) if not _imports(frame.filename)), None)
    if own is not None:
        del trace.stack[:own]
        while len(trace.stack) > 1 and trace.stack[-1].filename.startswith(_PACKAGE):
            del trace.stack[-1]
    else:
        trace.stack.clear()
    return f"--app {text} cannot be imported:\n{''.join(trace.format()).rstrip()}"


def _imports(filename: str) -> bool:
    """Whether a frame belongs to the import itself."""
    return filename.startswith("<frozen") or filename in (__file__, _IMPORTLIB)


_IMPORTLIB = import_module.__code__.co_filename
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
