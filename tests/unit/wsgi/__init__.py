"""WSGI applications in real threads, and the whole server on a memory_reactor."""
