"""A program that reads a feed: RSS, Atom or JSON Feed comes in, its entries go out as JSON.

It is a process of its own, with bounds on its time and memory, since what it reads is
anybody's: of 50 KB in an author's name feedparser 6.0.14 makes 14 s of work in one regular
expression, during which no other thread runs (its issue 562), and of 200 KB with an entity
two minutes.

In: one line of JSON, `{"url", "content_type", "seconds"}`, and the document after it. Out:
`{"error"}`, or `{"title", "entries"}`, the entries in the order of the document.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from itertools import islice
from typing import Any
from urllib.parse import urljoin, urlsplit

MOST_ENTRIES = 1_000
MOST_MEMORY_BYTES = 536_870_912
SUMMARY_CHARACTERS = 2_000
LINE_CHARACTERS = 500
"""The longest title, name or id."""
LINK_CHARACTERS = 2_000
_HTML_CHARACTERS = 16_384
"""How much of a text is looked at to make a summary."""

# Neither for the eyes nor, the last of them, characters.
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")


class NoFeed(Exception):
    """The document is none; the text says why."""


def read(document: bytes, url: str, content_type: str) -> dict[str, Any]:
    """The title and the entries of a feed, whose links begin at `url`; raises NoFeed."""
    text = document.removeprefix(BOM_UTF8).lstrip()
    if text.startswith(b"{"):
        title, entries = _of_json(text, url)
    else:
        title, entries = _of_xml(document, url, content_type)
    name = line(title)
    return {"title": name, "entries": [{**entry, "feed": name} for entry in entries]}


def _of_xml(document: bytes, url: str, content_type: str) -> tuple[str, Iterator[dict[str, Any]]]:
    import feedparser

    headers = {"content-location": url}
    if content_type:
        headers["content-type"] = content_type
    # What it would sanitise becomes text here.
    found = feedparser.parse(
        BytesIO(document),
        response_headers=headers,
        sanitize_html=False,
        resolve_relative_uris=False,
    )
    if not found.get("version") and not found.entries:
        raise NoFeed("expected RSS, Atom or JSON Feed")

    def entries() -> Iterator[dict[str, Any]]:
        for entry in islice(found.entries, MOST_ENTRIES):
            contents = entry.get("content") or [{}]
            summary = _plain(entry, "summary") or _text_of(contents[0])
            # Its own `get` warns of what it puts in place of what is not there.
            updated = dict.get(entry, "updated_parsed")
            yield make_entry(
                url,
                entry.get("id", ""),
                _plain(entry, "title"),
                entry.get("link", ""),
                summary,
                _of_struct(entry.get("published_parsed") or updated),
                # Without the mail address.
                (entry.get("author_detail") or {}).get("name") or entry.get("author", ""),
            )

    return _plain(found.feed, "title"), entries()


def _plain(of: Any, key: str) -> str:
    return _text_of(of.get(f"{key}_detail") or {})


def _text_of(detail: Any) -> str:
    value = str(detail.get("value") or "")
    return value if detail.get("type") == "text/plain" else plain(value)


def _of_struct(when: Any) -> str | None:
    if when is None:
        return None
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", when)
    except (ValueError, OverflowError):
        return None


def _of_json(text: bytes, url: str) -> tuple[str, Iterator[dict[str, Any]]]:
    try:
        feed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoFeed(f"begins like JSON, and is none: {error}") from None
    version = _string(feed, "version")
    if not version.startswith(("https://jsonfeed.org/version/", "http://jsonfeed.org/version/")):
        raise NoFeed("JSON, but no JSON Feed: its version is missing")
    items = feed.get("items")

    def entries() -> Iterator[dict[str, Any]]:
        for item in islice(items if isinstance(items, list) else [], MOST_ENTRIES):
            if not isinstance(item, dict):
                continue
            summary = _string(item, "summary") or _string(item, "content_text")
            yield make_entry(
                url,
                _string(item, "id"),
                _string(item, "title"),
                _string(item, "url") or _string(item, "external_url"),
                summary or plain(_string(item, "content_html")),
                _of_rfc3339(_string(item, "date_published") or _string(item, "date_modified")),
                _author(item) or _author(feed),
            )

    return _string(feed, "title"), entries()


def _string(of: dict[str, Any], key: str) -> str:
    value = of.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # An id may have been written as a number (JSON Feed 1.1).
        return str(value)
    return value if isinstance(value, str) else ""


def _author(of: dict[str, Any]) -> str:
    several = of.get("authors")
    first = several[0] if isinstance(several, list) and several else of.get("author")
    return _string(first, "name") if isinstance(first, dict) else ""


def _of_rfc3339(text: str) -> str | None:
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return None


def make_entry(
    base: str,
    identity: str,
    title: str,
    link: str,
    summary: str,
    published: str | None,
    author: str,
) -> dict[str, Any]:
    """An entry as it is published, all of it bounded, and what to know it again by."""
    known_by = identity or link or "\n".join((title, summary, published or ""))
    return {
        "digest": sha256(known_by.encode("utf-8", "replace")).hexdigest()[:16],
        "id": line(identity or link),
        "title": line(title),
        "link": safe_link(base, link),
        "summary": line(summary, SUMMARY_CHARACTERS),
        "published": published,
        "author": line(author),
    }


def line(text: str, most: int = LINE_CHARACTERS) -> str:
    """The text in one line of at most so many characters, and without what nobody sees."""
    text = " ".join(_UNSEEN.sub(" ", text[: 4 * most]).split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def safe_link(base: str, link: str) -> str:
    """The absolute URL, if it is one of HTTP that a page may show as a link; else nothing."""
    try:
        url = urljoin(base, link.strip()) if link.strip() else ""
        parts = urlsplit(url)
    except ValueError:
        return ""
    safe = parts.scheme in ("http", "https") and parts.netloc and len(url) <= LINK_CHARACTERS
    return url if safe and _UNSEEN.search(url) is None else ""


def plain(html: str) -> str:
    """The text of some HTML."""
    text = _Text()
    text.feed(html[:_HTML_CHARACTERS])
    text.close()
    return "".join(text.parts)


class _Text(HTMLParser):
    """Collects what is to be read; a tag stands between two words."""

    _hidden = ("script", "style", "template", "title")
    _within_a_word = re.compile(
        "a|abbr|b|bd[io]|cite|code|em|font|i|mark|q|s|small|span|strong|su[bp]|u"
    )

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._hidden and not self._inside:
            self._inside = tag
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.parts.append(data)

    def _separate(self, tag: str) -> None:
        if self._within_a_word.fullmatch(tag) is None:
            self.parts.append(" ")


def main() -> None:
    """Read the standard input, and write to the standard output."""
    answer: dict[str, Any]
    try:
        head = json.loads(sys.stdin.buffer.readline())
        _bound(head["seconds"])
        answer = read(sys.stdin.buffer.read(), head["url"], head["content_type"])
    except NoFeed as error:
        answer = {"error": str(error)}
    except Exception as error:
        # feedparser raises whatever it meets: a codec's errors, those of its regular
        # expressions, no memory.
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


def _bound(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with suppress(OSError):
        # A sandbox may forbid even that; the server goes before its feeds where it does not.
        os.nice(5)


if __name__ == "__main__":
    main()
