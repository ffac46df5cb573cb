"""Calls user code safely: threads, coroutines, forks, tracebacks, log limits; also the clock."""
