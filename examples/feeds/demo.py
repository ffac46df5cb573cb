"""The monitor, and beside it a feed server, so that it works without a network."""

import feedserver
from feeds import app

server = None


# Before any source runs.
@app.on("start")
def start():
    global server
    server = feedserver.start(8081)


@app.on("stop")
def stop():
    server.shutdown()
    server.server_close()
