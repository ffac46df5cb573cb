"""A web page that updates itself: channels, sources and live pages on Twisted."""

from pushserver.publisher import PublishError, publish

__all__ = ["PublishError", "__version__", "publish"]
__version__ = "0.1.0"
