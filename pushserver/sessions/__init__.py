"""The protocol state of connected peers, independent of the transport. No I/O, no Twisted."""
