"""The registry of subscribers, fan-out, the broker's interface, presence, counters."""
