"""The old name of `pushserver.sources.registry`, for plug-ins that import BuiltIn from here."""

from pushserver.sources.registry import BuiltIn as BuiltIn
