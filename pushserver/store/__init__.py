"""The history in a SQLite file: commits, batches, and the memory of sources."""
