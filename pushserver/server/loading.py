"""Loads the application of a module or a file."""

from __future__ import annotations

import os
import re
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from pushserver.app.app import Adapter, App
from pushserver.errors import StartFailed
from pushserver.wsgi.interface import Application

EXPECTED = "expected MODULE:NAME or FILE.py, such as ticker:app or ticker.py"
OF_FILE = "pushserver_application"
"""The module of a file whose own name cannot be imported, or is that of another module."""

loading: ContextVar[bool] = ContextVar("loading", default=False)
"""Whether a server imports its application in this thread, so that `app.run()` does nothing."""

_TEXT = re.compile(r"(.+?)(?::([^:/]*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reference:
    """An application: its module or file, and its name there ("" for the only one)."""

    text: str
    module: str
    name: str
    file: Path | None = None


def load(text: str) -> App:
    """The application of MODULE:NAME, MODULE, FILE.py or FILE.py:NAME.

    A module may be in the current folder. Without NAME it must have one application. Raises
    StartFailed; if the import fails, with the traceback of the user's own files.
    """
    reference = parse(text)
    token = loading.set(True)
    try:
        module = _import(reference)
    finally:
        loading.reset(token)
    return _choose(reference, module)


def load_wsgi(text: str) -> Application:
    """The WSGI application of MODULE:NAME or FILE.py:NAME, or of the factory MODULE:NAME().

    Without NAME it is `application` or `app`. Raises StartFailed, as `load`.
    """
    reference = parse(text)
    token = loading.set(True)
    try:
        module = _import(reference)
        return _wsgi(reference, module)
    finally:
        loading.reset(token)


def _wsgi(reference: Reference, module: ModuleType) -> Application:
    text, name = reference.text, reference.name
    factory = name.endswith("()")
    names = [name.removesuffix("()")] if name else ["application", "app"]
    for each in names:
        value: Any = getattr(module, each, None)
        if callable(value) and not isinstance(value, App):
            try:
                value = value() if factory else value
            except Exception as error:
                raise StartFailed(_traceback(text, error, "fails")) from None
            if callable(value):
                return value  # type: ignore[no-any-return]
    value = getattr(module, names[0], None)
    if name and value is None:
        problem = f"{reference.module} has no {names[0]}"
    elif isinstance(value, App | Adapter):
        problem = f"it is the application of a server: pushserver serve {text} without --wsgi"
    elif name:
        problem = f"{reference.module}:{name} is {value!r:.60}"
    else:
        problem = f"{reference.module} has neither application nor app"
    raise StartFailed(f"{text}: {problem}, expected a WSGI application, such as one of Flask")


def parse(text: str) -> Reference:
    """The application that the text names, not yet imported.

    Raises StartFailed for another text or a missing file.
    """
    match = _TEXT.fullmatch(text)
    if match is None or match[2] == "" or match[1].startswith(":"):
        raise StartFailed(f"{text!r:.200} names no application, {EXPECTED}")
    module, name = match[1], match[2] or ""
    if module.endswith(".toml"):
        raise StartFailed(f"{text} is no application; a configuration is given by --config {text}")
    if module.endswith(".py"):
        file = Path(os.path.abspath(module))
        if not file.is_file():
            problem = "is a folder" if file.is_dir() else "does not exist"
            raise StartFailed(f"{text}: the file {file} {problem}", file)
        return Reference(text, module, name, file)
    if not all(part.isidentifier() for part in module.split(".")):
        near = f"; there is the file {module}.py" if Path(f"{module}.py").is_file() else ""
        raise StartFailed(f"{text}: {module} is no module, {EXPECTED}{near}")
    return Reference(text, module, name)


def file_of(text: str) -> str:
    """The file of an application that was loaded; empty if its module has none."""
    reference = parse(text)
    if reference.file is not None:
        return str(reference.file)
    return getattr(sys.modules.get(reference.module), "__file__", None) or ""


def _choose(reference: Reference, module: ModuleType) -> App:
    """The application in the module; raises StartFailed unless there is one, or one of the name."""
    text, name = reference.text, reference.name
    found = {
        key: application
        for key, value in vars(module).items()
        if (application := _application(value)) is not None
    }
    if name:
        value = getattr(module, name, None)
        application = _application(value)
        if application is not None:
            return application
        problem = f" has no {name}" if value is None else f":{name} is {value!r:.60}"
        there = f"; there is {_of(reference, *found)}" if found else ""
        raise StartFailed(f"{text}: {reference.module}{problem}, expected a PushServer{there}")
    if not found:
        needs = "from pushserver import PushServer, then app = PushServer()"
        for key, value in vars(module).items():
            if not isinstance(value, type) and callable(getattr(value, "wsgi_app", None)):
                served = f"pushserver serve --wsgi {text}:{key}"
                needs += f"; its {key} is a WSGI application: {served}"
                break
        raise StartFailed(f"{text} defines no application at its top level; it needs {needs}")
    # One application may have several names.
    if len({id(value) for value in found.values()}) > 1:
        choice = _of(reference, *found)
        raise StartFailed(f"{text} defines {len(found)} applications, name one of them: {choice}")
    return next(iter(found.values()))


def _application(value: object) -> App | None:
    if isinstance(value, Adapter):
        value = value.push
    return value if isinstance(value, App) else None


def _of(reference: Reference, *names: str) -> str:
    return " or ".join(f"{reference.module}:{name}" for name in names)


def _import(reference: Reference) -> ModuleType:
    try:
        if reference.file is None:
            return _import_module(reference, Path.cwd(), reference.module)
        return _import_file(reference, reference.file)
    except StartFailed:
        raise
    except (Exception, SystemExit) as error:
        raise StartFailed(_traceback(reference.text, error)) from None


def _import_module(reference: Reference, folder: Path, module: str) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        where = f"neither in {folder} nor installed"
        if reference.file is None and Path(reference.module).is_file():
            problem = f"the file {reference.module} is no Python file"
            raise StartFailed(f"{reference.text}: {problem}, {EXPECTED}") from None
        near = Path(f"{error.name}.py")
        hint = f"; there is the file {near}" if reference.file is None and near.is_file() else ""
        raise StartFailed(
            f"{reference.text}: there is no module {error.name}, {where}{hint}"
        ) from None


def _import_file(reference: Reference, file: Path) -> ModuleType:
    """Import the file, as a part of its package if it is in one."""
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) > 1:
        name = ".".join(parts[:-1] if file.stem == "__init__" else parts)
        return _import_module(reference, folder, name)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    known = sys.modules.get(file.stem)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    name = file.stem if file.stem.isidentifier() and known is None else OF_FILE
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _traceback(text: str, error: BaseException, problem: str = "cannot be imported") -> str:
    """The traceback from the user's first frame to the last, without frames of this package."""
    trace = traceback.TracebackException.from_exception(error)
    own = next((n for n, frame in enumerate(trace.stack) if not _imports(frame.filename)), None)
    if own is not None:
        del trace.stack[:own]
        while len(trace.stack) > 1 and trace.stack[-1].filename.startswith(_PACKAGE):
            del trace.stack[-1]
    else:
        trace.stack.clear()
    return f"{text} {problem}:\n{''.join(trace.format()).rstrip()}"


def _imports(filename: str) -> bool:
    """Whether a frame belongs to the import itself."""
    return filename.startswith("<frozen") or filename in (__file__, _IMPORTLIB)


_IMPORTLIB = import_module.__code__.co_filename
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
