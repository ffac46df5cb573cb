"""Runs a worker in a process of its own: `python -m pushserver.server.workers NUMBER`."""

from pushserver.server.gc_policy import without_collections

if __name__ == "__main__":
    with without_collections():
        from pushserver.server.workers.worker import main

    main()
