"""Calling code that is not the server's own: threads, coroutines, tracebacks, limits of its log."""
