"""Sources: what publishes from inside the server."""
