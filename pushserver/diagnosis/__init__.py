"""Findings about a server: what is wrong, and text that can be pasted against it."""
