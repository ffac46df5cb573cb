"""Single rules of the presence of several nodes; all of them together: test_presence_model.py."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import ClientInfo
from pushserver.errors import Unavailable
from pushserver.redis import node_scripts, presence_scripts, rosters
from pushserver.redis.commands import ErrorReply
from pushserver.redis.connection import Session
from pushserver.redis.failures import Failures
from pushserver.redis.keys import Keys
from pushserver.redis.roll import AT_ONCE
from pushserver.redis.rows import Change, Changed
from pushserver.redis.scripts import Attached
from tests.unit.fakes.web import Trouble
from tests.unit.redis.test_presence_model import LIMIT, NODES, Client, World


@pytest.fixture
def world() -> World:
    return World()


def join(world: World, where: int = 0, observes: bool = False, channel: str = "a") -> Client:
    client = world.join(where, channel, observes)
    assert client is not None
    return client


def calls(world: World, script: Any) -> list[int]:
    """Count the calls of a script from now on, each by the number of its arguments."""
    found: list[int] = []
    run = world.redis._scripts[script.sha]

    def count(keys: Any, arguments: Any) -> Any:
        found.append(len(arguments))
        return run(keys, arguments)

    world.redis._scripts[script.sha] = count
    return found


def log(world: World) -> list[bytes]:
    """The joins and leaves in the log: of each, the sign."""
    signs = []
    for _, fields in world.redis.data.log:
        assert fields[1] == b"presence"
        signs += fields[4::2]
    return signs


def test_clients_of_a_turn_are_told_of_in_one_call(world: World) -> None:
    told = calls(world, presence_scripts.TELL)
    for n in range(AT_ONCE):
        join(world, channel="ab"[n % 2])
    world.settle(1)
    # One fact has three arguments, and the call nine others.
    assert told == [6 + 2 + 3 * AT_ONCE]
    assert world.redis.data.subscribers.counts == {b"a": AT_ONCE / 2, b"b": AT_ONCE / 2}


def test_client_that_joins_and_leaves_again_and_again_is_one_change(world: World) -> None:
    member, told = world.members[0], calls(world, presence_scripts.TELL)
    client = join(world)
    for _ in range(1_000):
        member.leave(client)
        member.join(client, observes=False)
    assert member.log.roll.waiting == 1
    member.leave(client)
    assert member.log.roll.waiting == 0
    world.settle(1)
    assert told == []
    assert world.redis.data.subscribers.members == {}


def test_many_who_leave_at_once_are_told_of_in_parts(world: World) -> None:
    member = world.members[0]
    clients = [join(world) for _ in range(10 * AT_ONCE)]
    world.settle(1)
    told = calls(world, presence_scripts.TELL)
    for client in clients:
        member.leave(client)
    assert member.log.roll.waiting == 10 * AT_ONCE
    world.settle(1)
    assert told == [6 + 1 + 3 * AT_ONCE] * 10
    assert world.redis.data.subscribers.counts == {}


def test_changes_do_not_pile_up_while_redis_is_away(world: World) -> None:
    member = world.members[0]
    here = [join(world) for _ in range(10)]
    world.settle(1)
    for link in member.links:
        link.cut()
    for client in here:
        member.leave(client)
    for _ in range(100):
        # Nobody can know of these.
        member.leave(join(world))
    assert member.log.roll.waiting == 10


def test_nothing_is_told_of_a_channel_whose_presence_nobody_sees(trouble: Trouble) -> None:
    hidden = ChannelOptions(presence="nobody")
    pushed = ChannelOptions(presence="nobody", force_push_join_leave=True)
    world = World(options=lambda name: hidden if name == "a" else pushed)
    told = calls(world, presence_scripts.TELL)
    asked = calls(world, presence_scripts.READ)
    observer, other = join(world, observes=True), join(world, 1)
    presence = world.members[0].node.presence
    assert world.ask(world.members[0], presence.clients("a")) == {"c1": observer.info}
    assert world.ask(world.members[0], presence.stats("a")) == (1, 1)
    world.members[1].leave(other)
    world.settle(1)
    assert (told, asked, observer.pushes) == ([], [], [])
    join(world, 1, channel="b")
    world.settle(1)
    assert len(told) == 1


def test_joins_are_in_the_log_only_while_a_node_wants_them(world: World) -> None:
    join(world)
    world.settle(1)
    assert log(world) == []
    observer = join(world, 1, observes=True)
    world.settle(1)
    join(world)
    world.settle(1)
    assert log(world)[-1] == b"+"
    before = len(log(world))
    world.members[1].leave(observer)
    world.settle(rosters.OBSERVED_SECONDS + 1)
    join(world)
    world.settle(1)
    assert len(log(world)) <= before + 1


def test_crowd_is_not_announced_and_those_that_stay_are_known_when_it_is_none(
    world: World,
) -> None:
    observer = join(world, observes=True)
    world.settle(1)
    others = [join(world, 1) for _ in range(LIMIT + 3)]
    world.settle(1)
    joined = [name for name, has_joined in observer.told.items() if has_joined]
    assert len(joined) == LIMIT - 1
    # The last one tells all that there are too many.
    assert log(world).count(b"+") <= LIMIT + 1
    own = join(world)
    assert own.info.client not in observer.told
    for client in others[:4]:
        world.members[1].leave(client)
    world.members[0].leave(own)
    world.settle(1)
    observer.told.clear()
    world.members[1].leave(others[-1])
    world.settle(1)
    assert observer.told == {others[-1].info.client: False}


def test_presence_is_refused_while_redis_is_away_and_lists_have_those_of_the_server(
    world: World,
) -> None:
    member = world.members[0]
    join(world)
    for link in member.links:
        link.cut()
    for call in (member.node.presence.clients("a"), member.node.presence.stats("a")):
        with pytest.raises(Unavailable):
            world.ask(member, call).raiseException()
    assert world.ask(member, member.node.presence.watchers()) == {"a": 1}
    world.settle(1)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("OOM no memory", ""),
        ("WRONGTYPE x", " (another program has keys there; set another broker.prefix)"),
    ],
)
def test_refusal_is_told_in_the_log_once_and_tried_again(
    world: World, trouble: Trouble, error: str, hint: str
) -> None:
    tell = world.redis._scripts[presence_scripts.TELL.sha]
    world.redis._scripts[presence_scripts.TELL.sha] = lambda *_: ErrorReply(error)
    join(world)
    world.settle(10)
    # Of each node.
    assert trouble.take() == NODES * [
        "Redis has refused what has changed among the subscribers of this server: " + error + hint
    ]
    world.redis._scripts[presence_scripts.TELL.sha] = tell
    world.settle(1)
    assert world.redis.data.subscribers.counts == {b"a": 1}


def test_nobody_leaves_when_redis_accepts_again_after_it_refused_all_nodes(
    world: World, trouble: Trouble
) -> None:
    observer, far = join(world, observes=True), join(world, 1)
    world.settle(1)
    accepts, terms = dict(world.redis._scripts), set(world.redis.data.subscribers.terms)
    for script in (node_scripts.BEAT, presence_scripts.FINISH):
        world.redis._scripts[script.sha] = lambda *_: ErrorReply("NOREPLICAS too few")
    world.settle(15)
    assert world.members[0].log.state.problem == "Redis has too few replicas"
    assert len(trouble.take()) == NODES
    # The others come back one after the other.
    world.redis._scripts.update(accepts)
    world.freeze(1)
    world.settle(3)
    world.thaw(1)
    world.settle(10)
    assert set(world.redis.data.subscribers.terms) == terms
    assert observer.told.get(far.info.client) is not False
    assert world.members[0].log.state.problem == ""
    world.check()


def test_clients_of_a_dead_main_process_that_its_successor_has_do_not_leave(world: World) -> None:
    observer, far = join(world, observes=True), join(world, 1, observes=True)
    world.settle(1)
    before = world.members[0]
    world.kill(0, keeps=False)
    # The workers bring them to the next one, with the same names.
    before.clients.clear()
    again = Client(observer.info.client, "u1", "a")
    world.members[0].join(again, observes=True)
    world.settle(20)
    assert again.told == {}
    assert far.told.get(observer.info.client) is not False
    world.check()


def test_leave_is_told_though_the_answer_about_the_join_was_lost(world: World) -> None:
    member, client = world.members[0], join(world)
    world.pass_on(0.5)
    member.links[0].bring_up()
    # A change of its facts, before the answer, is no proof that Redis does not know it.
    member.node.presence.describe("a", client, b"1")
    member.links[0].cut()
    member.leave(client)
    world.settle(2)
    assert world.redis.data.subscribers.counts == {}


def test_client_that_redis_knows_and_that_comes_and_goes_has_left_in_the_end(world: World) -> None:
    member, client = world.members[0], join(world)
    world.settle(1)
    member.leave(client)
    member.join(client, observes=False)
    member.leave(client)
    world.settle(1)
    assert world.redis.data.subscribers.counts == {}


def test_call_that_arrives_after_a_later_one_does_nothing(world: World) -> None:
    member, client = world.members[0], join(world)
    world.pass_on(0.5)
    member.links[0].cut(strays=True)
    member.leave(client)
    world.settle(2)
    while member.links[0].strays:
        member.links[0].bring_stray()
    assert world.redis.data.subscribers.counts == {}


def member(name: str) -> list[bytes]:
    """A client as Redis has it."""
    return [name.encode(), b"0:\x92\xc4\x00\xc4\x00"]


class Told:
    """The rosters of a node with an observer in `a`, and what they push; Redis answers later."""

    def __init__(self) -> None:
        self.pushed: list[tuple[bool, str]] = []
        self.answer: Deferred[Any] = Deferred()
        session: Any = Session(lambda command: self.answer, "run", Attached("e", 0, 0))
        self.rosters = rosters.Rosters(
            Keys(),
            lambda: session,
            lambda: 0.0,
            lambda term: term.startswith("own:"),
            Failures(str, lambda: 0.0),
        )
        self.rosters.most = lambda: LIMIT
        self.rosters.push = lambda channel, has_joined, info: self.pushed.append(
            (has_joined, info.client)
        )
        self.rosters.observe("a")

    def found(self, place: bytes, *clients: str) -> None:
        """Redis answers, with those of the term `x:1`."""
        self.rosters._terms = ("x:1",)
        again, self.answer = self.answer, Deferred()
        again.callback([0, [b"x:1"], b"0-0"])
        members = [part for name in clients for part in member(name)]
        self.answer.callback([1, place, len(clients), 1, [members]])

    def change(self, place: tuple[int, int], term: str, sign: str, client: str) -> None:
        change = Change(sign == "+", "a", 1, ClientInfo(client))
        self.rosters.changed(Changed(term, (change,)), place)


def test_changes_since_an_observer_is_there_are_told_once_it_is_read_who_is_there() -> None:
    told = Told()
    told.change((0, 0), "x:1", "+", "a")
    told.change((0, 1), "x:1", "+", "d")
    told.change((0, 3), "x:1", "+", "e")
    told.found(b"0-2", "a", "c", "d")
    assert told.pushed == [(True, "d"), (True, "e")]
    # This entry of the log has come late: the reading has it.
    told.pushed.clear()
    late = Told()
    late.found(b"0-2", "a", "c")
    late.change((0, 1), "x:1", "-", "b")
    late.change((0, 2), "x:1", "+", "c")
    late.change((0, 3), "x:1", "-", "c")
    assert late.pushed == [(False, "b"), (True, "c"), (False, "c")]


def test_changes_before_a_later_reading_are_among_those_that_it_finds() -> None:
    told = Told()
    told.found(b"0-0", "c")
    told.rosters.jumped(is_new=False)
    told.answer = Deferred()
    ensureDeferred(told.rosters._load("a"))
    told.change((0, 1), "x:1", "-", "c")
    told.change((0, 3), "x:1", "+", "e")
    told.answer.callback([1, b"0-2", 2, 1, [member("c") + member("d")]])
    assert told.pushed == [(True, "d"), (True, "e")]


def test_client_is_in_the_term_in_which_it_was_told_of_last() -> None:
    told = Told()
    told.found(b"0-0", "c")
    told.change((0, 1), "x:2", "+", "c")
    told.change((0, 2), "x:1", "-", "c")
    told.rosters.changed(Changed("x:1", ()), (0, 3))
    assert told.pushed == []
    told.change((0, 4), "x:2", "-", "c")
    assert told.pushed == [(False, "c")]


def test_session_that_ends_ends_the_reading_of_channels(world: World) -> None:
    member = world.members[0]
    for channel in "abc":
        join(world, observes=True, channel=channel)
    world.settle(1)
    own, sessions = member.log.rosters, [member.log._writer.session]
    own.jumped(is_new=False)

    def session() -> Any:
        # It is over after two calls.
        sessions.append(sessions[0] if len(sessions) < 3 else None)
        assert len(sessions) < 20, "reads again and again"
        return sessions[-1]

    own._session = session
    world.settle(1)
    assert own._queue.keys() <= {*"abc"}
    own._session = lambda: member.log._writer.session
    world.settle(1)
    assert own._queue == {}


def test_facts_that_change_are_told(world: World) -> None:
    client = join(world)
    world.settle(1)
    world.members[0].node.presence.describe("a", client, b'{"x":1}')
    world.settle(1)
    found = world.ask(world.members[1], world.members[1].node.presence.clients("a"))
    assert found == {"c1": ClientInfo("c1", client.info.user, b"", b'{"x":1}')}


def test_other_options_hold_for_those_that_are_there(trouble: Trouble) -> None:
    options = [ChannelOptions()]
    world = World(options=lambda name: options[0])
    observer, other = join(world, observes=True), join(world, 1)
    world.settle(1)
    options[0] = ChannelOptions(presence="nobody")
    for member in world.members:
        member.node.history.reconfigure(lambda name: options[0])
        member.node.presence.reconfigure(LIMIT)
    world.settle(15)
    assert world.redis.data.subscribers.counts == {}
    # It may not know any more who is there.
    world.members[0].node.presence.ignore("a", observer)
    options[0] = ChannelOptions()
    for member in world.members:
        member.node.history.reconfigure(lambda name: options[0])
        member.node.presence.reconfigure(LIMIT)
    world.settle(3)
    assert world.redis.data.subscribers.counts == {b"a": 2}
    world.members[0].node.presence.observe("a", observer)
    world.settle(1)
    world.members[1].leave(other)
    world.settle(1)
    assert observer.told[other.info.client] is False


def test_great_presence_is_read_server_by_server(world: World) -> None:
    for n in range(rosters.FEW + 1):
        join(world, n % 2)
    world.settle(1)
    for member in world.members:
        assert world.ask(member, member.node.presence.stats("a")) == (rosters.FEW + 1, 3)
        assert len(world.ask(member, member.node.presence.clients("a"))) == rosters.FEW + 1


def test_node_that_stops_takes_its_clients_along_at_once(world: World) -> None:
    observer, other = join(world, observes=True), join(world, 1)
    world.settle(1)
    member = world.members[1]
    leaving = Deferred.fromCoroutine(member.log.roll.leave())
    while not leaving.called:
        member.carry()
    world.members[0].carry()
    assert observer.told == {other.info.client: False}
    # What comes later is told of by nobody.
    join(world, 1)
    world.settle(2)
    assert world.redis.data.subscribers.counts == {b"a": 1}
