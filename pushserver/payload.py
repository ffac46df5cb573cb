"""The old place of InvalidData, which `pushserver` exports."""

from pushserver.channels.jsontext import InvalidData as InvalidData
