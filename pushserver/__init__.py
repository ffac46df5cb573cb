"""A web page that updates itself: channels, sources and live pages on Twisted."""

__version__ = "0.1.0"
