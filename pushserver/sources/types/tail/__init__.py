"""The type `tail`: the lines of a file."""
