"""How a source is run: attempts, back-off, rates, and a record of what happened."""
