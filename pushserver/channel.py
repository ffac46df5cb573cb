"""The old import path of InvalidName, which `pushserver` exports."""

from pushserver.errors import InvalidName as InvalidName
