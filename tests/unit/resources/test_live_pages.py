from __future__ import annotations

from pushserver import PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerConfig
from tests.unit.fakes.web import BROWSER, Server


def test_a_browser_gets_the_live_page_of_any_channel() -> None:
    server = Server(options=ChannelOptions(history_size=123))
    page = server.get("/channels/chat:lobby", accept=BROWSER)
    assert (page.status, page["content-type"]) == (200, "text/html; charset=utf-8")
    assert page["cache-control"] == "no-cache"
    assert "Accept" in page["vary"]
    assert b'data-channels="chat:lobby"' in page.body
    assert b'data-history-size="123"' in page.body
    assert b'src="../static/' in page.body


def test_the_front_page_is_that_of_the_front_channel() -> None:
    server = Server(config=Config(server=ServerConfig(front_channel="front")))
    for accept in (BROWSER, "application/json", ""):
        page = server.get("/", accept=accept)
        assert page["content-type"].startswith("text/html")
        assert b'data-channels="front"' in page.body
        assert b'src="./static/' in page.body
    head = server.get("/", "HEAD")
    assert (head.status, head.rest) == (200, b"")
    assert int(head["content-length"]) == len(server.get("/").body)


def test_the_front_page_is_the_list_of_several_channels_for_those_who_may_see_it() -> None:
    app = PushServer()
    for name in ("one", "two"):
        app.source(name, every=60.0, name=name)(lambda: 1)
    server = Server(app=app)
    assert b'id="channels"' in server.get("/", accept=BROWSER).body
    guarded = Server(config=Config(auth=Auth(api_keys=["key of 16 letters"])), app=app)
    assert b'data-channels="one"' in guarded.get("/", accept=BROWSER).body
    listed = guarded.get("/", accept=BROWSER, x_api_key="key of 16 letters")
    assert b'id="channels"' in listed.body
    chosen = Config(server=ServerConfig(front_channel="two"))
    other = Server(config=chosen, app=app)
    assert b'data-channels="two"' in other.get("/", accept=BROWSER).body
