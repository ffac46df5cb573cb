"""Reads secrets from files, and from the credentials that systemd passes to a service."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

MAX_SECRET_BYTES = 65_536
"""The longest file; a key in PEM form has some kilobytes."""
CREDENTIALS = "CREDENTIALS_DIRECTORY"

_CREDENTIAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


def read_secret(path: str) -> str:
    """The text of a file, without white space at its ends.

    Raises ValueError with the path, and never with a part of the text.
    """
    content = read_file(path, MAX_SECRET_BYTES)
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path!r:.300}: expected UTF-8") from None
    if not text:
        raise ValueError(f"{path!r:.300}: expected a secret, got an empty file")
    return text


def read_file(path: str, max_bytes: int) -> bytes:
    """The content of a file; raises ValueError with the path, also for a longer file."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        # A path with a NUL character is a ValueError.
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path!r:.300}: {reason}") from None
    if len(content) > max_bytes:
        raise ValueError(f"{path!r:.300}: expected at most {max_bytes} bytes")
    return content


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
