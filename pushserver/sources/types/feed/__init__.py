"""The type `feed`: the entries of RSS and Atom feeds."""
