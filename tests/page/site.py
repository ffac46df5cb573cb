"""A fake pushserver for pages: files from the checkout, and the protocol by hand.

Everything is answered inside Playwright; nothing listens and nothing goes over a network. So a test
can make the server do what a real one does seldom: lose its history, close for good, fall silent.
"""

from __future__ import annotations

import json
import mimetypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from playwright.sync_api import BrowserContext, Page, Route, WebSocketRoute

from pushserver.resources.assets import Assets
from pushserver.resources.pages import Pages
from pushserver.resources.template_failures import TemplateFailures
from tests.e2e.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "http://push.test"
SECURE = "https://push.test"  # where tabs have locks, and can share a connection
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; font-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'"
)
PAGE_HEADERS = {"Content-Security-Policy": CSP, "Content-Type": "text/html; charset=utf-8"}
HISTORY_SIZE = 50
INITIAL = 10
EIGHT_O_CLOCK_MS = 1_795_334_400_000  # on 2026-11-22, UTC
BUNDLED, SOURCES = (
    Pages(float, TemplateFailures(float, float), Assets(ROOT / "static", bundled))
    for bundled in (True, False)
)

# For machines without a table of MIME types.
mimetypes.add_type("text/javascript", ".js")


class Site:
    """One channel under every name, and the pages that watch it."""

    def __init__(self, context: BrowserContext) -> None:
        self.epoch = "one"
        self.earlier = "one"
        self.recovers = True
        self.refusal: dict[str, Any] | None = None  # the error for subscriptions
        self.silent: tuple[str, ...] = ()  # commands that get no answer
        self.credentials: dict[str, dict[str, Any]] = {}  # facts about tokens and keys, by text
        self.accepts: list[str] = []  # the kinds of credentials that may be of use
        self.publishes = False  # whether readers without any may publish
        self.published: list[tuple[str, str, str]] = []  # event, data and Authorization
        self.down = False
        self.rejection: tuple[int, str] | None = None  # the close of each connection that connects
        self.answer: tuple[int, str] | None = None  # status and body for each connection
        self.missing: tuple[str, ...] = ()  # names of files that are answered with 404
        self.watching = 1
        self.status: dict[str, Any] | None = None  # the status; None: not permitted
        self.asked = 0  # requests of the status
        self.channels: list[dict[str, Any]] = []  # the list of channels
        self.pages: dict[str, str] = {}  # pages of the user, by their paths
        self.headers: dict[str, str] = {}  # of these pages
        self.searches: list[str] = []  # the texts that names were searched for
        self.documents = BUNDLED  # the pages of the server
        self.problems: list[str] = []
        self.allowed: tuple[str, ...] = ()
        self._publications: list[dict[str, Any]] = []
        self.keeps = HISTORY_SIZE
        self._top = 0
        self._ahead = 0  # milliseconds of the clock
        self._still = False
        self._sockets: list[WebSocketRoute] = []  # with a subscription
        self._open: list[WebSocketRoute] = []
        self._admitted: list[WebSocketRoute] = []  # with a token or key
        self.answers: dict[str, dict[str, Any]] = {}  # to calls, by event
        self.commands: list[dict[str, Any]] = []
        self._context = context
        for origin in (ORIGIN, SECURE):
            context.route(f"{origin}/**", self._serve)
            context.route_web_socket(f"{origin.replace('http', 'ws')}/**", self._accept)

    # --- what a test does ---------------

    def open(self, channel: str = "numbers") -> Page:
        """Open the page of a channel, and record its problems."""
        return self._goto(f"/channels/{channel}")

    def open_own(self, html: str, path: str = "/") -> Page:
        """Open a page of the user, and record its problems."""
        self.pages[path] = html
        return self._goto(path)

    def _goto(self, path: str, origin: str = ORIGIN) -> Page:
        page = self._context.new_page()
        page.on("console", lambda message: self._note(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        if self._still:
            page.emulate_media(reduced_motion="reduce")
        page.goto(f"{origin}{path}")
        return page

    def open_blank(self, origin: str = ORIGIN) -> Page:
        """Open a page of the server without any script."""
        return self._goto("/blank", origin)

    @property
    def subscribers(self) -> int:
        """The number of subscriptions that have not ended."""
        return len(self._sockets)

    def run_first(self, script: str) -> None:
        """Run this before the scripts of the pages."""
        self._context.add_init_script(script)

    def speak(self, language: str) -> None:
        """Set the language of the browser."""
        getter = f"{{configurable: true, get: () => {json.dumps(language)}}}"
        self.run_first(f"Object.defineProperty(Navigator.prototype, 'language', {getter})")

    def still(self) -> None:
        """Open pages from now on as for somebody who wants no motion."""
        self._still = True

    def jump(self, seconds: int) -> None:
        """Set the clock of the server forward, or back."""
        self._ahead += seconds * 1000

    def hold_time(self) -> None:
        """Stop the time of the pages, for `page.clock`."""
        self._context.clock.install(time=EIGHT_O_CLOCK_MS / 1000)
        self._context.clock.pause_at(EIGHT_O_CLOCK_MS / 1000 + 1)

    def publish(
        self, *data: object, event: str = "message", info: dict[str, Any] | None = None
    ) -> None:
        """Publish each value; their times are one second apart. `info`: the client."""
        for item in data:
            self._top += 1
            publication = {
                "data": item,
                "offset": self._top,
                "tags": {"event": event},
                "time": EIGHT_O_CLOCK_MS + self._top * 1000 + self._ahead,
                **({"info": info} if info else {}),
            }
            kept = [*self._publications, publication]
            self._publications = kept[max(0, len(kept) - self.keeps) :]
            self._push({"pub": publication})

    def publish_together(self, *data: object) -> None:
        """Publish each value, all in one frame; their times are ten milliseconds apart."""
        replies = []
        for item in data:
            self._top += 1
            time = EIGHT_O_CLOCK_MS + self._top * 10
            publication = {"data": item, "offset": self._top, "time": time}
            replies.append({"push": {"channel": "", "id": 1, "pub": publication}})
        for socket in self._sockets:
            socket.send("\n".join(map(json.dumps, replies)))

    def publish_text(self, text: str) -> None:
        """Publish JSON that is nested too deep for Python's encoder."""
        self._top += 1
        push = f'{{"pub": {{"data": {text}, "offset": {self._top}}}}}'
        for socket in self._sockets:
            socket.send(f'{{"push": {{"channel": "", "id": 1, {push[1:-1]}}}}}')

    def record_labels(self) -> None:
        """Let the pages record the texts that they draw on a canvas."""
        self.run_first("""
          window.labels = [];
          const draw = CanvasRenderingContext2D.prototype.fillText;
          CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
            window.labels.push(text);
            return draw.call(this, text, ...rest);
          };
          const clear = CanvasRenderingContext2D.prototype.clearRect;
          CanvasRenderingContext2D.prototype.clearRect = function (...rest) {
            window.labels = [];
            return clear.apply(this, rest);
          };
        """)

    def restart(self, epoch: str, kept: int = 0) -> None:
        """Start a new history with the first `kept` publications, and close all connections."""
        self._ahead += (self._top - kept) * 1000
        self.epoch, self._top, self._publications = epoch, kept, self._publications[:kept]
        self.close(3001, "shutdown")

    def renew(self, epoch: str) -> None:
        """Create the channel, without publications, again, and close all connections."""
        assert not self._top
        self.earlier, self.epoch = self.epoch, epoch
        self.close(3001, "shutdown")

    def close(self, code: int, reason: str) -> None:
        """Close every connection."""
        sockets, self._open, self._sockets = self._open, [], []
        for socket in sockets:
            socket.close(code=code, reason=reason)

    def tell(self, data: object) -> None:
        """Send a message of the application."""
        for socket in self._open:
            socket.send(json.dumps({"push": {"message": {"data": data}}}))

    def join(self, client: str, user: str = "") -> None:
        """Let one more client watch."""
        self.watching += 1
        self._push({"join": {"info": {"client": client, "user": user}}})

    def wait_for(self, page: Page, condition: Callable[[], bool]) -> None:
        """Answer the pages until this is true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "this did not become true"
            page.wait_for_timeout(20)

    @staticmethod
    def file(name: str) -> str:
        """The text of a file of the checkout."""
        return (ROOT / name).read_text("utf-8")

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._open)

    # --- what the page sees ---------------

    def _note(self, problem: str) -> None:
        if problem.startswith(("error", "warning")) and not problem.startswith(self.allowed):
            self.problems.append(problem)

    def _push(self, push: dict[str, Any]) -> None:
        for socket in self._sockets:
            socket.send(json.dumps({"push": {"channel": "", "id": 1, **push}}))

    def _serve(self, route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path.endswith(self.missing):
            route.fulfill(status=404)
        elif path in self.pages:
            kind = mimetypes.guess_type(path)[0] or "text/html; charset=utf-8"
            route.fulfill(body=self.pages[path], headers={**self.headers, "Content-Type": kind})
        elif path.startswith("/static/"):
            route.fulfill(path=ROOT / path[1:], content_type=mimetypes.guess_type(path)[0])
        elif path.startswith("/connection/") and self.answer is not None:
            route.fulfill(status=self.answer[0], body=self.answer[1])
        elif path == "/channels/":
            self._list(route)
        elif path == "/status":
            self._tell(route)
        elif path.endswith("/permissions"):
            self._permit(route)
        elif route.request.method == "POST":
            self._publish(route)
        elif path == "/blank":
            route.fulfill(body="<!doctype html><title>blank</title>", headers=PAGE_HEADERS)
        else:
            self._serve_page(route, path)

    def _serve_page(self, route: Route, path: str) -> None:
        channel = unquote(path.rpartition("/")[2])
        operator, login = self.status is not None, bool(self.accepts)
        page = self.documents.channel(
            (channel,), "..", HISTORY_SIZE if self.keeps else 0, operator, login
        )
        route.fulfill(body=page.html, headers={**PAGE_HEADERS, "Link": page.preload})

    def _list(self, route: Route) -> None:
        if "text/html" in route.request.headers["accept"]:
            page = self.documents.channels("..", bool(self.accepts), not self.accepts)
            route.fulfill(body=page.html, headers={**PAGE_HEADERS, "Link": page.preload})
            return
        if self.accepts and self._given(route) not in self.credentials:
            self._refuse(route, 401 if self._given(route) else 403)
            return
        text = parse_qs(urlsplit(route.request.url).query).get("q", [""])[0]
        self.searches.append(text)
        rows = [row for row in self.channels if text in row["channel"]]
        route.fulfill(json={"channels": rows, "total": len(rows)})

    @staticmethod
    def _given(route: Route) -> str:
        return route.request.headers.get("authorization", "").removeprefix("Bearer ")

    @staticmethod
    def _refuse(route: Route, status: int) -> None:
        error = {"code": status, "message": "the API key is not one of ours"}
        route.fulfill(status=status, json={"error": error})

    def _permit(self, route: Route) -> None:
        given = self._given(route)
        if given and given not in self.credentials:
            self._refuse(route, 401)
            return
        read = {"allowed": self.refusal is None or bool(given), "reason": "it needs a key"}
        facts = {
            "by": "",
            "user": "",
            "key": "",
            "seconds": None,
            "subscribe": read,
            "publish": {"allowed": self.publishes, "reason": ""},
            "accepts": self.accepts,
        }
        route.fulfill(json={**facts, **self.credentials.get(given, {})})

    def _publish(self, route: Route) -> None:
        request = route.request
        event = parse_qs(urlsplit(request.url).query)["event"][0]
        self.published.append((event, request.post_data or "", self._given(route)))
        if self.down:
            self._refuse(route, 401)
            return
        self.publish(json.loads(request.post_data or ""), event=event)
        route.fulfill(status=201, json={"offset": self._top})

    def _tell(self, route: Route) -> None:
        self.asked += 1
        if self.status is None:
            route.fulfill(status=403, json={"error": {"code": 403, "message": "no"}})
        else:
            route.fulfill(json=self.status)

    def _accept(self, socket: WebSocketRoute) -> None:
        if self.down:
            socket.close(code=1001, reason="down")
            return
        self._open.append(socket)
        socket.on_close(lambda code, reason: self._forget(socket))
        socket.on_message(lambda message: self._answer(socket, str(message)))

    def _forget(self, socket: WebSocketRoute) -> None:
        for sockets in (self._open, self._sockets):
            if socket in sockets:
                sockets.remove(socket)

    def _answer(self, socket: WebSocketRoute, message: str) -> None:
        for line in message.splitlines():
            command = json.loads(line)
            self.commands.append(command)
            if "connect" in command and self.rejection is not None:
                socket.close(code=self.rejection[0], reason=self.rejection[1])
                return
            if "id" not in command or any(name in command for name in self.silent):
                continue
            request = command.get("connect", {})
            given = request.get("token") or request.get("headers", {}).get("x-api-key")
            if given in self.credentials:
                self._admitted.append(socket)
            refused = self.refusal is not None and socket not in self._admitted
            reply = {"error": self.refusal} if refused and "subscribe" in command else None
            socket.send(json.dumps({"id": command["id"], **(reply or self._reply(command))}))
            if "subscribe" in command and not refused:
                self._sockets.append(socket)
            if "unsubscribe" in command and socket in self._sockets:
                self._sockets.remove(socket)

    def _reply(self, command: dict[str, Any]) -> dict[str, Any]:
        if "connect" in command:
            return {"connect": {"client": "me", "ping": 25, "pong": True}}
        if "subscribe" in command:
            return self._subscribed(command["subscribe"])
        if "history" in command:
            return self._history(command["history"])
        if "rpc" in command:
            return self.answers[command["rpc"]["method"]]
        if "publish" in command or "unsubscribe" in command:
            return {next(name for name in command if name != "id"): {}}
        if "presence" in command:
            names = ["me", *(f"watcher{n}" for n in range(1, self.watching))]
            clients = {name: {"client": name, "user": ""} for name in names}
            return {"presence": {"presence": clients}}
        return {"presence_stats": {"num_clients": self.watching, "num_users": 1}}

    def _history(self, request: dict[str, Any]) -> dict[str, Any]:
        found, since = self._publications, request.get("since")
        if since is not None and since["epoch"] != self.epoch:
            return {"error": {"code": 112, "message": "unrecoverable position"}}
        if since is not None:
            older, offset = request.get("reverse", False), since.get("offset", 0)
            found = [pub for pub in found if (pub["offset"] < offset) == older]
            found = [pub for pub in found if pub["offset"] != offset]
        if request.get("reverse"):
            found = found[::-1]
        limit = request.get("limit", 0)
        return {"history": {"publications": found[:limit], **self._position()}}

    def _position(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "offset": self._top}

    def _subscribed(self, request: dict[str, Any]) -> dict[str, Any]:
        result = {"recoverable": True, "positioned": True, "id": 1, **self._position()}
        if request["data"].get("initial"):
            result["data"] = {"initial": INITIAL, "top": self._top}
        if not request.get("recover"):
            result["publications"] = self._publications[-request["data"].get("last", INITIAL) :]
            return {"subscribe": result}
        result["was_recovering"] = True
        since = request.get("offset", 0)
        epochs = [self.epoch] if since else [self.epoch, self.earlier]
        if self.recovers and request.get("epoch") in epochs:
            missed = [item for item in self._publications if item["offset"] > since]
            result |= {"recovered": True, "offset": since, "publications": missed}
        return {"subscribe": result}
