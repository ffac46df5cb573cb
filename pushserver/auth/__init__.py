"""The rules of access: permissions, keys, tokens, origins, quotas. No I/O, no Twisted."""
