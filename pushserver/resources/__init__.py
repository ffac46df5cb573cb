"""The URLs of the server."""
