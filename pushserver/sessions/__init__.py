"""One connected peer's conversation, free of any transport."""
