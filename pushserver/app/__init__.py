"""Applications: what users write against, and how their handlers are called."""
