from __future__ import annotations

from typing import Any, get_args

import pytest

from pushserver.auth.identity import ANONYMOUS, Grant, Identity
from pushserver.auth.keys import Key
from pushserver.auth.patterns import Patterns
from pushserver.auth.permissions import Action, Permissions
from pushserver.channels.channel import ChannelOptions, Rule
from pushserver.errors import Denied, NeedsKey

USER = Identity("ann")
TOKEN = Identity("ann", token=True, channels=Patterns(("c*", "$c", "i*")))
ANONYMOUS_TOKEN = Identity(token=True, channels=Patterns(("c",)))
KEY = Identity(key=Key("k"))
PEERS = {
    "anonymous": ANONYMOUS,
    "user": USER,
    "token": TOKEN,
    "token without user": ANONYMOUS_TOKEN,
    "key": KEY,
}
ACTIONS: tuple[Action, ...] = get_args(Action)
RULES: tuple[Rule, ...] = get_args(Rule)


def permissions(handlers: tuple[str, ...] = (), closed: bool = False, **rules: Any) -> Permissions:
    options = ChannelOptions(**rules)
    return Permissions(lambda name: options, lambda event, name: event in handlers, closed)


def with_rule(action: Action, rule: str) -> Permissions:
    rules: dict[str, Any] = {action: rule}
    return permissions(**rules)


def admitted(rules: Permissions, action: Action, channel: str = "c") -> set[str]:
    names = set()
    for name, peer in PEERS.items():
        try:
            rules.check(action, channel, peer)
        except Denied:
            continue
        names.add(name)
    return names


ADMITTED = {
    "anyone": set(PEERS),
    "users": {"user", "token", "key"},
    "token": {"token", "token without user", "key"},
    "key": {"key"},
    "handler": {"key"},
    "nobody": set(),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("rule", ADMITTED)
def test_rule_admits_these_peers(action: Action, rule: str) -> None:
    assert admitted(with_rule(action, rule), action) == ADMITTED[rule]


def test_usual_rules_are_public_reading_and_publishing_by_key() -> None:
    rules = permissions()
    assert [admitted(rules, action) for action in ACTIONS] == [
        set(PEERS),
        {"key"},
        set(PEERS),
        set(PEERS),
    ]
    assert admitted(permissions(client_publish=True), "publish") == set(PEERS)
    assert (
        admitted(permissions(client_publish=True, publish="users"), "publish")
        == (ADMITTED["users"])
    )


@pytest.mark.parametrize("rule", ADMITTED)
def test_history_and_presence_follow_subscribe(rule: Any) -> None:
    rules = permissions(subscribe=rule)
    assert admitted(rules, "history") == admitted(rules, "presence") == ADMITTED[rule]


def test_member_may_read_history_unless_it_has_its_own_rule() -> None:
    assert permissions(subscribe="key").check("history", "c", ANONYMOUS, member=True) is False
    with pytest.raises(NeedsKey, match=r"the history of c needs a user.*\(history = .users.\)"):
        permissions(history="users").check("history", "c", ANONYMOUS, member=True)
    with pytest.raises(Denied, match="for nobody"):
        permissions(subscribe="nobody").check("history", "c", ANONYMOUS, member=True)


class TestHandler:
    def test_decides_where_there_is_no_rule(self) -> None:
        rules = permissions(("subscribe", "publish"))
        for action in ACTIONS:
            assert rules.check(action, "c", ANONYMOUS) is True
            assert rules.check(action, "c", KEY) is False

    def test_is_asked_in_addition_to_a_rule(self) -> None:
        rules = permissions(("subscribe",), subscribe="users")
        assert rules.check("subscribe", "c", USER) is True
        with pytest.raises(NeedsKey):
            rules.check("subscribe", "c", ANONYMOUS)

    def test_rule_without_a_handler_refuses(self) -> None:
        with pytest.raises(Denied, match=r"there is none \(publish = .handler.\)"):
            permissions(publish="handler").check("publish", "c", USER)

    def test_is_not_asked_about_a_history_with_its_own_rule(self) -> None:
        assert permissions(("subscribe",), history="anyone").check("history", "c", USER) is False
        assert permissions(("subscribe",), history="handler").check("history", "c", USER) is True


class TestPrivateChannel:
    @pytest.mark.parametrize("rule", RULES)
    def test_needs_a_token_at_least(self, rule: Any) -> None:
        admits = admitted(permissions(subscribe=rule), "subscribe", "$c")
        assert admits == (
            set() if rule == "nobody" else {"key"} if rule == "key" else {"token", "key"}
        )

    def test_subscription_token_is_enough(self) -> None:
        assert permissions().check("subscribe", "$x", ANONYMOUS, Grant("$x")) is False

    def test_handler_is_asked_too(self) -> None:
        assert permissions(("subscribe",)).check("subscribe", "$c", TOKEN) is True


class TestChannelOfUsers:
    @pytest.mark.parametrize(
        ("channel", "admits"),
        [
            ("inbox:#ann", {"user", "token", "key"}),
            ("inbox:#bob,ann", {"user", "token", "key"}),
            ("inbox:#bob", {"key"}),
            ("inbox:#annn", {"key"}),
            ("$c#ann", {"key"}),
        ],
    )
    def test_is_for_them_and_for_keys(self, channel: str, admits: set[str]) -> None:
        assert admitted(permissions(), "subscribe", channel) == admits
        assert admitted(permissions(publish="users"), "publish", channel) == admits

    def test_token_for_it_does_not_replace_the_user(self) -> None:
        with pytest.raises(NeedsKey, match="only for its users"):
            permissions().check("subscribe", "i#bob", TOKEN, Grant("i#bob"))


class TestClosed:
    def test_needs_a_token_a_user_or_a_key(self) -> None:
        rules = permissions(closed=True)
        assert admitted(rules, "subscribe") == set(PEERS) - {"anonymous"}


class TestError:
    @pytest.mark.parametrize(
        ("rules", "action", "peer", "status", "text"),
        [
            ({}, "publish", ANONYMOUS, 401, "publishing to c needs an API key .*(publish = .key.)"),
            ({}, "publish", USER, 403, "publishing to c needs an API key .*(publish = .key.)"),
            (
                {"subscribe": "token"},
                "history",
                USER,
                403,
                r"needs a token .*\(subscribe = .token.\)",
            ),
            (
                {"presence": "nobody"},
                "presence",
                KEY,
                403,
                r"is for nobody \(presence = .nobody.\)",
            ),
            ({"closed": True}, "subscribe", ANONYMOUS, 401, r"\(auth.closed\)"),
        ],
    )
    def test_names_the_setting(
        self, rules: Any, action: Action, peer: Identity, status: int, text: str
    ) -> None:
        with pytest.raises(Denied, match=text) as denied:
            permissions(**rules).check(action, "c", peer)
        assert denied.value.http_status == status

    def test_is_that_of_an_invalid_credential(self) -> None:
        problem = Denied(401, "the token is expired")
        peer = Identity(problem=problem)
        with pytest.raises(Denied) as denied:
            permissions().check("publish", "c", peer)
        assert denied.value is problem
        assert permissions().check("subscribe", "c", peer) is False


def test_key_needs_the_scope_and_the_channel() -> None:
    reader = Identity(key=Key("r", Patterns(("c*",)), frozenset({"read"})))
    rules = permissions(subscribe="key")
    assert rules.check("subscribe", "c1", reader) is False
    for action, channel in (("publish", "c1"), ("subscribe", "d")):
        with pytest.raises(
            NeedsKey, match=r"the key r may not .* (c1|d): it may read on the channels c\*"
        ):
            rules.check(action, channel, reader)  # type: ignore[arg-type]
