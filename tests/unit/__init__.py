"""Each module on its own: no process, no socket but a datagram, no time but what is given."""
