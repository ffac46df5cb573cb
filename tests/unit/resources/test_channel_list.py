from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import pytest

from pushserver import PushServer
from pushserver.config.settings import Auth, Config
from pushserver.resources.channel_list import MOST
from tests.unit.fakes.web import BROWSER, Server

KEY = "s3cret"


def channels(server: Server, query: str = "", **headers: str) -> list[dict[str, Any]]:
    answer = server.get(f"/channels/{query}", **headers)
    assert answer.status == 200
    rows: list[dict[str, Any]] = answer.json["channels"]
    return rows


def names(server: Server, query: str = "") -> list[str]:
    return [row["channel"] for row in channels(server, query)]


@pytest.fixture
def server() -> Server:
    wall = iter(range(1_000, 9_000, 100))
    return Server(wall=lambda: float(next(wall)))


def test_list_has_the_last_event_and_the_counts(server: Server) -> None:
    server.publish("numbers", 1, "measured")
    server.publish("numbers", 2, "measured")
    [row] = channels(server)
    assert row == {
        "channel": "numbers",
        "retained": 2,
        "offset": 2,
        "watchers": 0,
        "last": {"event": "measured", "time": row["last"]["time"]},
        "last_minute": 0,
    }


def test_last_minute_is_counted() -> None:
    now = [1_000.0]
    server = Server(wall=lambda: now[0])
    for at in (1_000.0, 1_030.0, 1_061.0, 1_090.0):
        now[0] = at
        server.publish("numbers")
    assert channels(server)[0]["last_minute"] == 3
    assert "minute" not in channels(server)[0]
    assert channels(server, "?slices=4")[0]["minute"] == [1, 0, 1, 1]
    assert channels(server, "?slices=1")[0]["minute"] == [3]
    assert channels(server, "?slices=60")[0]["minute"][-1] == 1
    now[0] = 2_000.0
    assert channels(server, "?slices=2")[0]["minute"] == [0, 0]


@pytest.mark.parametrize("slices", ["61", "-1", "x"])
def test_slices_are_a_whole_number_up_to_60(server: Server, slices: str) -> None:
    answer = server.get(f"/channels/?slices={slices}", accept="application/json")
    assert answer.status == 400
    assert b"expected a whole number from 0 to 60" in answer.body


def test_newest_channels_are_first_and_watched_ones_without_events_last(server: Server) -> None:
    for name in ("a", "b", "c", "a"):
        server.publish(name)
    stream = server.open("/channels/quiet", accept="text/event-stream")
    assert names(server) == ["a", "c", "b", "quiet"]
    assert channels(server)[3] | {"watchers": 1, "last": None, "offset": 0} == channels(server)[3]
    stream.vanish()
    assert names(server) == ["a", "c", "b"]


def test_each_channel_is_listed_once(server: Server) -> None:
    server.publish("a")
    server.hub.history.channels["a"].clear()
    server.publish("b")
    for _ in range(2):
        server.open("/events?channel=a&channel=b&channel=c", accept="text/event-stream")
    assert names(server) == ["b", "a", "c"]
    assert [row["watchers"] for row in channels(server)] == [2, 2, 2]
    assert server.get("/channels/").json["total"] == 3


def test_names_are_selected_by_a_text(server: Server) -> None:
    for name in ("chat:Lobby", "chat:den", "orders"):
        server.publish(name)
    assert names(server, "?q=LOB") == ["chat:Lobby"]
    assert names(server, "?q=chat:") == ["chat:den", "chat:Lobby"]
    assert names(server, "?q=%FF") == []
    answer = server.get("/channels/?limit=1&q=chat")
    assert [row["channel"] for row in answer.json["channels"]] == ["chat:den"]
    assert answer.json["total"] == 2
    assert server.get("/channels/?limit=0").json == {"channels": [], "total": 3}


@pytest.mark.parametrize("limit", ["-1", "x", str(MOST + 1)])
def test_impossible_limit_is_refused(server: Server, limit: str) -> None:
    answer = server.get(f"/channels/?limit={limit}")
    assert answer.status == 400
    assert b"expected a whole number" in answer.body


def test_browser_gets_the_page(server: Server) -> None:
    answer = server.get("/channels/", accept=BROWSER)
    assert answer["content-type"].startswith("text/html")
    assert b'id="channels"' in answer.body
    assert answer["vary"] == "Accept, Accept-Encoding"
    assert server.get("/channels/", accept="image/png").status == 406
    assert server.get("/channels//").status == 404


class TestAnotherMachine:
    @pytest.fixture
    @staticmethod
    def server() -> Server:
        server = Server(config=Config(auth=Auth([KEY])))
        server.publish("secret-name") if not server.node.hub.history.channels else None
        return server

    def test_needs_a_key(self, server: Server) -> None:
        answer = server.get("/channels/")
        assert answer.status == 403
        assert b"secret-name" not in answer.body
        # Also a program on this machine, which reads that the keys are the reason.
        assert b"auth.api_keys" in answer.body
        assert [row["channel"] for row in channels(server, x_api_key=KEY)] == ["secret-name"]
        assert server.get("/channels/", x_api_key="wrong").status == 401

    def test_gets_the_page_which_asks_for_a_key(self, server: Server) -> None:
        answer = server.get("/channels/", accept=BROWSER)
        assert answer.status == 200
        assert b"secret-name" not in answer.body
        assert b'id="login-form"' in answer.body
        assert b'id="login-form"' not in Server().get("/channels/", accept=BROWSER).body

    def test_gets_no_link_to_the_list(self, server: Server) -> None:
        assert b"all-channels" not in server.get("/", accept=BROWSER).body
        assert b"all-channels" in Server().get("/", accept=BROWSER).body

    def test_page_of_another_origin_gets_nothing(self) -> None:
        server = Server()
        server.publish("a")
        answer = server.get("/channels/", origin="https://evil.example")
        assert answer.status == 403
        assert b'"a"' not in answer.body


def test_channels_that_the_application_guards_are_listed_for_this_machine() -> None:
    app = PushServer()
    app.on("subscribe")(lambda client, channel: False)
    server = Server(app=app)
    server.publish("a")
    assert names(server) == ["a"]


class TestTheUrlWithoutItsSlash:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("query", ["", "?q=num&limit=3", "?q=a%20b"])
    @pytest.mark.parametrize("accept", ["application/json", BROWSER])
    def test_is_redirected_below_any_path(
        self, server: Server, method: str, query: str, accept: str
    ) -> None:
        answer = server.get(f"/channels{query}", method, accept=accept)
        assert (answer.status, answer.body) == (302, b"")
        assert answer["location"] == f"./channels/{query}"
        for above in ("", "/push", "/a/b"):
            url = urljoin(f"https://app.example{above}/channels{query}", answer["location"])
            assert url == f"https://app.example{above}/channels/{query}"

    @pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
    def test_is_404_for_other_methods(self, server: Server, method: str) -> None:
        assert server.get("/channels", method).error[0] == 404
