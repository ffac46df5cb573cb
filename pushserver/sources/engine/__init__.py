"""Runs sources: attempts, back-off, rates and a record of each."""
