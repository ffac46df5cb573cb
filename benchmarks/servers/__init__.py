"""The measured servers, each a program."""
