"""The old name of `pushserver.errors`, for programs that catch StartFailed."""

from pushserver.errors import StartFailed as StartFailed
