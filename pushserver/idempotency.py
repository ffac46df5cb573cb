"""The old import path of InvalidKey, which `pushserver` exports."""

from pushserver.errors import InvalidKey as InvalidKey
