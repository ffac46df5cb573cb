"""The type `sse`: the events of a stream of another server."""
