"""The old place of InvalidName, which `pushserver` exports."""

from pushserver.channels.names import InvalidName as InvalidName
