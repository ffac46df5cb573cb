"""Clients of other projects on this server: the libraries that its users connect with.

Each is installed in a pinned version from its registry: Python's by requirements-dev.txt, those of
Node by tests/node. A test starts from a habit of a client's users, so that a release of the client
that breaks it shows here.
"""
