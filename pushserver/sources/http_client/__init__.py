"""The HTTP client of sources that fetch."""
