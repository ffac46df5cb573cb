"""A program that parses a feed (RSS, Atom or JSON Feed) and prints its entries as JSON.

It is a separate process with bounds on time and memory, because a document may be hostile: an
author's name of 50 KB costs feedparser 6.0.14 14 s in one regular expression, during which no
other thread runs (its issue 562), and one of 200 KB with an entity two minutes.

Standard input: one line of JSON, `{"url", "content_type", "seconds"}`, and then the document.
Standard output: `{"error"}`, or `{"title", "entries"}` with the entries in their order.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

MAX_ENTRIES = 1_000
MAX_MEMORY_BYTES = 201_326_592
"""A document of 4 MB takes 53 MB, with 140,000 entries 164 MB; the unit has 384 MB."""
SUMMARY_CHARACTERS = 2_000
LINE_CHARACTERS = 500
"""The longest title, name or id."""
LINK_CHARACTERS = 2_000
KEY_CHARACTERS = 16
_HTML_CHARACTERS = 16_384
"""How much of a text is parsed to make a summary."""

# Control and formatting characters, and surrogates, which cannot be encoded.
_INVISIBLE = re.compile("[\0-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")


class NotAFeed(Exception):
    """The document is not a feed; the text is the reason."""


def read(document: bytes, url: str, content_type: str) -> dict[str, Any]:
    """Return the title and entries; links are relative to `url`. Raises NotAFeed."""
    text = document.removeprefix(BOM_UTF8).lstrip()
    if text.startswith(b"{"):
        title, entries = _parse_json(text, url)
    else:
        title, entries = _parse_xml(document, url, content_type)
    name = line(title)
    return {"title": name, "entries": [{**entry, "feed": name} for entry in entries]}


def _parse_xml(
    document: bytes, url: str, content_type: str
) -> tuple[str, Iterator[dict[str, Any]]]:
    import feedparser

    headers = {"content-location": url}
    if content_type:
        headers["content-type"] = content_type
    # Not sanitised: all HTML becomes plain text here.
    parsed = feedparser.parse(
        BytesIO(document),
        response_headers=headers,
        sanitize_html=False,
        resolve_relative_uris=False,
    )
    if not parsed.get("version") and not parsed.entries:
        raise NotAFeed("expected RSS, Atom or JSON Feed")

    def entries() -> Iterator[dict[str, Any]]:
        for entry in islice(parsed.entries, MAX_ENTRIES):
            contents = entry.get("content") or [{}]
            summary = _plain(entry, "summary") or _text_of(contents[0])
            # Not `entry.get`, which falls back to another key with a warning.
            updated = dict.get(entry, "updated_parsed")
            yield make_entry(
                url,
                entry.get("id", ""),
                _plain(entry, "title"),
                entry.get("link", ""),
                summary,
                _time_of_struct(entry.get("published_parsed") or updated),
                # The name without the mail address.
                (entry.get("author_detail") or {}).get("name") or entry.get("author", ""),
            )

    return _plain(parsed.feed, "title"), entries()


def _plain(item: Any, key: str) -> str:
    return _text_of(item.get(f"{key}_detail") or {})


def _text_of(detail: Any) -> str:
    value = str(detail.get("value") or "")
    return value if detail.get("type") == "text/plain" else plain(value)


def _time_of_struct(when: Any) -> str | None:
    if when is None:
        return None
    try:
        year, month, day, hour, minute, second, *_ = when
        return _time(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


def _parse_json(text: bytes, url: str) -> tuple[str, Iterator[dict[str, Any]]]:
    try:
        feed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotAFeed(f"begins like JSON, but is invalid: {error}") from None
    version = _string(feed, "version")
    if not version.startswith(("https://jsonfeed.org/version/", "http://jsonfeed.org/version/")):
        raise NotAFeed("JSON, but no JSON Feed: its version is missing")
    items = feed.get("items")

    def entries() -> Iterator[dict[str, Any]]:
        for item in islice(items if isinstance(items, list) else [], MAX_ENTRIES):
            if not isinstance(item, dict):
                continue
            summary = _string(item, "summary") or _string(item, "content_text")
            yield make_entry(
                url,
                _string(item, "id"),
                _string(item, "title"),
                _string(item, "url") or _string(item, "external_url"),
                summary or plain(_string(item, "content_html")),
                _time_of_rfc3339(_string(item, "date_published") or _string(item, "date_modified")),
                _author(item) or _author(feed),
            )

    return _string(feed, "title"), entries()


def _string(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # An id may have been written as a number (JSON Feed 1.1).
        return str(value)
    return value if isinstance(value, str) else ""


def _author(item: dict[str, Any]) -> str:
    authors = item.get("authors")
    first = authors[0] if isinstance(authors, list) and authors else item.get("author")
    return _string(first, "name") if isinstance(first, dict) else ""


def _time_of_rfc3339(text: str) -> str | None:
    try:
        when = datetime.fromisoformat(text.upper())
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return _time(when.astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def _time(when: datetime) -> str | None:
    """Return the time in ISO 8601; None in year 1, which generators of feeds write for no date."""
    return None if when.year == 1 else when.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def make_entry(
    base: str,
    identity: str,
    title: str,
    link: str,
    summary: str,
    published: str | None,
    author: str,
) -> dict[str, Any]:
    """Return an entry as it is published, with all texts bounded, and its digest.

    The first KEY_CHARACTERS of the digest are of the id or link alone.
    """
    key = identity or link or "\n".join((title, summary, published or ""))
    return {
        "digest": _digest(key, KEY_CHARACTERS)
        + _digest("\n".join((title, link, published or summary)), 8),
        "id": line(identity or link),
        "title": line(title),
        "link": safe_link(base, link),
        "summary": line(summary, SUMMARY_CHARACTERS),
        "published": published,
        "author": line(author),
    }


def _digest(text: str, characters: int) -> str:
    return sha256(text.encode("utf-8", "replace")).hexdigest()[:characters]


def line(text: str, max_characters: int = LINE_CHARACTERS) -> str:
    """Return the text as one line of visible characters, cut to `max_characters`."""
    text = " ".join(_INVISIBLE.sub(" ", text[: 4 * max_characters]).split())
    return text if len(text) <= max_characters else f"{text[: max_characters - 1].rstrip()}…"


def safe_link(base: str, link: str) -> str:
    """Return the absolute URL if it is safe as a link in a page, else an empty string."""
    try:
        url = urljoin(base, link.strip()) if link.strip() else ""
        parts = urlsplit(url)
    except ValueError:
        return ""
    safe = parts.scheme in ("http", "https") and parts.netloc and len(url) <= LINK_CHARACTERS
    return url if safe and _INVISIBLE.search(url) is None else ""


def plain(html: str) -> str:
    """Return the text of HTML."""
    text = _Text()
    text.feed(html[:_HTML_CHARACTERS])
    text.close()
    return "".join(text.parts)


class _Text(HTMLParser):
    """Collects the visible text; most tags separate words."""

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
    """Parse the standard input, and write to the standard output."""
    answer: dict[str, Any]
    try:
        head = json.loads(sys.stdin.buffer.readline())
        _bound(head["seconds"])
        answer = read(sys.stdin.buffer.read(), head["url"], head["content_type"])
    except NotAFeed as error:
        answer = {"error": str(error)}
    except Exception as error:
        # feedparser passes on exceptions of codecs and regular expressions, and MemoryError.
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


def _bound(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with suppress(OSError):
        # The server has priority over its feeds, unless a sandbox forbids this.
        os.nice(5)
    with suppress(OSError), Path("/proc/self/oom_score_adj").open("w") as file:
        # Where memory ends all the same, Linux ends this process and not the server.
        file.write("1000")


if __name__ == "__main__":
    main()
