"""The pages, and how a test knows what they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.e2e.blocks import sections
from tests.e2e.server import CHECKOUT

SECRET = "a secret of the test, long enough for HS256"
CONFIG = f"""
[server]
pages = "pages"
[store]
path = "store.db"
[auth]
token_secret = "{SECRET}"
[defaults]
publish = "anyone"
[channels.private]
subscribe = "users"
[sources]
"""

LIVE = "() => document.querySelector('#state')?.dataset.state === 'live'"
SHOWN = """(selector, text) => {
  const shows = (element) => {
    const own = element.childElementCount === 0 && element.textContent.includes(text);
    if ((own || element.ariaLabel?.includes(text)) && element.checkVisibility()) return true;
    return [...element.children, ...(element.shadowRoot?.children ?? [])].some(shows);
  };
  return shows(document.querySelector(selector));
}"""
"""Whether an element in the one with this selector is visible, and has this text or label."""


@dataclass(frozen=True)
class Page:
    """A page.

    `parts`: the selectors of its parts that show events. `ready`: a function that says whether it
    is connected. `channel`: where a test publishes for it; "": a new channel each time,
    whose name is shown. `shared`: whether two tabs have one connection.
    """

    name: str
    path: str
    parts: tuple[str, ...]
    ready: str = LIVE
    channel: str = "numbers"
    shared: bool = True

    @property
    def graph(self) -> bool:
        """Whether a graph is among its parts."""
        return any(part.startswith("#graph") for part in self.parts)

    def __str__(self) -> str:
        return self.name


PRIVATE = Page("login", "channels/private", ("#list",), channel="private", shared=False)
LIST = Page(
    "list of channels",
    "channels/",
    ("#channels",),
    "() => /^[0-9]+ channel/.test(document.querySelector('#channels-state')?.textContent)",
    channel="",
    shared=False,
)
SOURCE = Page(
    "EventSource",
    "source.html",
    ("#list",),
    "() => window.source?.readyState === 1",
    shared=False,
)
PAGES = (
    Page("front page", "", ("#list", "#graph-panel")),
    Page("overview", "channels/numbers", ("#list", "#graph-panel")),
    Page("graph", "channels/numbers?view=graph", ("#graph-panel",)),
    Page("list", "channels/numbers?view=list", ("#list",)),
    Page("table", "channels/numbers?view=table", ("#table",)),
    Page("JSON", "channels/numbers?view=json", ("#raw",)),
    Page("several channels", "events?channel=numbers&channel=words", ("#list",), channel="words"),
    PRIVATE,
    LIST,
    Page("pushserver.js", "own.html", ("#watch",), "() => window.server?.state === 'live'"),
    Page(
        "graph, list and number",
        "parts.html",
        ("#newest", "#graph", "#list"),
        """() => document.querySelector("#newest > pushserver-part")
            ?.shadowRoot.querySelector(".root").classList.contains("stale") === false""",
        channel="weather",
    ),
    SOURCE,
)
ERROR = Page(
    "error", "nowhere", (), "() => document.querySelector('.error-status').textContent === '404'"
)

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>a page of the test</title>
"""
WATCH = """<div id="watch"></div>
<script>
  const show = (event, { number }, time) => {
    document.querySelector("#watch").textContent = `${event} ${number} ${time.toISOString()}`;
  };
</script>
"""
EVENT_SOURCE = """<ol id="list"></ol>
<script>
  window.source = new EventSource("channels/numbers?last=10");
  source.onmessage = ({ data }) => {
    const row = document.createElement("li");
    row.textContent = JSON.parse(data).data.number;
    document.querySelector("#list").append(row);
  };
</script>
"""


def write(folder: Path) -> None:
    """Write the configuration, and the user's pages: those of docs/browser.md, and another."""
    documented = sections((CHECKOUT / "docs" / "browser.md").read_text("utf-8"))
    watch, parts = documented[""][0].text, documented["Graph, list and number"][0].text
    watch = replaced(
        watch, "const server =", "const server = (window.server =", "connect();", "connect());"
    )
    watch = replaced(watch, "console.log(", "show(")
    texts = {"own": WATCH + watch, "parts": parts, "source": EVENT_SOURCE}
    (folder / "pages").mkdir()
    for name, text in texts.items():
        (folder / "pages" / f"{name}.html").write_text(HEAD + text)
    (folder / "pushserver.toml").write_text(CONFIG)


def replaced(text: str, *pairs: str) -> str:
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text
