"""Tests with real servers of Redis, on Unix sockets."""
