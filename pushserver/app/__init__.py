"""Applications: their interface, and the calls of their handlers."""
