"""Several processes for one server: how many there are, their log, and their sockets."""
