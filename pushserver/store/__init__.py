"""The history in a SQLite file: commits, batches, and what sources remember."""
