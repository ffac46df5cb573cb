"""How publications, commands and replies look on the wire. No I/O, no Twisted."""
