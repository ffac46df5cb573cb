"""Subscribers and delivery: the hub, fan-out, brokers, presence, counters. No I/O, no Twisted."""
