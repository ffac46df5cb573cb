"""`?as=html`: the publications of a channel as the fragments of its template."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from pushserver import InvalidName, PublicationView, PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Publication
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.resources.fragments import MAX_BYTES, Fragments
from pushserver.server.build import with_app
from tests.unit.fakes.tools import EPOCH
from tests.unit.fakes.web import BROWSER, Server, Trouble, handshake, parse
from tests.unit.resources.test_representations import SSE, blocks

FILE = "order.html"
PATH = "/channels/orders?as=html"
ROW = '<li id="order-{{ publication.offset }}">{{ data.item }}</li>'
FAILED = {"event": "pushserver-failed"}


def make_server(folder: Path, text: str | None = ROW, **tables: Any) -> Server:
    if text is not None:
        (folder / FILE).write_text(text)
    tables = tables or {"channels": {"orders": {"template": FILE}}}
    return Server(config=Config(server=ServerConfig(templates=str(folder)), **tables))


def order(item: str) -> dict[str, str]:
    return {"item": item}


def test_an_event_stream_has_a_line_of_data_for_each_line_of_the_fragment(tmp_path: Path) -> None:
    server = make_server(tmp_path, "<li>\n  {{ data.item }}\n</li>\n")
    server.publish("orders", order("a\r\nb\rc"), "new")
    line = server.open(f"{PATH}&last=1", accept=SSE)
    answer = parse(line.take())
    epoch = server.hub.history.epoch.encode()
    (block,) = blocks(answer.body)
    assert block == b"id: %b:1\ndata: <li>\ndata:   a\ndata: b\ndata: c\ndata: </li>" % epoch
    server.publish("orders", order("<b>"))
    assert b"\ndata: <li>\ndata:   &lt;b&gt;\ndata: </li>\n\n" in line.take()


def test_an_event_stream_of_fragments_resumes(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    for item in "abc":
        server.publish("orders", order(item))
    epoch = server.hub.history.epoch
    for query, headers in ((f"&since={epoch}:2", {}), ("", {"last_event_id": f"{epoch}:2"})):
        answer = parse(server.open(PATH + query, accept=SSE, **headers).take())
        (block,) = blocks(answer.body)
        assert block.endswith(b'data: <li id="order-3">c</li>')
    answer = parse(server.open(PATH, accept=SSE, last_event_id="gone:1").take())
    assert b"event: pushserver-reset\n" in answer.body


def test_html_is_the_last_fragments_as_one(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    for item in "abc":
        server.publish("orders", order(item))
    for accept in ("text/html", BROWSER, "*/*"):
        answer = server.get(f"{PATH}&last=2", accept=accept)
        assert answer.body == b'<li id="order-2">b</li>\n<li id="order-3">c</li>\n'
        assert answer["content-type"] == "text/html; charset=utf-8"
        assert answer["cache-control"] == "no-store"
    assert server.get(f"{PATH}&limit=1").body == b'<li id="order-1">a</li>\n'
    assert server.get(PATH, "HEAD").status == 200
    assert server.get("/channels/orders?as=html&last=x").status == 400


def test_html_has_the_position_of_a_stream_that_continues_it(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    for item in "abc":
        server.publish("orders", order(item))
    server.publish("other", 1)
    cursors = [
        server.get(PATH + query)["pushserver-cursor"] for query in ("", "&limit=2", "&last=0")
    ]
    epoch = server.hub.history.epoch
    assert cursors == [f"{epoch}:4", f"{epoch}:2", f"{epoch}:4"]
    server.publish("orders", order("d"))
    line = server.open(f"{PATH}&since={cursors[0]}", accept=SSE)
    (block,) = blocks(parse(line.take()).body)
    assert block.endswith(b'data: <li id="order-4">d</li>')
    answer = server.get(f"{PATH}&since=gone:1")
    assert (answer.body, answer["pushserver-reset"]) == (b"", "epoch")


def test_a_long_history_is_sent_in_portions(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    for number in range(250):
        server.publish("orders", order(str(number)))
    answer = server.get(f"{PATH}&last=250")
    assert answer.body.count(b"<li") == 250
    assert answer.body.endswith(b'<li id="order-250">249</li>\n')


def test_a_websocket_has_one_fragment_in_each_message(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    socket = server.websocket(PATH)
    server.publish("orders", order("a"))
    assert [frame.payload for frame in socket.take()] == [b'<li id="order-1">a</li>']


def test_an_empty_fragment_is_no_event(tmp_path: Path) -> None:
    server = make_server(tmp_path, "{% if data.item == 'b' %}{{ data.item }}{% endif %}\n")
    for item in "ab":
        server.publish("orders", order(item))
    answer = parse(server.open(f"{PATH}&last=2", accept=SSE).take())
    epoch = server.hub.history.epoch.encode()
    assert blocks(answer.body) == [b"id: %b:1" % epoch, b"id: %b:2\ndata: b" % epoch]
    assert server.get(PATH).body == b"b\n"
    socket = server.websocket(f"{PATH}&last=2")
    assert [frame.payload for frame in socket.seen] == [b"b"]


def test_the_template_of_a_namespace_knows_its_channel(tmp_path: Path) -> None:
    text = "{{ channel }} {{ publication.channel }} {{ publication.event }} {{ publication.data }}"
    server = make_server(tmp_path, text, namespaces={"chat": {"template": FILE}})
    server.publish("chat:a", 1, "said")
    assert server.get("/channels/chat:a?as=html").body == b"chat:a chat:a said 1\n"


BOTH = "text/html, text/event-stream"


def media(server: Server, query: str, accept: str) -> str:
    """The media type of the answer."""
    return parse(server.open(f"/channels/orders?{query}", accept=accept).take())["content-type"]


@pytest.mark.parametrize(
    ("query", "accept", "stream"),
    [
        ("as=html", BOTH, False),
        ("as=html", f"{SSE}, text/html", True),
        ("as=htmx", BOTH, True),
        ("as=htmx", SSE, True),
        ("as=htmx&last=1", "text/html, */*", False),
        ("as=htmx", "*/*", False),
        ("as=turbo", SSE, True),
        ("as=datastar", f"{SSE}, text/html, application/json", True),
    ],
)
def test_the_request_of_each_library_gets_its_kind(
    tmp_path: Path, query: str, accept: str, stream: bool
) -> None:
    assert media(make_server(tmp_path), query, accept).startswith(SSE if stream else "text/html")


def test_the_action_and_the_mode_are_those_of_the_query(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    server.publish("orders", order("a"))
    for query, words in (
        ("as=turbo", b'<turbo-stream action="append" target="orders">'),
        ("as=turbo&action=prepend", b'<turbo-stream action="prepend" target="orders">'),
        ("as=datastar", b"\ndata: mode append\n"),
        ("as=datastar&mode=inner", b"\ndata: mode inner\n"),
    ):
        line = server.open(f"/channels/orders?last=1&{query}", accept=SSE)
        assert words in line.take()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("as=turbo&action=morph", "action=morph: expected one of append, prepend, replace, update"),
        ("as=datastar&mode=update", "mode=update: expected one of append, prepend, replace, inner"),
        ("as=jquery", "as=jquery: expected data, html, htmx, turbo, datastar, or none"),
    ],
)
def test_an_unknown_form_is_400(tmp_path: Path, query: str, words: str) -> None:
    status, message = make_server(tmp_path).get(f"/channels/orders?{query}", accept=SSE).error
    assert (status, message[: len(words)]) == (400, words)


def test_datastar_has_no_websocket(tmp_path: Path) -> None:
    answer = make_server(tmp_path).get("/channels/orders?as=datastar", **handshake())
    assert answer.error == (400, "as=datastar has no WebSocket: expected EventSource")


@pytest.mark.parametrize("path", ["/channels/lamp?as=html", "/events?channel=lamp&as=html"])
def test_a_channel_without_a_template_is_404(tmp_path: Path, path: str) -> None:
    status, message = make_server(tmp_path).get(path, accept=SSE).error
    setting = "template in [channels.lamp], or @app.fragment"
    assert (status, message) == (404, f"lamp has no template ({setting})")


def failure(block: bytes) -> dict[str, Any]:
    head, _, data = block.partition(b"\ndata: ")
    assert head.endswith(b"\nevent: pushserver-failed")
    told: dict[str, Any] = json.loads(data)
    return told


def test_a_publication_that_has_no_fragment_is_told_and_left_out(
    tmp_path: Path, trouble: Trouble
) -> None:
    server = make_server(tmp_path)
    for value in (order("a"), {"other": 1}, order("c")):
        server.publish("orders", value)
    answer = parse(server.open(f"{PATH}&last=3", accept=SSE).take())
    page = server.get(PATH)
    socket = server.websocket(f"{PATH}&last=3")
    (line,) = trouble.take()
    problem = "order.html, line 1: UndefinedError: 'dict object' has no attribute 'item'"
    assert line == f"the template order.html failed for orders: {problem}"
    first, second, third = blocks(answer.body)
    assert (b">a<" in first, b">c<" in third) == (True, True)
    told = failure(second)
    assert (told["channel"], told["offset"], "log" in told["reason"]) == ("orders", 2, True)
    assert "item" not in told["reason"]
    assert [text[:9] for text in page.body.splitlines()] == [
        b'<li id="o',
        b"<!-- orde",
        b'<li id="o',
    ]
    assert json.loads(socket.seen[1].payload) == {"failed": told}
    (status,) = server.get("/status?channel=orders").json["fragments"]
    assert (status["name"], status["channel"], status["error"]) == (FILE, "orders", problem)
    assert server.get("/status?channel=lamp").json["fragments"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no 'order.html' in"),
        ("{% for %}", "order.html, line 1: Expected"),
        ("{{ data.item", "order.html, line 1: unexpected end of template"),
    ],
)
def test_a_broken_template_is_told_at_the_start_and_costs_its_channel(
    tmp_path: Path, trouble: Trouble, text: str | None, words: str
) -> None:
    server = make_server(tmp_path, text)
    server.publish("orders", order("a"))
    answer = parse(server.open(f"{PATH}&last=1", accept=SSE).take())
    failure(blocks(answer.body)[0])
    (line,) = trouble.take()
    assert line.startswith("the template order.html failed: ")
    assert words in line
    assert server.get("/channels/orders").json["offset"] == 1
    (status,) = server.get("/status?channel=orders").json["fragments"]
    assert words in status["error"]


def test_without_a_folder_the_error_names_the_setting(trouble: Trouble) -> None:
    Server(config=Config(defaults=ChannelOptions(template=FILE)))
    (line,) = trouble.take()
    assert line.endswith("there is no folder of templates (server.templates)")


def test_a_reload_renders_the_history_anew(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    server.publish("orders", order("a"))
    line = server.open(f"{PATH}&last=1", accept=SSE)
    assert b">a<" in line.take()
    (tmp_path / FILE).write_text("<p>{{ data.item }}</p>")
    assert b"<li" in server.get(PATH).body
    live = server.service.live
    live.load = lambda: live.config
    live.reload()
    server.clock.advance(1)
    assert server.get(PATH).body == b"<p>a</p>\n"
    again = parse(server.open(f"{PATH}&last=1", accept=SSE).take())
    assert blocks(again.body)[0].endswith(b"\ndata: <p>a</p>")
    server.publish("orders", order("b"))
    assert b"\ndata: <p>b</p>\n" in line.take()


def row(seq: int, data: bytes = b"1", channel: str = "a") -> Publication:
    return Publication(channel, EPOCH, seq, seq, 0.0, "message", data)


class Bench:
    """Fragments on a clock that a test sets."""

    def __init__(self, folder: Path, text: str):
        (folder / FILE).write_text(text)
        self.now = 0.0
        options = replace(ChannelOptions(), template=FILE)
        self.fragments = Fragments(lambda name: options, lambda: 0.0, lambda: self.now)
        self.fragments.use(str(folder), [FILE])


def test_a_publication_is_rendered_once_for_all_readers(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    rendered: list[int] = []
    fragments = server.service.live._base.fragments
    render = fragments._by_template

    def counted(name: str, row: Publication) -> bytes | None:
        rendered.append(row.seq)
        return render(name, row)

    fragments._by_template = counted  # type: ignore[method-assign]
    forms = ("html", "htmx", "turbo", "datastar")
    paths = [f"/channels/orders?as={form}" for form in forms]
    lines = [server.open(path, accept=SSE) for path in paths * 2]
    socket = server.websocket(PATH)
    server.publish("orders", order("a"))
    assert all(b">a<" in line.take() for line in lines)
    assert socket.take()
    assert b">a<" in server.get(PATH).body
    assert rendered == [1]


def test_the_fragments_that_are_kept_have_a_bound(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "{{ data }}")
    for seq in range(1, 21):
        assert bench.fragments.make(row(seq, b'"%b"' % (b"x" * 1_000_000)))
    assert len(bench.fragments._made) == 8
    assert bench.fragments._bytes <= MAX_BYTES


def test_a_slow_template_takes_a_part_of_the_time(tmp_path: Path, trouble: Trouble) -> None:
    bench = Bench(tmp_path, "{{ data }}")
    seqs = iter(range(1, 10_000))

    def made(seconds: float) -> bool:
        """Whether a rendering that takes this time is done."""
        times = iter((bench.now, bench.now + seconds))
        bench.fragments._monotonic = lambda: next(times, bench.now)
        return bench.fragments.make(row(next(seqs))) is not None

    assert [made(0.4) for _ in range(5)] == [True, True, True, False, False]
    bench.now += 0.7
    assert not made(0.4)
    bench.now += 0.2
    assert [made(0.4), made(0.4)] == [True, False]
    bench.now += 100
    assert all(made(0.0001) for _ in range(1_000))
    (line,) = trouble.take()
    problem = "takes more than 25% of the time of the server, and is not called for all"
    assert line == f"order.html, which makes the fragments of a, {problem}"
    (failed,) = bench.fragments.failures("a")
    assert failed.error == problem


def test_a_publication_that_was_too_much_is_rendered_later(
    tmp_path: Path, trouble: Trouble
) -> None:
    bench = Bench(tmp_path, "{{ data }}")
    times = iter((0.0, 2.0))
    bench.fragments._monotonic = lambda: next(times, bench.now)
    bench.now = 2.0
    assert bench.fragments.make(row(1))
    assert bench.fragments.make(row(2)) is None
    assert len(trouble.take()) == 1
    bench.now += 10
    assert bench.fragments.make(row(2))


def test_hostile_data_stays_text(tmp_path: Path, trouble: Trouble) -> None:
    bench = Bench(tmp_path, "<p>{{ data }}</p>")
    hostile = "</p><script>\u202e\x00" + "x" * 65_536
    made = bench.fragments.make(row(1, json.dumps(hostile).encode()))
    assert made is not None
    assert b"<script" not in made
    assert len(made) > 65_536
    keys = json.dumps({str(n): n for n in range(10_000)}).encode()
    many = Bench(tmp_path, "{% for k, v in data.items() %}{{ k }}={{ v }};{% endfor %}")
    assert (many.fragments.make(row(1, keys)) or b"").count(b";") == 10_000
    deep = b"[" * 900 + b"]" * 900
    assert many.fragments.make(row(2, deep)) is None
    trouble.clear()


def make_app(function: Any, **tables: Any) -> tuple[PushServer, Config]:
    """An application with a function for the fragments of `orders`, and its configuration."""
    app = PushServer()
    app.fragment("orders")(function)
    return app, with_app(Config(**tables), app)


def test_a_function_makes_the_fragments_of_its_channel() -> None:
    def row(publication: PublicationView) -> Markup:
        return Markup("<li>{} {}</li>").format(publication.offset, publication.data["item"])

    app, config = make_app(row)
    server = Server(config=config, app=app)
    server.publish("orders", order("<a>"))
    assert server.get(PATH).body == b"<li>1 &lt;a&gt;</li>\n"
    socket = server.websocket("/channels/orders?as=turbo&last=1")
    assert b"<template><li>1 " in socket.seen[0].payload
    assert server.get("/channels/lamp?as=html").status == 404


@pytest.mark.parametrize(
    ("made", "body"),
    [("<b>\n", b"&lt;b&gt;\n"), (Markup("<b>"), b"<b>\n"), (None, b""), ("", b"")],
)
def test_a_str_is_escaped_and_markup_is_not(made: Any, body: bytes) -> None:
    app, config = make_app(lambda publication: made)
    server = Server(config=config, app=app)
    server.publish("orders")
    assert server.get(PATH).body == body


def test_a_function_that_fails_is_logged_and_told(trouble: Trouble) -> None:
    def row(publication: PublicationView) -> Any:
        return {"item": 1}[publication.data] and 7

    app, config = make_app(row)
    server = Server(config=config, app=app)
    for value in ("other", "item"):
        server.publish("orders", value)
    answer = parse(server.open(f"{PATH}&last=2", accept=SSE).take())
    assert [failure(block)["offset"] for block in blocks(answer.body)] == [1, 2]
    (line,) = trouble.take()
    assert line.startswith("the fragment function test_a_function_that_fails_is_logged_and_told")
    assert line.endswith(" failed for orders: KeyError('other')")
    (failed,) = server.get("/status?channel=orders").json["fragments"]
    assert failed["error"].startswith("TypeError: ")
    assert failed["error"].endswith("row returned int, expected a Markup, a str or None")


async def _async(publication: PublicationView) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_async, "_async is async: expected a plain function"),
        (lambda: "", "is called with the publication: too many positional arguments"),
        (lambda one, two: "", "is called with the publication: missing a required argument: 'two'"),
        (7, "7 makes no fragments: expected a function"),
        (Markup, "Markup makes no fragments: expected a function"),
    ],
)
def test_another_object_is_no_function_for_fragments(function: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        PushServer().fragment("orders")(function)


def test_a_channel_has_one_template_or_one_function() -> None:
    app = PushServer()
    app.source("orders", every=1, name="one", template=FILE)(lambda: 1)
    app.source("orders", every=1, name="two", template=FILE)(lambda: 1)
    with pytest.raises(ValueError, match=r"orders has fragments of order\.html already"):
        app.source("orders", every=1, name="three", template="other.html")(lambda: 1)
    with pytest.raises(ValueError, match=r"orders has fragments of order\.html already"):
        app.fragment("orders")(lambda publication: "")
    app.fragment("lamp")(lambda publication: "")
    with pytest.raises(ValueError, match=r"lamp has fragments of .*lambda.* already"):
        app.fragment("lamp")(lambda publication: "")
    with pytest.raises(ValueError, match=r"lamp has fragments of .*lambda.* already"):
        app.source("lamp", every=1, template=FILE)(lambda: 1)
    with pytest.raises(ValueError, match="needs the channel"):
        app.fragment(lambda publication: "")  # type: ignore[arg-type]
    with pytest.raises(InvalidName):
        app.fragment("a b")
    with pytest.raises(ValueError, match="needs the channel, or a namespace"):
        app.fragment("lamp", namespace="shop")
    with pytest.raises(InvalidName, match="invalid namespace 'shop:a'"):
        app.fragment(namespace="shop:a")
    app.fragment(namespace="shop")(lambda publication: "")
    with pytest.raises(ValueError, match=r"shop has fragments of .*lambda.* already"):
        app.fragment(namespace="shop")(lambda publication: "")
    assert app.templates_of_channels == {"orders": FILE}


def test_a_table_of_the_channel_precedes_the_application_and_others_do_not() -> None:
    app = PushServer()
    app.source("shop:orders", every=1, template="app.html")(lambda: 1)
    app.fragment("shop:lamp")(lambda publication: "")
    namespaces = {"shop": {"template": "shop.html"}}
    options = with_app(Config(namespaces=namespaces), app).channel_options()
    names = ("shop:orders", "shop:lamp", "shop:a")
    assert [options(name).template for name in names] == ["app.html", "", "shop.html"]
    channels = {name: {"template": "own.html", "history_size": 7} for name in names[:2]}
    config = with_app(Config(namespaces=namespaces, channels=channels), app)
    options = config.channel_options()
    assert [options(name).template for name in names[:2]] == ["own.html"] * 2
    assert options("shop:lamp").history_size == 7


def test_a_function_of_a_namespace_is_for_channels_without_their_own(tmp_path: Path) -> None:
    for name in ("own.html", "all.html"):
        (tmp_path / name).write_text(name)
    app = PushServer(templates=tmp_path)
    app.fragment(namespace="shop")(lambda publication: f"shop {publication.channel}")
    app.fragment("shop:lamp")(lambda publication: "lamp")
    tables: dict[str, Any] = {
        "channels": {"shop:own": {"template": "own.html"}},
        "defaults": ChannelOptions(template="all.html"),
    }
    expected = {
        "shop:a": b"shop shop:a",
        "$shop:b": b"",
        "shop:lamp": b"lamp",
        "shop:own": b"own.html",
        "shop": b"all.html",
    }
    server = Server(config=with_app(Config(**tables), app), app=app)
    for name, body in expected.items():
        server.publish(name)
        answer = server.get(f"/channels/{name}?as=html")
        assert answer.body.strip() == body or answer.status == 401, name
    fragments = server.service.live._base.fragments
    assert all(map(fragments.has, expected))
    # A table of the namespace precedes it.
    tables["namespaces"] = {"shop": {"template": "own.html"}}
    server = Server(config=with_app(Config(**tables), app), app=app)
    server.publish("shop:a")
    assert server.get("/channels/shop:a?as=html").body == b"own.html\n"


def test_the_template_of_a_source_makes_the_fragments_of_its_channel(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(ROW)
    app = PushServer(templates=tmp_path)
    app.source("orders", every=1, template=FILE)(lambda: 1)
    server = Server(config=with_app(Config(), app), app=app)
    server.publish("orders", order("a"))
    assert server.get(PATH).body == b'<li id="order-1">a</li>\n'
