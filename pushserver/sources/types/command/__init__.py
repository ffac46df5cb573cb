"""The type `command`: the lines that a program prints."""
