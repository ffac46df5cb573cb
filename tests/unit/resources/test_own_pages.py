"""The pages by the user's templates: their URLs, and what each viewer sees in them."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver import PushServer, Visitor
from pushserver.auth.keys import Keys
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.errors import Unavailable
from pushserver.resources.own_pages import MOST_BYTES, MOST_CHANNELS
from pushserver.server.build import with_app
from pushserver.sessions.identification import NoTokens
from pushserver.web.site import HEADERS
from tests.unit.fakes.tokens import of_user, token
from tests.unit.fakes.web import BROWSER, Response, Server, Trouble, parse, patched

SECRET = "s" * 32
LIST = """{% set orders = last("orders", 2) %}<ul data-since="{{ orders.cursor }}">
{%- for order in orders %}<li>{{ order.offset }} {{ order.data }}</li>{% endfor %}</ul>
{{- orders.problem }} {{ orders|length }}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pages").mkdir()
    return tmp_path


def make_server(folder: Path, /, app: PushServer | None = None, **tables: Any) -> Server:
    server = ServerConfig(templates=str(folder), pages=tables.pop("pages", ""))
    config = Config(server=server, **tables)
    return Server(config=config if app is None else with_app(config, app), app=app)


def write(folder: Path, text: str, name: str = "about") -> None:
    path = folder / "pages" / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def text_of(answer: Response) -> str:
    assert answer.status == 200, answer
    return html.unescape(answer.body.decode())


# --- URLs ---------------------------------------


def test_a_page_is_at_its_name(folder: Path) -> None:
    write(folder, '{% extends "page.html" %}{% block content %}<b>{{ root }}</b>{% endblock %}')
    write(folder, "front {{ root }}", "index")
    write(folder, "help {{ root }}", "help/index")
    write(folder, "deep {{ root }}", "help/more/deep")
    server = make_server(folder)
    answer = server.get("/about", accept=BROWSER)
    assert (answer.status, answer["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<b>.</b>" in answer.body
    assert b'href="./static/bundle/page.css' in answer.body
    assert answer["content-security-policy"] == HEADERS[b"content-security-policy"].decode()
    assert server.get("/").body == b"front ."
    assert server.get("/help/").body == b"help .."
    assert server.get("/help/more/deep?a=b").body == b"deep ../.."
    assert server.get("/about", "HEAD")["content-length"] == str(len(answer.body))
    assert server.get("/about", "POST", b"x").error[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/about/",
        "/about.html",
        "/index",
        "/help",
        "/help/index",
        "/_part",
        "/.hidden",
        "/pages/about",
        "/../page",
        "/%2e%2e/page",
        "/..%2fpage",
        "/help/..%2fabout",
        "/out",
        "/linked/secret",
        "/a%00b",
        "/%ff",
        "//about",
        "/" + "x" * 300,
    ],
)
def test_there_is_no_other_page(folder: Path, tmp_path: Path, path: str) -> None:
    for name in ("about", "_part", ".hidden", "help/index"):
        write(folder, "own", name)
    (folder / "page.html").write_text("secret")
    (folder / "secret.html").write_text("secret")
    (folder / "pages" / "out.html").symlink_to(folder / "secret.html")
    (folder / "pages" / "linked").symlink_to(folder)
    assert make_server(folder).get(path).status == 404


def test_a_page_may_come_later(folder: Path) -> None:
    server = make_server(folder)
    assert server.get("/late").status == 404
    write(folder, "late", "late")
    assert server.get("/late").body == b"late"


def test_collisions_are_told_at_the_start(
    folder: Path, tmp_path: Path, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for name in ("index.html", "style.css"):
        (files / name).write_text("file")
    for name in ("channels", "health", "index", "events/more", "about"):
        write(folder, "own", name)
    server = make_server(folder, pages=str(files))
    server.send_files(monkeypatch)
    own = folder / "pages"
    assert sorted(trouble.take()) == sorted(
        [
            f"channels.html in {own} is not served: /channels is the server's own",
            f"events in {own} is not served: /events is the server's own",
            f"health.html in {own} is not served: /health is the server's own",
            f"index.html in {files} is not served: / is {own}/index.html",
        ]
    )
    assert server.get("/").body == b"own"
    assert server.get("/style.css").body == b"file"
    assert server.get("/channels/").body != b"own"


# --- reading ---------------------------------------


def test_a_page_has_the_last_publications_escaped(folder: Path) -> None:
    write(folder, LIST)
    server = make_server(folder)
    for data in ("a", "b", "<script>"):
        server.publish("orders", data)
    answer = server.get("/about")
    epoch = server.hub.history.epoch
    assert answer.body.decode() == (
        f'<ul data-since="{epoch}:3"><li>2 b</li><li>3 &lt;script&gt;</li></ul> 2'
    )
    assert answer["pushserver-cursor"] == f"{epoch}:3"
    assert answer["cache-control"] == "no-store"
    assert "content-encoding" not in server.get("/about", accept_encoding="gzip")


def test_a_page_without_channels_is_kept_and_compressed(folder: Path) -> None:
    write(folder, "about")
    server = make_server(folder)
    answer = server.get("/about", accept_encoding="gzip")
    assert (answer["cache-control"], answer["content-encoding"]) == ("no-cache", "gzip")
    assert "pushserver-cursor" not in answer
    assert server.get("/about", if_none_match=answer["etag"]).status == 304


@pytest.mark.parametrize("stream", ["/channels/orders?", "/events?channel=orders&channel=b&"])
def test_what_comes_between_the_page_and_the_stream_comes_once(folder: Path, stream: str) -> None:
    write(folder, '{{ cursor("orders", "b") }} {{ last("orders")|length }}')
    server = make_server(folder)
    server.publish("orders", "before")
    cursor, count = text_of(server.get("/about")).split()
    assert count == "1"
    server.publish("orders", "between")
    line = server.open(f"{stream}since={cursor}", accept="text/event-stream")
    server.publish("orders", "after")
    body = parse(line.take()).body
    assert [body.count(f'"{data}"'.encode()) for data in ("before", "between", "after")] == [
        0,
        1,
        1,
    ]
    assert b"reset" not in body


def test_a_page_has_the_position_for_pushserver_js(folder: Path) -> None:
    write(folder, "{{ last('orders').position|tojson|forceescape }}")
    server = make_server(folder)
    server.publish("orders")
    history = server.hub.history
    epoch = history.peek("orders").epoch
    assert json.loads(text_of(server.get("/about"))) == {"epoch": epoch, "offset": 1}


def test_a_nonce_permits_the_scripts_of_one_answer(folder: Path) -> None:
    write(folder, "{{ nonce() }} {{ nonce() }}")
    server = make_server(folder)
    seen = set()
    for _ in range(3):
        answer = server.get("/about", accept_encoding="gzip")
        nonce, same = text_of(answer).split()
        assert nonce == same
        assert len(nonce) >= 22
        seen.add(nonce)
        ours = HEADERS[b"content-security-policy"].decode()
        policy = answer["content-security-policy"].replace(f" 'nonce-{nonce}'", "")
        assert policy == ours
        assert answer["content-security-policy"].count(f"'self' 'nonce-{nonce}'") == 2
        assert answer["cache-control"] == "no-store"
    assert len(seen) == 3
    write(folder, "", "other")
    assert "nonce" not in server.get("/other")["content-security-policy"]


RULES: dict[str, dict[str, Any]] = {
    "a user": {"channels": {"orders": {"history": "users"}}},
    "a token": {"channels": {"orders": {"subscribe": "token"}}},
    "a key": {"channels": {"orders": {"subscribe": "key"}}},
    "nobody": {"channels": {"orders": {"subscribe": "nobody"}}},
    "closed": {"auth": Auth(token_secret=SECRET, token_cookie="t", closed=True)},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_viewer_sees_nothing_of_a_channel_that_it_may_not_read(folder: Path, rule: str) -> None:
    write(folder, LIST + '|{{ cursor("orders") }}|')
    auth = {"auth": Auth(token_secret=SECRET, token_cookie="t", api_keys=["k" * 20])}
    server = make_server(folder, **{**auth, **RULES[rule]})
    server.publish("orders", "SECRET")
    answer = server.get("/about")
    text = text_of(answer)
    assert "SECRET" not in text
    assert '<ul data-since=""></ul>' in text
    assert text.endswith(" 0||")
    assert "(" in text  # the setting
    assert "pushserver-cursor" not in answer
    refused = server.get("/channels/orders")
    assert refused.error[1] in text


def test_a_viewer_sees_what_its_own_credentials_permit(folder: Path) -> None:
    write(folder, LIST + "{{ user }}")
    auth = Auth(token_secret=SECRET, token_cookie="t")
    server = make_server(folder, auth=auth, channels={"orders": {"subscribe": "token"}})
    server.publish("orders", "SECRET")
    claims = of_user("ann", seconds=10**9)
    for cookie, seen in (
        (token({**claims, "channels": ["orders"]}, key=SECRET.encode()), True),
        (token(claims, key=SECRET.encode()), False),
        (token({**claims, "channels": ["orders"]}, key=b"another" * 9), False),
        ("nonsense", False),
    ):
        text = text_of(server.get("/about", cookie=f"t={cookie}"))
        assert ("SECRET" in text) == seen
    expired = token({**claims, "exp": 1, "channels": ["orders"]}, key=SECRET.encode())
    text = text_of(server.get("/about", cookie=f"t={expired}"))
    assert "SECRET" not in text
    assert "expired" in text


def test_a_link_from_another_site_opens_the_page_with_its_publications(folder: Path) -> None:
    write(folder, LIST)
    server = make_server(folder)
    server.publish("orders", "seen")
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert "seen" in text_of(server.get("/about", **link))


def test_the_application_knows_the_viewer(folder: Path) -> None:
    app = PushServer(templates=folder)

    @app.authenticate
    def who(visitor: Visitor) -> str:
        return visitor.cookies.get("user", "")

    write(folder, LIST + "{{ user }}")
    server = make_server(folder, app, channels={"orders": {"subscribe": "users"}})
    server.publish("orders", "SECRET")
    assert "SECRET" not in text_of(server.get("/about"))
    answer = server.get("/about", cookie="user=<ann>")
    assert text_of(answer).endswith("1<ann>")
    assert b"<ann>" not in answer.body


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ last('no name') }}", "InvalidName: "),
        ("{{ last(nothing) }}", "'nothing' is undefined"),
        ("{{ last('a', 10000000) }}", "ValueError: last('a', 10000000): expected 0 to 1"),
        ("{{ last('a', -1) }}", "expected 0 to"),
        ("{{ last('a', '1') }}", "expected 0 to"),
        ("{{ last('a', true) }}", "expected 0 to"),
        ("{{ last() }}", "TypeError"),
        ("{{ token() }}", "the server has no key for HS256"),
        ("{% for i in range(99) %}{{ cursor('c' ~ i) }}{% endfor %}", f"more than {MOST_CHANNELS}"),
        (
            "{% for i in range(99) %}{{ last('big', 9)|length }}{% endfor %}",
            f"more than {MOST_BYTES} bytes of publications",
        ),
        ("{{ last('a').nothing }}", "no attribute 'nothing'"),
        ("{{ last.__globals__ }}", "SecurityError"),
    ],
)
def test_a_wrong_page_is_an_error_of_its_own(
    folder: Path, trouble: Trouble, text: str, problem: str
) -> None:
    write(folder, text)
    write(folder, "good", "other")
    server = make_server(folder)
    for _ in range(9):
        server.publish("big", "x" * 60_000)
    assert server.get("/about").error == (500, "internal server error")
    [line] = trouble.take()
    assert line.startswith("the page pages/about.html failed: pages/about.html, line 1: ")
    assert problem in line
    assert server.get("/other").body == b"good"
    (failed,) = server.get("/status").json["facts"]["templates"]
    assert (failed["name"], failed["channel"]) == ("pages/about.html", "")
    assert problem in failed["error"]
    metrics = server.get("/metrics").body
    assert b'pushserver_template_failures_total{template="pages/about.html"} 1.0' in metrics


# --- tokens ---------------------------------------


@pytest.fixture
def issue(folder: Path) -> Callable[..., dict[str, Any]]:
    """The claims of the token of a page, for a viewer with these claims."""

    def issue(text: str, viewer: dict[str, Any] | None = None) -> dict[str, Any]:
        write(folder, text)
        auth = Auth(token_secret=SECRET, token_cookie="t", token_audience=["push"])
        config: dict[str, Any] = {"channels": {"own": {"subscribe": "token"}}}
        server = make_server(folder, auth=auth, **config)
        given = viewer and token({**viewer, "aud": "push"}, key=SECRET.encode())
        answer = server.get("/about", cookie=f"t={given}" if given else "")
        assert answer["cache-control"] == "no-store"
        made = text_of(answer)
        if not made:
            return {}
        # The server accepts it.
        permissions = server.get("/channels/open/permissions", authorization=f"Bearer {made}").json
        assert permissions["by"] == "token"
        body = made.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=="))
        assert permissions["user"] == claims["sub"]
        return claims

    return issue


def test_a_token_is_that_of_the_viewer_and_permits_no_more(
    issue: Callable[..., dict[str, Any]],
) -> None:
    ann = of_user("ann", seconds=10**9)
    claims = issue("{{ token() }}", {**ann, "info": {"name": "Ann"}})
    assert (claims["sub"], claims["aud"], claims["info"]) == ("ann", "push", {"name": "Ann"})
    assert "channels" not in claims
    assert claims["exp"] - claims["iat"] in (3600, 3601)
    claims = issue("{{ token('own', 'open', seconds=60) }}", ann)
    assert claims["channels"] == ["open"]
    assert claims["exp"] - claims["iat"] in (60, 61)
    claims = issue("{{ token('own', 'open') }}", {**ann, "channels": ["own"]})
    assert claims["channels"] == ["own", "open"]


def test_a_token_ends_with_the_credentials_of_the_viewer(
    issue: Callable[..., dict[str, Any]],
) -> None:
    end = int(time.time()) + 30
    claims = issue("{{ token() }}", {"sub": "ann", "exp": end})
    assert end - 2 <= claims["exp"] <= end + 1


def test_a_viewer_without_a_user_gets_no_token(issue: Callable[..., dict[str, Any]]) -> None:
    assert issue("{{ token('own') }}") == {}


# --- several processes ---------------------------------------


def test_a_page_waits_for_each_channel_of_another_process(folder: Path) -> None:
    write(folder, "{{ last('a')|length }}{{ last('b')|length }}{{ last('a')|length }}")
    server = make_server(folder)
    waiting: list[tuple[tuple[str, ...], Deferred[None]]] = []

    async def load(names: tuple[str, ...], fresh: bool = False) -> None:
        assert fresh
        waiting.append((names, Deferred()))
        await waiting[-1][1]

    patched(server.node, "load", load)
    server.publish("a")
    line = server.open("/about")
    for name in "ab":
        assert not line.take()
        names, done = waiting.pop()
        assert names == (name,)
        done.callback(None)
    assert parse(line.take()).body == b"101"
    assert not waiting


def test_a_page_of_a_channel_that_is_not_there_is_refused(folder: Path) -> None:
    write(folder, "{{ last('a') }}")
    server = make_server(folder)

    async def load(names: tuple[str, ...], fresh: bool = False) -> None:
        raise Unavailable("the log is away", "redis")

    patched(server.node, "load", load)
    assert server.get("/about").error == (503, "the log is away")


def test_a_viewer_who_leaves_meanwhile_costs_nothing(folder: Path) -> None:
    write(folder, "{{ last('a') }}")
    server = make_server(folder)
    done: Deferred[None] = Deferred()

    async def load(names: tuple[str, ...], fresh: bool = False) -> None:
        await done

    patched(server.node, "load", load)
    server.open("/about").vanish()
    done.callback(None)
    assert server.is_empty()


def test_a_viewer_whose_key_is_removed_meanwhile_sees_no_channel_of_it(folder: Path) -> None:
    key = "correct-horse-battery-staple"
    write(folder, "{{ last('a')|length }}")
    server = make_server(
        folder, auth=Auth(api_keys=[key]), channels={"a": {"history": "key", "subscribe": "key"}}
    )
    waiting: list[Deferred[None]] = []

    async def load(names: tuple[str, ...], fresh: bool = False) -> None:
        waiting.append(Deferred())
        await waiting[-1]

    patched(server.node, "load", load)
    server.publish("a", "secret")
    line = server.open("/about", x_api_key=key)
    waiting.pop().callback(None)
    assert parse(line.take()).body == b"1"
    line = server.open("/about", x_api_key=key)
    server.node.identification.reconfigure(Keys(), NoTokens(), 60)
    waiting.pop().callback(None)
    answer = parse(line.take())
    assert answer.error == (401, "the API key was removed from the configuration")


@pytest.mark.parametrize("order", ["disconnect", "unsubscribe"])
def test_a_viewer_whose_user_is_ended_meanwhile_is_refused(folder: Path, order: str) -> None:
    app = PushServer()
    app.authenticate(lambda visitor: "ann")
    write(folder, "{{ last('a')|length }}")
    server = make_server(folder, app)
    server.service.startService()
    server.clock.advance(0)
    waiting: Deferred[None] = Deferred()

    async def load(names: tuple[str, ...], fresh: bool = False) -> None:
        await waiting

    patched(server.node, "load", load)
    server.publish("a", "secret")
    line = server.open("/about")
    server.clock.advance(0)
    body = b'{"user":"ann","channel":"a"}' if order == "unsubscribe" else b'{"user":"ann"}'
    assert server.get(f"/api/{order}", "POST", body).json == {"result": {}}
    waiting.callback(None)
    server.clock.advance(0)
    assert parse(line.take()).status == 403
    assert server.node.sessions.readers("ann") == []
