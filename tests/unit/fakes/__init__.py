"""Fakes that several test modules share; tests/unit/__init__.py says which is for what."""
