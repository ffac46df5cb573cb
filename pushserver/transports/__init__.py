"""Sends frames to peers over WebSockets and HTTP responses."""
