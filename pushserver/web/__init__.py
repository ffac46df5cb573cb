"""The site, its connections, and the base and the checks of all resources."""
