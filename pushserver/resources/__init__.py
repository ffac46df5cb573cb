"""The URLs of the server, one resource each."""
