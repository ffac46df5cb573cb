"""The encodings of publications, commands and replies. No I/O, no Twisted."""
