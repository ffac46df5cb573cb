"""An idempotency key belongs to the user or API key that sent it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver import PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Auth, Config, KeySettings
from tests.unit.fakes.web import Server

KEYS = {"one": KeySettings("one-key-of-a-publisher"), "other": KeySettings("another-key-of-it")}
PUBLISHERS: dict[str, dict[str, str]] = {
    "ann": {"cookie": "user=ann"},
    "bob": {"cookie": "user=bob"},
    "key one": {"x_api_key": "one-key-of-a-publisher"},
    "key other": {"x_api_key": "another-key-of-it"},
    "unnamed key": {"x_api_key": "correct-horse-battery-staple"},
    "nobody": {},
}


@pytest.fixture
def server() -> Server:
    app = PushServer()
    app.authenticate(lambda visitor: visitor.cookies.get("user"))
    auth = Auth(api_keys=["correct-horse-battery-staple"], keys=KEYS)
    server = Server(config=Config(auth=auth, defaults=ChannelOptions(publish="anyone")), app=app)
    server.service.startService()
    server.clock.advance(0)
    return server


def post(server: Server, publisher: str, body: bytes = b"1", **headers: str) -> Any:
    who = PUBLISHERS[publisher]
    return server.get("/channels/a", "POST", body, idempotency_key="order-1", **who, **headers).json


def test_nobody_can_use_up_the_key_of_another_publisher(server: Server) -> None:
    offsets = {name: post(server, name)["offset"] for name in PUBLISHERS}
    assert sorted(offsets.values()) == list(range(1, 1 + len(PUBLISHERS)))
    again = {name: post(server, name)["offset"] for name in PUBLISHERS}
    assert again == offsets, "each repeats its own publication"


def test_nobody_can_use_up_the_keys_of_the_lines_of_another(server: Server) -> None:
    lines = {"content_type": "application/x-ndjson"}
    first = post(server, "bob", b"1\n2\n", **lines)
    second = post(server, "ann", b"1\n2\n", **lines)
    assert (first["offset"], second["offset"]) == (2, 4)
    assert post(server, "ann", b"1\n2\n", **lines)["offset"] == 4


def test_the_api_and_a_post_with_one_api_key_have_the_same_keys(server: Server) -> None:
    offset = post(server, "key one")["offset"]
    call = {"channel": "a", "data": 1, "idempotency_key": "order-1"}
    answer = server.get("/api/publish", "POST", json.dumps(call).encode(), **PUBLISHERS["key one"])
    assert answer.json["result"]["offset"] == offset
