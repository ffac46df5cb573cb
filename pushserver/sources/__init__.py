"""Sources, which publish from inside the server."""
