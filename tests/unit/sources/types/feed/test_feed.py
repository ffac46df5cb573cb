from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.errors import Unavailable
from pushserver.sources.http_client.fetch import Document, Fetcher
from pushserver.sources.interface import SourceFailed
from pushserver.sources.types.feed import reader
from pushserver.sources.types.feed import source as feed_module
from pushserver.sources.types.feed.reader import NotAFeed
from pushserver.sources.types.feed.source import (
    FEED,
    MAX_SEEN,
    READ_SECONDS,
    Contents,
    Entry,
    FeedSource,
    Options,
    oldest_first,
    read,
)
from pushserver.store.source_memory import MOST_BYTES
from tests.e2e.blocks import block_with
from tests.unit.fakes.remote import FakeFeed, Remote, RemoteCase, StillReactor, failure_of, reactor

RSS = b"""<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/"
     xmlns:content="http://purl.org/rss/1.0/modules/content/">
  <channel>
    <title>Bake &amp; Brew</title>
    <link>https://bakery.example/</link>
    <description>What comes out of the oven</description>
    <item>
      <title>Rye &lt;em&gt;again&lt;/em&gt;</title>
      <link>https://bakery.example/rye?a=1&amp;b=2</link>
      <guid isPermaLink="false">tag:bakery.example,2026:rye</guid>
      <pubDate>Tue, 03 Nov 2026 10:00:00 +0100</pubDate>
      <dc:creator>Ann Example</dc:creator>
      <description>&lt;p&gt;Two loaves,&lt;br&gt;one oven.&lt;/p&gt;
        &lt;script&gt;alert(1)&lt;/script&gt;
        &lt;p&gt;Fl&lt;b&gt;our&lt;/b&gt; &amp;amp; water&lt;/p&gt;</description>
    </item>
    <item>
      <title>1 &lt; 2</title>
      <guid>https://bakery.example/one</guid>
      <pubDate>Mon, 02 Nov 2026 10:00:00 GMT</pubDate>
      <content:encoded><![CDATA[<div>The <i>whole</i> story</div>]]></content:encoded>
    </item>
  </channel>
</rss>
"""

RDF = b"""<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
         xmlns="http://purl.org/rss/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">
  <channel rdf:about="https://old.example/"><title>Old news</title></channel>
  <item rdf:about="https://old.example/1">
    <title>First</title><link>https://old.example/1</link><dc:date>2026-11-03</dc:date>
  </item>
</rdf:RDF>
"""

ATOM = """<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xml:base="https://blog.example/posts/">
  <title type="html">Notes &lt;i&gt;ünder&lt;/i&gt; way</title>
  <id>urn:uuid:60a76c80-d399-11d9-b93C-0003939e0af6</id>
  <updated>2026-11-04T18:30:02Z</updated>
  <entry>
    <id>urn:uuid:1225c695-cfb8-4ebb-aaaa-80da344efa6a</id>
    <title>Atoms</title>
    <link rel="enclosure" href="atoms.mp3"/>
    <link rel="alternate" href="atoms"/>
    <published>2026-11-03T09:00:00.25-08:00</published>
    <updated>2026-11-04T18:30:02Z</updated>
    <author><name>Bo</name><email>bo@blog.example</email></author>
    <summary type="xhtml">
      <div xmlns="http://www.w3.org/1999/xhtml"><p>One.</p><p>Two.</p></div>
    </summary>
  </entry>
</feed>
""".encode()

JSON_FEED = json.dumps(
    {
        "version": "https://jsonfeed.org/version/1.1",
        "title": "JSON notes",
        "home_page_url": "https://json.example/",
        "authors": [{"name": "Everybody"}],
        "items": [
            {
                "id": 7,
                "url": "/seven",
                "title": "Seven",
                "content_html": "<p>Sev<b>en</b>&nbsp;times</p>",
                "date_published": "2026-11-03T09:00:00-08:00",
                "authors": [{"name": "Cy"}],
            },
            {"id": "six", "external_url": "https://else.example/", "content_text": "a <b> c"},
        ],
    }
).encode()

URL = "https://example.org/feeds/all.xml"


def parse(document: bytes, content_type: str = "") -> Any:
    return reader.read(document, URL, content_type)


def first_entry(document: bytes) -> Any:
    return parse(document)["entries"][0]


def item(inner: str) -> bytes:
    return f"<rss version='2.0'><channel><item>{inner}</item></channel></rss>".encode()


class TestDocument:
    def test_rss_2(self) -> None:
        contents = parse(RSS, "application/rss+xml; charset=utf-8")
        assert contents["title"] == "Bake & Brew"
        rye, one = contents["entries"]
        assert rye.pop("digest") != one.pop("digest")
        assert rye == {
            "id": "tag:bakery.example,2026:rye",
            "title": "Rye again",
            "link": "https://bakery.example/rye?a=1&b=2",
            "summary": "Two loaves, one oven. Flour & water",
            "published": "2026-11-03T09:00:00Z",
            "author": "Ann Example",
            "feed": "Bake & Brew",
        }
        shown = json.loads(block_with("docs/sources.md", "tag:bakery.example").text)
        assert shown.keys() == rye.keys()
        assert one == {
            "id": "https://bakery.example/one",
            "title": "1 < 2",
            "link": "https://bakery.example/one",
            "summary": "The whole story",
            "published": "2026-11-02T10:00:00Z",
            "author": "",
            "feed": "Bake & Brew",
        }

    def test_rss_1(self) -> None:
        contents = parse(RDF, "text/xml")
        assert contents["title"] == "Old news"
        assert contents["entries"][0]["link"] == "https://old.example/1"
        assert contents["entries"][0]["published"] == "2026-11-03T00:00:00Z"

    def test_atom(self) -> None:
        contents = parse(ATOM, "application/atom+xml")
        assert contents["title"] == "Notes ünder way"
        (entry,) = contents["entries"]
        del entry["digest"]
        assert entry == {
            "id": "urn:uuid:1225c695-cfb8-4ebb-aaaa-80da344efa6a",
            "title": "Atoms",
            "link": "https://blog.example/posts/atoms",
            "summary": "One. Two.",
            "published": "2026-11-03T17:00:00Z",
            "author": "Bo",
            "feed": "Notes ünder way",
        }

    def test_json_feed(self) -> None:
        contents = parse(b"\xef\xbb\xbf\n" + JSON_FEED, "application/feed+json")
        assert contents["title"] == "JSON notes"
        seven, six = contents["entries"]
        assert seven.pop("digest") != six.pop("digest")
        assert seven == {
            "id": "7",
            "title": "Seven",
            "link": "https://example.org/seven",
            "summary": "Seven times",
            "published": "2026-11-03T17:00:00Z",
            "author": "Cy",
            "feed": "JSON notes",
        }
        assert six == {
            "id": "six",
            "title": "",
            "link": "https://else.example/",
            "summary": "a <b> c",
            "published": None,
            "author": "Everybody",
            "feed": "JSON notes",
        }

    def test_document_may_have_another_encoding(self) -> None:
        text = ATOM.decode().replace("utf-8", "utf-16")
        assert parse(text.encode("utf-16"))["title"] == "Notes ünder way"
        latin = ATOM.decode().replace("utf-8", "iso-8859-1").encode("latin-1")
        assert parse(latin)["title"] == "Notes ünder way"
        assert parse(latin.replace(b'encoding="iso-8859-1"', b""), "text/xml; charset=latin-1")[
            "title"
        ] == ("Notes ünder way")

    def test_malformed_document_is_parsed(self) -> None:
        broken = RSS.replace(b"&amp;b", b"&b&nbsp;").replace(b"</channel>", b"")
        assert [entry["title"] for entry in parse(broken)["entries"]] == ["Rye again", "1 < 2"]
        assert len(parse(RSS[: len(RSS) // 2])["entries"]) == 1

    def test_feed_may_be_empty(self) -> None:
        assert parse(b"<rss version='2.0'><channel><title>a</title></channel></rss>") == {
            "title": "a",
            "entries": [],
        }
        empty = b'{"version": "https://jsonfeed.org/version/1"}'
        assert parse(empty) == {"title": "", "entries": []}

    @pytest.mark.parametrize(
        "document",
        [
            b"",
            b"hello",
            b"<html><head><title>a</title></head><body><p>b</p></body></html>",
            b"<?xml version='1.0'?><a/>",
            b"{}",
            b"{",
            b'{"version": 5}',
            b'{"version": "https://jsonfeed.example/version/1"}',
            b'{"version":' + b"[" * 100_000,
            b"[1]",
            b"\xff\xfe\xfd",
        ],
    )
    def test_other_documents_raise_not_a_feed(self, document: bytes) -> None:
        with pytest.raises(NotAFeed):
            parse(document)

    def test_number_of_entries_is_bounded(self) -> None:
        items = b"<item><title>a</title></item>" * (reader.MAX_ENTRIES + 5)
        document = b"<rss version='2.0'><channel>%b</channel></rss>" % items
        assert len(parse(document)["entries"]) == reader.MAX_ENTRIES
        many = {"version": "https://jsonfeed.org/version/1", "items": [{"id": 1}] * 1_005}
        assert len(parse(json.dumps(many).encode())["entries"]) == reader.MAX_ENTRIES

    @pytest.mark.parametrize(
        "feed",
        [
            {"items": 5},
            {"items": [5, None, "a", []]},
            {"items": [{"id": True, "title": [], "url": {}, "authors": 5}], "title": 5},
            {"items": [{"authors": [5]}, {"author": []}, {"authors": [{"name": 5}]}]},
            {
                "items": [
                    {"date_published": "soon"},
                    {"date_published": "9999-12-31T23:59:59-23:59"},
                ]
            },
            {"items": [{"title": "\ud800", "url": "\ud800", "id": "\ud800"}]},
        ],
    )
    def test_any_values_of_json_are_accepted(self, feed: dict[str, Any]) -> None:
        document = json.dumps({"version": "https://jsonfeed.org/version/1.1", **feed}).encode()
        jsontext.encode(parse(document))


class TestEntry:
    @pytest.mark.parametrize(
        ("link", "shown"),
        [
            ("https://a.example/b", "https://a.example/b"),
            (" /b ", "https://example.org/b"),
            ("b", "https://example.org/feeds/b"),
            ("//a.example/b", "https://a.example/b"),
            ("", ""),
            ("javascript:alert(1)", ""),
            ("JaVaScRiPt:alert(1)", ""),
            ("java\nscript:alert(1)", ""),
            ("data:text/html,x", ""),
            ("vbscript:x", ""),
            ("file:///etc/passwd", ""),
            ("ftp://a.example/", ""),
            ("mailto:a@b.example", ""),
            ("http://[", ""),
            ("https://a.example/\u202egpj", ""),
            ("https://a.example/" + "x" * 2_000, ""),
        ],
    )
    def test_link_is_an_absolute_url_of_http_or_empty(self, link: str, shown: str) -> None:
        assert reader.safe_link(URL, link) == shown

    def test_html_becomes_text(self) -> None:
        html = (
            "<h1>A</h1>b<ul><li>c<li>d</ul><a href=x>e</a>f &lt;g&gt; <style>h{}</style>"
            "<!-- i --><img alt=j><script>k<b></script>l<title>m</title>&#110;&nbsp;\u202eo\0"
        )
        assert reader.line(reader.plain(html)) == "A b c d ef <g> l n o"

    def test_texts_are_bounded(self) -> None:
        long = "word " * 10_000
        entry = first_entry(
            item(
                f"<title>{long}</title><guid>{long}</guid><dc:creator>{long}</dc:creator>"
                f"<description>{long}</description>"
            )
        )
        assert len(entry["title"]) <= reader.LINE_CHARACTERS
        assert entry["title"].endswith("word…")
        assert len(entry["id"]) <= reader.LINE_CHARACTERS
        assert 1_900 < len(entry["summary"]) <= reader.SUMMARY_CHARACTERS

    def test_digest_begins_with_a_key_of_the_id_the_link_or_the_text(self) -> None:
        def key(entry: Any) -> Any:
            return entry["digest"][: reader.KEY_CHARACTERS]

        a = first_entry(item("<guid>x:1</guid><title>a</title>"))
        assert key(a) == key(first_entry(item("<guid>x:1</guid><title>b</title>")))
        assert a["digest"] != first_entry(item("<guid>x:2</guid><title>a</title>"))["digest"]
        long = "x" * 600
        one = first_entry(item(f"<guid>{long}1</guid>"))
        other = first_entry(item(f"<guid>{long}2</guid>"))
        assert one["id"] == other["id"]
        assert one["digest"] != other["digest"]
        linked = first_entry(item("<link>https://a.example/</link><title>a</title>"))
        assert linked["id"] == "https://a.example/"
        other = first_entry(item("<link>https://a.example/</link><title>b</title>"))
        assert key(linked) == key(other)
        assert linked["digest"] != other["digest"]
        entry = first_entry(item("<title>a</title>"))
        assert entry["id"] == ""
        assert entry["digest"] != first_entry(item("<title>b</title>"))["digest"]

    @pytest.mark.parametrize(
        ("text", "published"),
        [
            ("Mon, 01 Jan 0001 00:00:00 +0000", None),
            ("0001-01-01T00:00:00Z", None),
            ("0001-01-01T00:00:00+08:00", None),
            ("0001-06-01T00:00:00-05:00", None),
            ("0099-01-01T00:00:00Z", "0099-01-01T00:00:00Z"),
            ("0987-01-01T00:00:00Z", "0987-01-01T00:00:00Z"),
            ("2026-01-02t03:04:05z", "2026-01-02T03:04:05Z"),
            ("2026-01-02t03:04:05+01:00", "2026-01-02T02:04:05Z"),
            ("2026-01-02t03:04:05.25z", "2026-01-02T03:04:05Z"),
        ],
    )
    def test_times_have_four_digits_for_the_year(self, text: str, published: str | None) -> None:
        assert first_entry(item(f"<pubDate>{text}</pubDate>"))["published"] == published
        if "," not in text:
            feed = {
                "version": "https://jsonfeed.org/version/1.1",
                "items": [{"date_published": text}],
            }
            assert first_entry(json.dumps(feed).encode())["published"] == published

    def test_invalid_time_is_none(self) -> None:
        for text in ("soon", ""):
            assert (
                first_entry(item(f"<title>a</title><pubDate>{text}</pubDate>"))["published"] is None
            )

    def test_external_entity_is_not_loaded(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("s3cret")
        document = (
            f'<!DOCTYPE rss [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'.encode()
            + item("<title>a &x; b</title>")
        )
        assert "s3cret" not in json.dumps(parse(document))


def run_main(monkeypatch: pytest.MonkeyPatch, document: bytes) -> Contents:
    """Run the program in this process, without its bounds."""
    head = json.dumps({"url": URL, "content_type": "", "seconds": 5}).encode()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(head + b"\n" + document)))
        patch.setattr("sys.stdout", written := io.StringIO())
        patch.setattr(reader, "_bound", lambda _: None)
        reader.main()
    return msgspec.json.decode(written.getvalue(), type=Contents)


@pytest.fixture(scope="module")
def patch() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


_PIECES = [
    RSS[:300],
    b"<rss version='2.0'><channel>",
    b"<item>",
    b"</item>",
    b"<title>",
    b"</title>",
    b"<title type='html'>",
    b"<link>",
    b"<link href='",
    b"'/>",
    b"<guid>",
    b"<pubDate>",
    b"Tue, 03 Nov 2026",
    b"<author>",
    b"a@b.",
    b"<description>",
    b"<content:encoded>",
    b"<![CDATA[",
    b"]]>",
    b"&lt;p&gt;",
    b"&#x110000;",
    b"&#0;",
    b"&a;",
    b"<!DOCTYPE a [<!ENTITY a 'b'>]>",
    b"<feed xmlns='http://www.w3.org/2005/Atom'>",
    b"<entry>",
    b"xml:base='http://[' ",
    b"<?xml version='1.0' encoding='punycode'?>",
    b"<?xml version='1.0' encoding='idna'?>",
    b"<!--",
    b"<",
    b"{",
    b'{"version": "https://jsonfeed.org/version/1.1", "items": [',
    b'{"id": 5, "url": "http://["},',
    b"]}",
]
DOCUMENTS = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=8), max_size=25).map(b"".join)


@given(document=DOCUMENTS | st.binary())
def test_program_handles_any_document(patch: Any, document: bytes) -> None:
    contents = run_main(patch, document)
    for entry in contents.entries:
        jsontext.encode(entry.data())
        assert entry.link == "" or entry.link.startswith(("http://", "https://"))


@given(document=DOCUMENTS, position=st.integers(0, 5_000), noise=st.binary(max_size=5))
def test_program_handles_any_damage_to_a_feed(
    patch: Any, document: bytes, position: int, noise: bytes
) -> None:
    for whole in (RSS, ATOM, JSON_FEED):
        start = position % len(whole)
        run_main(patch, whole[:start] + noise + whole[start + len(noise) :])
        run_main(patch, whole[:start] + document + whole[start:])


def test_limit_of_memory_leaves_room_in_the_unit() -> None:
    unit = (CHECKOUT / "systemd" / "pushserver.service").read_text()
    [high] = re.findall(r"^MemoryHigh=(\d+)M$", unit, re.MULTILINE)
    # The rest is for the server and its histories.
    assert int(high) * 2**20 / 2 >= reader.MAX_MEMORY_BYTES
    assert "\nOOMPolicy=continue\n" in unit


SLOW = b"<rss><channel><item><author>" + b"a." * 100_000 + b"</author></item></channel></rss>"
"""Parsing takes minutes, most of them within one regular expression."""


CHECKOUT = Path(__file__).parents[5]

SHOW_PROCESS = """
import json, os, resource, sys
sys.path.insert(0, CHECKOUT)
from pushserver.sources.types.feed import reader
os.nice = refuse = lambda _: os.close(1_000_000)
reader._bound(5)
print(json.dumps({"title": json.dumps({
    "environment": dict(os.environ),
    "files": [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")[:-1]],
    "memory": resource.getrlimit(resource.RLIMIT_AS),
    "first": open("/proc/self/oom_score_adj").read(),
})}))
"""


class TestRead(RemoteCase):
    async def read(self, body: bytes, clock: Any = reactor) -> Contents:
        return await read(clock, Document(body, f"{URL}?token=s3cret", "", "", ""))

    async def test_document_is_parsed_by_a_process(self) -> None:
        contents = await self.read(RSS)
        assert contents.error == ""
        assert contents.title == "Bake & Brew"
        assert [entry.title for entry in contents.entries] == ["Rye again", "1 < 2"]

    async def test_links_do_not_have_the_query_of_the_url(self) -> None:
        contents = await self.read(item("<title>a</title><link>#b</link>"))
        assert contents.entries[0].link == f"{URL}#b"

    async def test_error_has_the_reason(self) -> None:
        assert (await self.read(b"hello")).error == "expected RSS, Atom or JSON Feed"
        document = b"<?xml version='1.0' encoding='undefined'?><rss>a</rss>"
        assert (await self.read(document)).error.startswith("UnicodeError: ")

    async def test_process_has_no_secret_no_descriptor_and_little_memory(self) -> None:
        with pytest.MonkeyPatch.context() as patch, NamedTemporaryFile() as program:
            program.write(SHOW_PROCESS.replace("CHECKOUT", repr(str(CHECKOUT))).encode())
            program.flush()
            os.set_inheritable(program.fileno(), True)
            patch.setattr(feed_module, "_PROGRAM", program.name)
            for name in (
                "PUSHSERVER_AUTH_API_KEYS",
                "CREDENTIALS_DIRECTORY",
                "NOTIFY_SOCKET",
                "LISTEN_FDS",
                "DATABASE_URL",
                "AWS_SECRET_ACCESS_KEY",
            ):
                patch.setenv(name, "s3cret")
            patch.setenv("LC_TIME", "C")
            shown = json.loads((await self.read(b"")).title)
        assert "s3cret" not in shown["environment"].values()
        assert shown["environment"]["PATH"] == os.environ["PATH"]
        assert shown["environment"]["LC_TIME"] == "C"
        assert {name.partition(":")[0] for name in shown["files"]} == {"pipe"}
        assert shown["memory"] == [reader.MAX_MEMORY_BYTES] * 2
        assert shown["first"] == "1000\n"

    async def test_slow_process_is_killed(self) -> None:
        clock = StillReactor()
        reading = self.start(self.read(SLOW, clock))
        clock.clock.advance(READ_SECONDS)
        assert (await reading).error == "it takes more than 30 s to read"
        assert clock.clock.getDelayedCalls() == []

    async def test_cancellation_kills_the_process(self) -> None:
        reading = self.start(self.read(SLOW))
        reading.cancel()
        assert isinstance(await failure_of(reading), CancelledError)

    async def test_memory_of_the_process_is_bounded(self) -> None:
        bomb = (
            b'<?xml version="1.0"?>\n<!DOCTYPE feed [\n<!ENTITY a "%b">\n]>\n' % (b"x" * 100_000)
            + item("<title>%s</title>" % ("&a;" * 50_000))
        )  # fmt: skip
        assert (await self.read(bomb)).error == "MemoryError: "

    async def test_any_content_type_is_accepted(self) -> None:
        for content_type in ("text/xml; charset=\udcff", "text/xml; charset=punycode", "\0"):
            contents = await read(reactor, Document(RSS, URL, content_type, "", ""))
            assert contents.error or contents.title == "Bake & Brew"

    async def test_error_says_that_no_process_can_be_started(self) -> None:
        class Full(StillReactor):
            def spawnProcess(self, *_: object, **__: object) -> None:
                raise OSError(11, "Resource temporarily unavailable")

        contents = await self.read(RSS, Full())
        assert contents.error == "cannot start a process: Resource temporarily unavailable"

    async def test_ended_process_can_be_killed_again(self) -> None:
        reader = feed_module._ReaderProcess(b"")
        reactor.spawnProcess(reader, sys.executable, [sys.executable, "-c", ""], env=None)
        await reader.wait()
        reader.kill()
        await reader.wait()

    async def test_failed_process_is_an_error(self) -> None:
        self.patch(feed_module, "_PROGRAM", "/nowhere")
        contents = await self.read(RSS)
        assert contents.error == "it takes too much time or memory to read"


def test_program_bounds_its_cpu_time() -> None:
    head = json.dumps({"url": URL, "content_type": "", "seconds": 1}).encode()
    ended = subprocess.run(
        [sys.executable, "-P", reader.__file__],
        input=head + b"\n" + SLOW,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode < 0
    assert ended.stdout == b""


async def read_here(_: Any, document: Document) -> Contents:
    try:
        result = reader.read(document.body, document.url, document.content_type)
    except NotAFeed as error:
        return Contents(error=str(error))
    return msgspec.convert(result, Contents)


def rss(*numbers: int, dated: bool = False) -> bytes:
    """Return a feed with entries of these numbers; with dates, a higher number is newer."""
    items = "".join(
        f"<item><guid>x:{n}</guid><title>{n}</title>"
        + (f"<pubDate>Tue, 03 Nov 2026 10:{n:02}:00 GMT</pubDate>" if dated else "")
        + "</item>"
        for n in numbers
    )
    return f"<rss version='2.0'><channel><title>t</title>{items}</channel></rss>".encode()


class TestFeedSource(RemoteCase):
    def source(self, remote: Remote, path: str = "feed?key=s3cret", **options: Any) -> FeedSource:
        settings = Options(remote.url + path, **options)
        return FeedSource(settings, Fetcher(settings.url, settings.headers, 30), read_here)

    async def answer_with(self, feed: FakeFeed, remote: Remote, *numbers: int) -> list[int]:
        """Answer the next request; return the numbers of the published entries."""
        return await self.answer(feed, remote, rss(*numbers))

    async def answer(
        self, feed: FakeFeed, remote: Remote, body: bytes, **headers: str
    ) -> list[int]:
        if feed.asleep:
            feed.wake()
        (await remote.visit()).answer(body, **headers)
        return await self.published_numbers(feed)

    async def published_numbers(self, feed: FakeFeed) -> list[int]:
        """Return the numbers of the entries that are published before the next sleep."""
        numbers: list[int] = []
        while True:
            kind, value = await feed.happens()
            if kind == "sleeps":
                assert value == 300
                return numbers
            assert kind == "publishes", value
            numbers.append(int(value["title"]))

    async def test_new_entries_are_published_oldest_first(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        assert await self.answer_with(feed, remote, 2, 1) == [1, 2]
        assert await self.answer_with(feed, remote, 2, 1) == []
        assert await self.answer_with(feed, remote, 5, 4, 3, 2, 1) == [3, 4, 5]
        assert await self.answer_with(feed, remote, 6, 5) == [6]
        assert feed.published[0] == (
            {
                "id": "x:1",
                "title": "1",
                "link": "",
                "summary": "",
                "published": None,
                "author": "",
                "feed": "t",
            },
            "message",
        )
        assert len(set(feed.keys)) == 6
        assert all(check_key(key) for key in feed.keys)
        assert feed.troubles == []

    async def test_first_document_publishes_only_the_newest_entries(self) -> None:
        for count, published in ((2, [4, 5]), (0, []), (9, [1, 2, 3, 4, 5])):
            remote, feed = self.remote(), FakeFeed()
            self.run_source(self.source(remote, first=count), feed)
            assert await self.answer_with(feed, remote, 5, 4, 3, 2, 1) == published
            assert await self.answer_with(feed, remote, 6, 5, 4, 3, 2, 1) == [6]

    async def test_empty_first_document_counts_as_the_first(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote, first=0), feed)
        assert await self.answer_with(feed, remote) == []
        assert await self.answer_with(feed, remote, 1) == [1]

    async def test_published_entries_are_remembered_across_a_restart(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        assert await self.answer_with(feed, remote, 2, 1) == [1, 2]
        assert "s3cret" not in json.dumps(feed.memory)
        again = FakeFeed(memory=feed.memory)
        self.run_source(self.source(remote), again)
        assert await self.answer_with(again, remote, 3, 2, 1) == [3]

    async def test_another_url_is_a_new_feed(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        assert await self.answer_with(feed, remote, 2, 1) == [1, 2]
        again = FakeFeed(memory=feed.memory)
        self.run_source(self.source(remote, "other", first=1), again)
        assert await self.answer_with(again, remote, 4, 3, 2, 1) == [4]

    async def test_interrupted_source_publishes_the_remaining_entries(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        feed.gate = Deferred()
        running = self.run_source(self.source(remote, first=3), feed)
        (await remote.visit()).answer(rss(5, 4, 3, 2, 1))
        assert (await feed.happens())[0] == "waits"
        gate, feed.gate = feed.gate, Deferred()
        gate.callback(None)
        assert (await feed.happens())[0] == "publishes"
        assert (await feed.happens())[0] == "waits"
        running.cancel()
        assert isinstance(await failure_of(running), CancelledError)
        feed.gate = None
        feed.refusal = Unavailable("the disk is full")
        running = self.run_source(self.source(remote, first=3), feed)
        (await remote.visit()).answer(rss(5, 4, 3, 2, 1))
        error = await failure_of(running)
        assert isinstance(error, SourceFailed)
        assert str(error) == "nothing can be published: the disk is full"
        feed.refusal = None
        self.run_source(self.source(remote, first=3), feed)
        assert await self.answer_with(feed, remote, 5, 4, 3, 2, 1) == [4, 5]

    async def test_key_of_an_entry_is_stable(self) -> None:
        keys: list[str] = []
        for name in ("news", "news", "other"):
            remote, feed = self.remote(), FakeFeed()
            feed.name = name
            self.run_source(self.source(remote), feed)
            assert await self.answer_with(feed, remote, 1) == [1]
            keys += feed.keys
        assert keys[0] == keys[1] != keys[2]

    async def test_repeated_entry_is_published_once(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        assert await self.answer_with(feed, remote, 1, 2, 1) == [2, 1]

    async def test_entries_with_one_id_or_link_are_published_once_each(self) -> None:
        link = "<link>https://a.example/</link>"
        for inner in (
            link + "<title>{n}</title>",
            "<guid>https://a.example/</guid><title>{n}</title>",
            "<guid>1</guid><link>https://a.example/{n}</link><title>1</title>",
            link + "<title>1</title><pubDate>Tue, 03 Nov 2026 10:{n:02}:00 GMT</pubDate>",
            link + "<title>1</title><description>{n}</description>",
        ):
            remote, feed = self.remote(), FakeFeed()
            self.run_source(self.source(remote), feed)
            for numbers, published in (
                ([1], 1),
                ([3, 2, 1], 2),
                ([3, 2, 1], 0),
                ([2], 0),
                ([4], 1),
                ([5, 4, 4, 3], 1),
            ):
                items = "".join(f"<item>{inner.format(n=n)}</item>" for n in numbers)
                body = f"<rss version='2.0'><channel>{items}</channel></rss>".encode()
                assert len(await self.answer(feed, remote, body)) == published, (inner, numbers)
            assert len(set(feed.keys)) == 5

    async def test_changed_entry_is_not_published_again(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        for title, published in ((1, [1]), (2, []), (3, []), (2, [])):
            body = rss(1).replace(b"<title>1", b"<title>%d" % title)
            assert await self.answer(feed, remote, body) == published

    async def test_entries_of_an_earlier_version_are_known(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        assert await self.answer_with(feed, remote, 2, 1) == [1, 2]
        assert isinstance(feed.memory, dict)
        earlier = {**feed.memory, "seen": [digest[:16] for digest in feed.memory["seen"]]}
        again = FakeFeed(memory=earlier)
        self.run_source(self.source(remote), again)
        assert await self.answer_with(again, remote, 3, 2, 1) == [3]
        assert await self.answer_with(again, remote, 3, 2, 1) == []

    async def test_dates_decide_the_order_if_all_entries_have_one(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        assert await self.answer(feed, remote, rss(2, 3, 1, dated=True)) == [1, 2, 3]

    async def test_memory_is_bounded_and_has_all_current_entries(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote, first=0), feed)
        numbers = list(range(reader.MAX_ENTRIES))
        assert await self.answer_with(feed, remote, *numbers) == []
        for start in (1_000, 2_000):
            later = list(range(start + 999, start - 1, -1))
            assert len(await self.answer_with(feed, remote, *later)) == 1_000
            assert await self.answer_with(feed, remote, *later) == []
        assert isinstance(feed.memory, dict)
        assert len(feed.memory["seen"]) == MAX_SEEN
        assert len(json.dumps(feed.memory)) < MOST_BYTES

    async def test_invalid_feed_is_a_warning_and_polling_continues(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(self.source(remote), feed)
        (await remote.visit()).answer(b"<html>", etag='"x"')
        message = f"{remote.host} answered with an invalid feed: expected RSS, Atom or JSON Feed"
        assert await feed.happens() == ("trouble", message)
        assert await feed.happens() == ("sleeps", 300)
        assert await self.answer_with(feed, remote, 1) == [1]

    async def test_invalid_remembered_value_is_ignored(self) -> None:
        url_digest = Fetcher("http://a", {}, 1).url_digest
        assert feed_module._seen(5, url_digest) is None
        assert feed_module._seen({"seen": []}, url_digest) is None
        assert feed_module._seen({"url": url_digest, "seen": ["a", 5]}, url_digest) == ["a"]
        assert feed_module._seen({"url": url_digest, "seen": 5}, url_digest) == []


class TestWholeSource(RemoteCase):
    async def test_feed_is_fetched_parsed_and_published(self) -> None:
        remote, feed = self.remote(), FakeFeed()
        self.run_source(FEED.make(Options(remote.url)), feed)
        (await remote.visit()).answer(RSS, content_type="application/rss+xml")
        assert [(await feed.happens())[1]["title"] for _ in range(2)] == ["1 < 2", "Rye again"]


def test_entries_are_sorted_by_time_or_reversed() -> None:
    def entry(name: str, published: str | None) -> Entry:
        return Entry(name, name, name, "", "", published, "", "")

    def order(*given: Entry) -> str:
        return "".join(entry.id for entry in oldest_first(list(given)))

    one, two = "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"
    assert order(entry("a", two), entry("b", one)) == "ba"
    assert order(entry("a", one), entry("b", two)) == "ab"
    assert order(entry("a", one), entry("b", one), entry("c", one)) == "cba"
    assert order(entry("a", one), entry("b", None), entry("c", two)) == "cba"


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_LIBRARY", "no_such_library")
    with pytest.raises(ModuleNotFoundError) as caught:
        FEED.make(Options("http://example.org/"))
    assert caught.value.name == "no_such_library"


def test_repr_of_options_has_no_headers() -> None:
    assert "s3cret" not in repr(Options("http://a", headers={"Authorization": "s3cret"}))
