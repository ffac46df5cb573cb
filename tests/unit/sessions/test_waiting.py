"""The bytes of requests that wait for a handler: counted for each client and for all together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from pushserver.config.limits import Limits
from pushserver.sessions.node import Node
from pushserver.sessions.working import PART_BYTES
from tests.unit.fakes.socketio import IoClient
from tests.unit.fakes.tools import Client
from tests.unit.sessions.test_socketio import Handlers, make_asking_node

BIG = 20_000
LIMITS = Limits(waiting_bytes=3 * BIG, commands_per_second=10**6)
REASON = f"the requests of all clients that wait have {3 * BIG} bytes (waiting_bytes)"


class Peers:
    """Clients of both protocols, whose handlers do not answer."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        self.node: Node = make_asking_node(self.handlers, limits=LIMITS)
        self.notes: list[Any] = []
        self.node.note_excess = lambda *args: self.notes.append(args)
        self.clients: list[Any] = []

    def client(self, kind: type[Any]) -> Any:
        client = kind(self.node, "") if kind is IoClient else kind(self.node)
        self.clients.append(client)
        return client

    def wait(self) -> None:
        """Let handlers wait from now on."""
        self.handlers.pending = Deferred()

    def answer(self) -> None:
        """Let all handlers that wait answer."""
        pending, self.handlers.pending = self.handlers.pending, None
        if pending is not None:
            pending.callback(None)


def send(client: Any, size: int) -> None:
    """One request of about this size."""
    if isinstance(client, IoClient):
        client.say("42" + json.dumps(["event", "x" * size]))
    else:
        client.id += 1
        client.say({"id": client.id, "rpc": {"method": "m", "data": "x" * size}})


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.mark.parametrize("kind", [Client, IoClient])
def test_client_with_most_of_the_bytes_is_disconnected(peers: Peers, kind: type[Any]) -> None:
    greedy, other = peers.client(kind), peers.client(kind)
    peers.wait()
    for client in (greedy, other):
        # The first one is in its handler, and does not wait.
        send(client, 10)
        send(client, 10)
    while greedy.closed is None:
        send(greedy, BIG)
    assert greedy.closed == (3013, REASON)
    assert [code for _, _, code in peers.notes] == [3013]
    assert other.closed is None
    assert 0 < peers.node.waiting_bytes < BIG
    peers.answer()
    assert peers.node.waiting_bytes == 0
    send(other, BIG)
    assert other.closed is None


@pytest.mark.parametrize("kind", [Client, IoClient])
def test_client_with_few_bytes_stays_while_all_have_too_many(peers: Peers, kind: type[Any]) -> None:
    small = peers.client(kind)
    peers.wait()
    peers.node.waiting_bytes = 10**9
    send(small, 10)
    send(small, PART_BYTES - 2_000)
    assert small.closed is None
    send(small, PART_BYTES)
    assert small.closed == (3013, REASON)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["send"]), st.integers(0, 3), st.integers(0, 9_000)),
            st.tuples(st.sampled_from(["wait", "answer", "close"]), st.integers(0, 3), st.just(0)),
        ),
        max_size=40,
    )
)
def test_count_is_that_of_the_open_clients_and_ends_at_zero(
    program: list[tuple[str, int, int]],
) -> None:
    peers = Peers()
    clients = [peers.client(kind) for kind in (Client, IoClient, Client, IoClient)]
    for step, number, size in program:
        client = clients[number]
        if step == "send" and client.closed is None:
            send(client, size)
        elif step == "wait" and peers.handlers.pending is None:
            peers.wait()
        elif step == "answer":
            peers.answer()
        elif step == "close" and client.closed is None:
            client.session.disconnect(3500, "bye")
        counts = [client.session._waiting_bytes for client in clients]
        assert min(counts) >= 0
        assert peers.node.waiting_bytes == sum(counts)
    peers.answer()
    assert peers.node.waiting_bytes == 0
