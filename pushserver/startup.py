"""The old import path of StartFailed."""

from pushserver.errors import StartFailed as StartFailed
