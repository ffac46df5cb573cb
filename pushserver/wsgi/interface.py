"""The types of PEP 3333."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]

Application = Callable[[Environ, Callable[..., Callable[[bytes], object]]], Iterable[bytes]]
"""A WSGI application, such as a Flask object."""
