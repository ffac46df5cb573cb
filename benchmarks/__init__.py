"""Measures what one publication costs, beside the limit of the machine and beside others."""
