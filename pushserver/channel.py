"""The old place of InvalidName, which `pushserver` exports."""

from pushserver.channels.channel import InvalidName as InvalidName
