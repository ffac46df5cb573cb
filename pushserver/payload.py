"""The old import path of InvalidData, which `pushserver` exports."""

from pushserver.errors import InvalidData as InvalidData
