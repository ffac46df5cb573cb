"""Calls of user code: in threads, as coroutines, with its tracebacks and the limits of its log."""
