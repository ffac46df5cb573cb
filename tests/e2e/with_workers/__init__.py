"""The end-to-end tests of connections once more, with two workers.

A test that fails here and passes in the folder above has found something that works with one
process only. The modules import all names of theirs, which leaves out a fixture that begins with an
underscore.
"""
