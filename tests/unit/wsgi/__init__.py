"""WSGI applications in real threads, and the whole server on a reactor in memory."""
