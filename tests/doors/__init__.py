"""Every way to read and every way to publish, on each kind of server: one table."""
