"""The type `sse`: the events of another server's stream."""
