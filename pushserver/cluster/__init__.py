"""The link between the main process of a server, the author of its log, and its workers."""
