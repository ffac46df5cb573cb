"""Measures the cost of a publication, beside the limit of the machine and other servers."""
