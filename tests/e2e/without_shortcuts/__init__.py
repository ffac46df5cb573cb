"""The end-to-end tests of connections once more, with PUSHSERVER_SHORTCUTS=off.

A test that fails here and passes in the folder above has found a fault that a shortcut hides. The
modules import all names of theirs, which leaves out a fixture that begins with an underscore.
"""
