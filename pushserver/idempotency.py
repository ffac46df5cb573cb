"""The old place of InvalidKey, which `pushserver` exports."""

from pushserver.channels.idempotency import InvalidKey as InvalidKey
