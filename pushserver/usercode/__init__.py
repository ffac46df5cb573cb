"""Calls user code safely; and the ground of all that runs: threads, the clock, turns, forks."""
