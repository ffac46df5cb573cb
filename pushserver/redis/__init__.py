"""The log of a server in Redis, which several nodes follow."""
