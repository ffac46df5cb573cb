"""The log of publications: names, numbers, positions and histories. No I/O, no Twisted."""
