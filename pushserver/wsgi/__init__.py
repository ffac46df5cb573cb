"""WSGI applications, which are served beside the server's own URLs."""
