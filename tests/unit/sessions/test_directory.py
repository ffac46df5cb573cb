from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pushserver.sessions.commands import answer
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session
from tests.unit.fakes.tools import TEXT, FakeTransport, make_node

CONNECT = b'{"id":1,"connect":{}}'


def begin(node: Node, user: str = "", secret: str = "") -> Session:
    """A session that has not connected yet; its user is known when it does."""
    session = Session(node, FakeTransport(replace(TEXT)), answer, secret)
    session.info = replace(session.info, user=user)
    return session


def connect(node: Node, user: str = "", secret: str = "") -> Session:
    session = begin(node, user, secret)
    session.received(CONNECT)
    return session


def test_session_is_found_by_its_client_and_user_at_once_and_by_secret_when_connected() -> None:
    node = make_node()
    session = begin(node, "ann", "s")
    client = session.info.client
    assert list(node.sessions) == node.sessions.of_user("ann", client) == [session]
    assert node.sessions.by_secret("s") is None
    session.received(CONNECT)
    assert node.sessions.of_user("ann") == [session]
    assert node.sessions.of_user("ann", secret="s") == [session]
    assert node.sessions.by_secret("s") is session


def test_sessions_of_a_user_are_also_those_that_are_not_admitted() -> None:
    node = make_node()
    session = begin(node, "ann", "s")
    begin(node, "bob")
    admitted = connect(node, "ann")
    assert node.sessions.of_user("ann") == [admitted, session]
    assert node.sessions.of_user("ann", admitted.info.client) == [admitted]
    assert node.sessions.of_user("ann", session.info.client) == [session]
    assert node.sessions.of_user("ann", secret="s") == []
    session.received(CONNECT)
    assert node.sessions.of_user("ann") == [admitted, session]
    for each in (session, admitted):
        each.closed()
    assert node.sessions.of_user("ann") == []


def test_sessions_of_a_user_are_found_and_no_others() -> None:
    node = make_node()
    one, two, bob, nobody = (connect(node, user) for user in ("ann", "ann", "bob", ""))
    assert node.sessions.of_user("ann") == [one, two]
    assert node.sessions.of_user("bob") == [bob]
    assert node.sessions.of_user("") == [nobody]
    assert node.sessions.of_user("eve") == []


def test_client_or_a_secret_of_another_user_finds_nothing() -> None:
    node = make_node()
    ann, bob = connect(node, "ann", "a"), connect(node, "bob", "b")
    assert node.sessions.of_user("ann", bob.info.client) == []
    assert node.sessions.of_user("ann", secret="b") == []
    assert node.sessions.of_user("ann", ann.info.client, "b") == []
    assert node.sessions.of_user("ann", ann.info.client, "a") == [ann]
    assert node.sessions.of_user("", ann.info.client) == []


def test_sessions_without_a_user_have_no_entry_by_user() -> None:
    node = make_node()
    connect(node)
    assert node.sessions._by_user == {}


ENDS: list[Callable[[Session], object]] = [
    Session.closed,
    lambda session: session.disconnect(3000, "end"),
    Session.abort,
    Session.slow,
    Session.shut_down,
    lambda session: session.received(b"nonsense"),
    lambda session: session.received(CONNECT),
]


@pytest.mark.parametrize("make", [begin, connect])
@pytest.mark.parametrize("end", ENDS)
def test_session_that_has_ended_leaves_no_entry(
    make: Callable[[Node, str, str], Session], end: Callable[[Session], object]
) -> None:
    node = make_node()
    session, other = make(node, "ann", "s"), make(node, "ann", "t")
    end(session)
    session.closed()
    assert list(node.sessions) == [other]
    other.closed()
    directory = node.sessions
    assert (directory._by_client, directory._by_secret, directory._by_user) == ({}, {}, {})
