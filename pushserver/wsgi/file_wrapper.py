"""`wsgi.file_wrapper`: answers that are a file (PEP 3333)."""

from __future__ import annotations

import os
import stat
from typing import Any
from wsgiref.util import FileWrapper as Plain


class FileWrapper(Plain):
    """A file as the answer of an application."""

    filelike: Any

    def is_regular(self) -> bool:
        """Whether it is a file on a disk, so that reading it does not wait for anybody."""
        try:
            return stat.S_ISREG(os.fstat(self.filelike.fileno()).st_mode)
        except (AttributeError, OSError, ValueError, TypeError):
            # No file of the system: io.UnsupportedOperation is a ValueError.
            return False


class FileRest:
    """The rest of a file, up to `length` bytes, in pieces; None for all of it."""

    def __init__(self, wrapper: FileWrapper, length: int | None):
        self._wrapper = wrapper
        self._left = length

    def read(self, size: int) -> bytes:
        """The next piece; empty at the end. Raises ValueError if the file is shorter."""
        wanted = size if self._left is None else min(size, self._left)
        data: bytes = self._wrapper.filelike.read(wanted)
        if self._left is not None:
            self._left -= len(data)
            if not data and wanted:
                raise ValueError(f"the file ends {self._left} bytes before its Content-Length")
        return data

    def close(self) -> None:
        """Close the file, if the application has given one that can be closed."""
        close = getattr(self._wrapper, "close", None)
        if close is not None:
            close()
