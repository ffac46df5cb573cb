"""End to end: a real twistd, real clients, nothing replaced."""
