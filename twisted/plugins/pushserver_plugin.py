"""Tells twistd that ``pushserver`` exists.

Nothing of the package is imported here: a plugin file that fails to import
vanishes from ``twistd --help`` without a word.
"""

from twisted.application.service import ServiceMaker

pushserver = ServiceMaker(
    "pushserver",
    "pushserver.server.options",
    "Push events to browsers, live.",
    "pushserver",
)
