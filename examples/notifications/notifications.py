"""Notifications for the users of a site. README.md in this folder has the command that runs it."""

import time
from pathlib import Path

from pushserver import PushServer, Refused

app = PushServer(static=Path(__file__).parent / "static")


# A user has read one notice, or all until a time. All pages of the user get it, so it is a
# publication too, in a channel that nobody else may read.
@app.on("read", thread=False)
def read(client, data):
    if not client.user:
        raise Refused("log in first")
    match data:
        case {"id": str(notice)} if len(notice) <= 200:
            event = {"id": notice}
        case {"until": int(until) | float(until)}:
            event = {"until": min(until, time.time() * 1000)}
        case _:
            raise Refused("expected the id of a notice, or the time until which all are read")
    app.publish(f"read:#{client.user}", event)
