"""Registers ``pushserver`` with twistd.

It imports nothing of the package: twistd silently ignores a plug-in that fails to import.
"""

from twisted.application.service import ServiceMaker

pushserver = ServiceMaker(
    "pushserver",
    "pushserver.server.plugin",
    "Push events to browsers, live.",
    "pushserver",
)
