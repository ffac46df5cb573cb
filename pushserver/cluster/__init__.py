"""Several processes as one server: the author of the log, and the processes that follow it."""
