"""The type `command`: what a program prints."""
