"""Each API key, else each user, else each address has its own share of idempotency keys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver.auth.identity import Identity
from pushserver.auth.keys import LOCAL
from pushserver.auth.publishers import publisher
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config, KeySettings
from tests.unit.fakes.web import Server, parse, request

LIMITS = Limits(idempotency_keys=10, idempotency_keys_per_publisher=3)
ONE, OTHER = "one-key-of-a-publisher", "another-key-of-another"
KEYS = {
    "one": KeySettings(ONE, may=["publish", "read", "admin"]),
    "other": KeySettings(OTHER),
}


def make_server(**auth: Any) -> Server:
    return Server(config=Config(limits=LIMITS, auth=Auth(**auth)))


def post(server: Server, key: str, *, api_key: str = "", body: bytes = b"1", **headers: str) -> Any:
    return server.get(
        "/channels/a", "POST", body, idempotency_key=key, x_api_key=api_key, **headers
    )


def use_share(server: Server, api_key: str = "") -> None:
    for n in range(3):
        assert post(server, f"k{n}", api_key=api_key).status == 201


def test_publisher_that_has_used_its_share_gets_429_and_no_other_is_affected() -> None:
    server = make_server(keys=KEYS)
    use_share(server, ONE)
    answer = post(server, "k3", api_key=ONE)
    assert (answer.status, answer["retry-after"]) == (429, "60")
    assert answer.error[1].endswith("in five minutes (idempotency_keys_per_publisher)")
    assert post(server, "k0", api_key=ONE).status == 201, "it repeats its first publication"
    assert post(server, "", api_key=ONE).status == 201, "one without a key is not bounded"
    assert post(server, "k3", api_key=OTHER).status == 201
    assert server.node.metrics.refusals == {"idempotency_keys_per_publisher": 1}
    server.clock.advance(301)
    assert post(server, "k3", api_key=ONE).status == 201


def test_lines_of_one_body_use_the_share_of_its_publisher_alone() -> None:
    server = make_server(keys=KEYS)
    answer = post(server, "k", api_key=ONE, body=b"1\n" * 20, content_type="application/x-ndjson")
    assert (answer.status, answer["retry-after"]) == (429, "60")
    assert (answer.json["published"], answer.json["line"]) == (3, 4)
    assert post(server, "k", api_key=OTHER).status == 201
    assert server.node.metrics.refusals["idempotency_keys_per_publisher"] == 1


def call(server: Server, method: str, body: object) -> Any:
    return server.get(f"/api/{method}", "POST", json.dumps(body).encode(), x_api_key=ONE)


def test_api_has_the_share_of_its_key() -> None:
    server = make_server(keys=KEYS)
    use_share(server, ONE)
    fresh = {"channel": "a", "data": 1, "idempotency_key": "new"}
    assert call(server, "publish", fresh).status == 429
    del fresh["channel"]
    [reply] = call(server, "broadcast", {**fresh, "channels": ["a"]}).json["result"]["responses"]
    assert reply["error"]["code"] == 111
    commands = [{"publish": {"channel": "a", **fresh}}, {"info": {}}]
    first, second = call(server, "batch", {"commands": commands}).json["replies"]
    assert first["error"]["code"] == 111
    assert "info" in second
    assert server.node.metrics.refusals["idempotency_keys_per_publisher"] == 3


def test_programs_without_a_key_have_the_share_of_their_address() -> None:
    server = make_server()
    use_share(server)
    assert post(server, "k3").status == 429
    line = server.connect("127.0.0.2")
    line.send(request("/channels/a", "POST", b"1", idempotency_key="k3"))
    assert parse(line.take()).status == 201


@pytest.mark.parametrize(
    ("identity", "address", "name"),
    [
        (Identity(), "192.0.2.1", "address 192.0.2.1"),
        (Identity(), "2001:db8::1:2:3:4", "address 2001:db8::/64"),
        (Identity(), None, "address "),
        (Identity(key=LOCAL), "127.0.0.1", "address of a program on this machine 127.0.0.1"),
        (Identity("ann"), "192.0.2.1", "user ann"),
    ],
)
def test_name_of_a_publisher(identity: Identity, address: str | None, name: str) -> None:
    assert publisher(identity, address) == name
