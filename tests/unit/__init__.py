"""Each module on its own: no process, no socket but a datagram, no time but what is given."""

import warnings

with warnings.catch_warnings():
    # Twisted 26.10's static module calls what it deprecates itself, when it is imported.
    warnings.filterwarnings("ignore", "twisted.web.resource._Unsafe", DeprecationWarning)
    import twisted.web.static  # noqa: F401
