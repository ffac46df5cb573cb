"""The old place of InvalidKey, which `pushserver` exports."""

from pushserver.errors import InvalidKey as InvalidKey
