"""The old place of InvalidData, which `pushserver` exports."""

from pushserver.errors import InvalidData as InvalidData
