"""What the plugin of twistd loads: the options of `twistd pushserver`, and its service."""

from pushserver.server.gc_policy import without_collections

with without_collections():
    from pushserver.server.options import Options as Options
    from pushserver.server.options import makeService as makeService
