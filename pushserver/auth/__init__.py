"""The rules of origins, hosts, keys and programs on this machine. No I/O, no Twisted."""
