"""The types of sources that come with the server."""
