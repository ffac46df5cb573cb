"""Flask-SocketIO, with gevent or with threads.

usage: flask_peer FEED PORT gevent|threading
"""

from __future__ import annotations

import sys

from flask import Flask
from flask_socketio import SocketIO

from benchmarks.servers.feed import Feed

APP = Flask(__name__)


def main(feed: Feed, port: int, mode: str) -> None:
    """Serve and publish."""
    server = SocketIO(APP, async_mode=mode)

    def publish() -> None:
        while True:
            for _, event in feed.due():
                server.emit("message", event)
            server.sleep(feed.wait())

    server.start_background_task(publish)
    # Werkzeug refuses to serve a public port; this one is on loopback.
    unsafe = {"allow_unsafe_werkzeug": True} if mode == "threading" else {}
    server.run(APP, host="127.0.0.1", port=port, log_output=False, **unsafe)


main(Feed(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
