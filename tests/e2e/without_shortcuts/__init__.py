"""The end-to-end tests of connections once more, with PUSHSERVER_SHORTCUTS=off.

A test that fails here and passes above has found a fault that a shortcut hides.
"""
