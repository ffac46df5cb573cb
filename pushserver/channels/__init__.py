"""The log: channel names, publications, positions, histories. No I/O, no Twisted."""
