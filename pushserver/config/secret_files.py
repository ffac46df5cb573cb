"""Reads secrets from files, and from the credentials that systemd passes to a service."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    # Commands of scripts read secrets too, and must start without msgspec.
    from pushserver.config.convert import Location
    from pushserver.config.settings import KeySettings, TokenKeySettings

Settings = TypeVar("Settings", "KeySettings", "TokenKeySettings")

MAX_SECRET_BYTES = 65_536
"""The longest file; a key in PEM form has some kilobytes."""
CREDENTIALS = "CREDENTIALS_DIRECTORY"

_CREDENTIAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


def read_secret(path: str, or_pipe: bool = False) -> str:
    """The text of a file, without white space at its ends.

    Raises ValueError with the path, and never with a part of the text.
    """
    content = read_file(path, MAX_SECRET_BYTES, or_pipe)
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{shown_path(path)}: expected UTF-8") from None
    if not text:
        raise ValueError(f"{shown_path(path)}: expected a secret, got an empty file")
    return text


def read_file(path: str, max_bytes: int, or_pipe: bool = False) -> bytes:
    """The content of a file; raises ValueError with the path, also for a longer file.

    `or_pipe`: read a pipe or a device too, until its end. A server must not wait for one, and could
    not read it again.
    """
    try:
        with open(path, "rb", opener=None if or_pipe else _at_once) as file:
            if not or_pipe and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("expected a regular file")
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        # A path with a NUL character is a ValueError.
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{shown_path(path)}: {reason}") from None
    if len(content) > max_bytes:
        raise ValueError(f"{shown_path(path)}: expected at most {max_bytes} bytes")
    return content


def shown_path(path: str) -> str:
    """The path for an error; for a relative one, the folder that it starts at."""
    here = "" if os.path.isabs(path) else f" in {os.getcwd():.300}"
    return f"{path!r:.300}{here}"


def _at_once(path: str, flags: int) -> int:
    """Open a file, also a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)


def credential_file(name: str, environment: Mapping[str, str]) -> str:
    """The path of a credential of systemd (`LoadCredential=`); raises ValueError."""
    if _CREDENTIAL.fullmatch(name) is None:
        raise ValueError(f"{name!r:.80}, expected the name of a credential, without a path")
    folder = environment.get(CREDENTIALS)
    if not folder:
        raise ValueError(
            f"{CREDENTIALS} is not set, so there is no credential {name}: expected a service of"
            f" systemd with LoadCredential={name}:PATH"
        )
    return str(Path(folder, name))


def readable_by_all(path: str) -> bool:
    """Whether every user of the machine may read the file."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False


def with_secret(
    settings: Settings, forms: Sequence[str], environment: Mapping[str, str], location: Location
) -> Settings:
    """The settings of a key with its secret, which exactly one of the fields `forms` gives.

    The text of a `file` or a `credential` is put into `key`. Raises InvalidConfig.
    """
    given = [form for form in forms if getattr(settings, form)]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        expected = f"{', '.join(forms[:-1])} or {forms[-1]}"
        raise location.error("", f"expected one of {expected}, got {got}")
    [form] = given
    if form not in ("file", "credential"):
        return settings
    try:
        value = getattr(settings, form)
        path = value if form == "file" else credential_file(value, environment)
        return replace(settings, key=read_secret(path))
    except ValueError as error:
        raise location.error(form, str(error)) from None
