"""A small server of feeds and event streams, with invented events.

It needs Python alone: python3 feedserver.py 8081

An event follows from its number and the number from the time, so a restart changes nothing of the past.
"""

import base64
import hashlib
import json
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from xml.sax.saxutils import escape

BEGAN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # the event 0 of each feed
KEPT = 50
PAST = 5  # events that are there at the start
SHIPS = ["Aurora", "Beluga", "Calypso", "Dorothea"]


class Events:
    """The events of one feed: `make(number)` every `seconds`."""

    def __init__(self, seconds, make):
        self.seconds, self.make = seconds, make
        self.count = 0  # the number of the newest
        self.kept = deque(maxlen=KEPT)  # (number, time, event)
        self.changed = threading.Condition()

    def advance(self, now):
        """Make the events until this time, and of many the last few."""
        newest = int((now - BEGAN) // self.seconds)
        with self.changed:
            for number in range(max(self.count, newest - PAST) + 1, newest + 1):
                at = BEGAN + number * self.seconds
                self.kept.append((number, at, self.make(number)))
                self.count = number
            self.changed.notify_all()

    def follow(self, after):
        """Yield the events after this number, and then each new one."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda after=after: self.count > after)
                found = [kept for kept in self.kept if kept[0] > after]
            yield from found
            after = found[-1][0]


def news(number):
    title = Random(number).choice(["Tea has arrived", "Fog at the harbour", "<b>Bread</b> & butter"])
    return {"title": f"{title} ({number})", "text": "From the harbour, by our own reporter."}


def blog(number):
    return {"title": f"Notes, part {number}", "text": "What I saw at the quay this morning."}


def tide(number):
    random = Random(number)
    return {"gauge": random.choice(["north", "south"]), "metres": round(random.uniform(-2, 3), 2)}


def ship(number):
    random = Random(number)
    return {"name": random.choice(SHIPS), "does": random.choice(["arrives", "leaves"])}


def price(number):
    random = Random(number)
    return {"goods": random.choice(["tea", "coffee"]), "price": round(random.uniform(3, 9), 2)}


EVENTS = {
    "/news.rss": Events(15, news),
    "/blog.atom": Events(20, blog),
    "/tides": Events(3, tide),
    "/ships": Events(4, ship),
    "/prices": Events(2, price),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        events = EVENTS.get(self.path)
        if events is None:
            self.send_error(404)
        elif self.path.endswith(".rss"):
            self.send("application/rss+xml", self.rss(events))
        elif self.path.endswith(".atom"):
            self.send("application/atom+xml", self.atom(events))
        elif self.headers.get("Upgrade", "").lower() == "websocket":
            self.send_websocket(events)
        elif "text/event-stream" in self.headers.get("Accept", ""):
            self.send_stream("text/event-stream", events, self.sse)
        else:
            self.send_stream("application/x-ndjson", events, self.line)

    def send(self, kind, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def rss(self, events):
        items = "".join(
            f"<item><guid isPermaLink='false'>{number}</guid>"
            f"<title>{escape(event['title'])}</title>"
            f"<description>{escape(event['text'])}</description>"
            f"<link>http://{self.headers['Host']}/news.rss#{number}</link>"
            f"<pubDate>{formatdate(at, usegmt=True)}</pubDate></item>"
            for number, at, event in reversed(events.kept)
        )
        title = "<title>Harbour news</title><link>http://localhost/</link>"
        return f"<rss version='2.0'><channel>{title}<description/>{items}</channel></rss>"

    def atom(self, events):
        entries = "".join(
            f"<entry><id>tag:feedserver:blog:{number}</id>"
            f"<title>{escape(event['title'])}</title><summary>{escape(event['text'])}</summary>"
            f"<link href='http://{self.headers['Host']}/blog.atom#{number}'/>"
            f"<author><name>Ann</name></author><updated>{iso(at)}</updated></entry>"
            for number, at, event in reversed(events.kept)
        )
        head = "<id>tag:feedserver:blog</id><title>Quay</title>"
        updated = f"<updated>{iso(time.time())}</updated>"
        return f"<feed xmlns='http://www.w3.org/2005/Atom'>{head}{updated}{entries}</feed>"

    def send_stream(self, kind, events, encode):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        # A reader of server-sent events comes back with the id of the last one that it has.
        last = self.headers.get("Last-Event-ID", "")
        is_known = last.isdecimal() and int(last) < events.count
        for number, _at, event in events.follow(int(last) if is_known else events.count):
            self.wfile.write(encode(number, json.dumps(event)))

    def sse(self, number, text):
        return f"id: {number}\ndata: {text}\n\n".encode()

    def line(self, number, text):
        return f"{text}\n".encode()

    def send_websocket(self, events):
        """Send each event as a text of less than 126 bytes; what the client sends is not read."""
        self.close_connection = True
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        for _number, _at, event in events.follow(events.count):
            text = json.dumps(event).encode()
            self.wfile.write(bytes([0x81, len(text)]) + text)

    def handle(self):
        with suppress(OSError):  # the reader has left
            super().handle()

    def log_message(self, *_):
        pass


def iso(at):
    return datetime.fromtimestamp(at, UTC).isoformat()


def produce():
    """Make events for ever."""
    while True:
        for events in EVENTS.values():
            events.advance(time.time())
        time.sleep(0.5)


def start(port):
    """Serve on this port, in threads of their own."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=produce, daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    start(int(sys.argv[1]))
    threading.Event().wait()
