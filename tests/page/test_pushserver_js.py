"""`static/pushserver.js` in a page without any other script."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.page.site import EIGHT_O_CLOCK_MS, Site

pytestmark = pytest.mark.slow

START = """
async ([url, options]) => {
  const { connect } = await import("/static/pushserver.js");
  window.connect = connect;
  window.server = options === null ? connect() : connect(url ?? undefined, options);
  window.states = [];
  server.onState((state) => states.push(state));
  window.watch = (channel, options = {}, withReset = false) => {
    const notes = [];
    const note = (kind) => (...values) => void notes.push([kind, ...values]);
    if (withReset) options.onReset = note("reset");
    const handlers = { onGap: note("gap"), ...options };
    const watch = server.watch(channel, note("event"), handlers);
    return Object.assign(watch, { notes });
  };
}
"""


def start(site: Site, options: dict[str, Any] | None = None) -> Page:
    """A page with `server`, and `watch(channel, options)` whose result has `notes`."""
    page = site.open_blank()
    page.evaluate(START, [None, options])
    return page


def until(page: Page, condition: str) -> None:
    page.wait_for_function(f"() => {condition}")


def data(page: Page, name: str = "w") -> list[Any]:
    """The data of the events of a watch."""
    found: list[Any] = page.evaluate(
        f"{name}.notes.filter(([kind]) => kind === 'event').map(([, event]) => event.data)"
    )
    return found


def notes(page: Page, kind: str, name: str = "w") -> list[Any]:
    found: list[Any] = page.evaluate(
        f"{name}.notes.filter(([kind]) => kind === {kind!r}).map(([, value]) => value)"
    )
    return found


def watch(page: Page, options: str = "{last: 10}", name: str = "w", reset: bool = False) -> None:
    page.evaluate(f"() => {{ window.{name} = watch('numbers', {options}, {str(reset).lower()}) }}")


def reconnect(site: Site, page: Page) -> None:
    """Close the connections, and wait until the page is connected again."""
    page.evaluate("() => { states.length = 0 }")
    site.close(3001, "shutdown")
    until(page, "states.some(({state}) => state === 'reconnecting')")
    page.evaluate("server.retryNow()")
    until(page, "server.state === 'live'")


def test_an_event_has_one_shape_and_says_whether_it_was_retained(site: Site) -> None:
    site.publish(1)
    page = start(site)
    watch(page)
    until(page, "w.notes.length === 1")
    site.publish({"t": 2}, event="temp")
    until(page, "w.notes.length === 2")
    same = {"info": None, "again": False}
    first = {"data": 1, "event": "message", "offset": 1, "live": False}
    second = {"data": {"t": 2}, "event": "temp", "offset": 2, "live": True}
    assert notes(page, "event") == [
        {**first, **same, "time": EIGHT_O_CLOCK_MS + 1000},
        {**second, **same, "time": EIGHT_O_CLOCK_MS + 2000},
    ]


def test_an_event_of_a_client_has_its_user(site: Site) -> None:
    info = {"client": "c1", "user": "ann", "conn_info": {"name": "Ann"}}
    site.publish("retained", info=info)
    page = start(site)
    watch(page)
    until(page, "w.notes.length === 1")
    site.publish("live", info={"client": "c2", "user": "bob"})
    until(page, "w.notes.length === 2")
    shown = page.evaluate(
        "w.notes.map(([, { info }]) => [info.client, info.user, info.connInfo?.name])"
    )
    assert shown == [["c1", "ann", "Ann"], ["c2", "bob", None]]
    site.recovers, site.keeps = False, 10
    site.publish("missed", info={"client": "c3", "user": "eve"})
    assert page.evaluate("w.more(1).then((found) => found.length)") == 0
    page.evaluate("() => { window.v = watch('numbers', {last: 1}) }")
    until(page, "v.notes.length === 1")
    assert page.evaluate("v.notes[0][1].info.user") == "eve"


def test_events_that_a_new_history_still_has_come_again(site: Site) -> None:
    """As after the kill of a server whose store commits in batches."""
    site.publish(1, 2, 3)
    page = start(site)
    watch(page, reset=True)
    until(page, "w.notes.length === 3")
    page.evaluate("() => { states.length = 0 }")
    site.restart("two", kept=2)
    site.publish("new")
    until(page, "states.some(({state}) => state === 'reconnecting')")
    page.evaluate("server.retryNow()")
    until(page, "w.notes.at(-1)[1]?.data === 'new'")
    site.publish("live")
    until(page, "w.notes.at(-1)[1]?.data === 'live'")
    kinds = page.evaluate("w.notes.slice(3).map(([kind, event]) => event?.again ? 'again' : kind)")
    assert kinds == ["gap", "reset", "again", "again", "event", "event"]


def test_a_watch_of_one_event_gets_no_others_and_older_ones_of_its_name(site: Site) -> None:
    for number in range(1, 9):
        site.publish(number, event="even" if number % 2 == 0 else "odd")
    page = start(site)
    watch(page, "{last: 3, event: 'even'}")
    until(page, "w.notes.length === 2")
    assert data(page) == [6, 8]
    more = "w.more(2).then((found) => found.map(({data}) => data))"
    assert page.evaluate(more) == [2, 4]
    assert page.evaluate(more) == []


def test_a_watch_that_stopped_gets_nothing_and_another_continues(site: Site) -> None:
    page = start(site)
    watch(page, "{last: 10}")
    watch(page, "{last: 10}", "other")
    until(page, "server.state === 'live'")
    site.publish(1)
    until(page, "w.notes.length === 1 && other.notes.length === 1")
    page.evaluate("w.stop()")
    site.publish(2)
    until(page, "other.notes.length === 2")
    assert data(page) == [1]


@pytest.mark.parametrize("last", [10, 20], ids=["of the reply", "of the history"])
def test_a_watch_that_stops_in_its_own_function_gets_no_more(site: Site, last: int) -> None:
    site.publish(*range(1, 9))
    page = start(site)
    watch(page, "{last: 1}", "first")
    if last == 20:  # of a subscription that exists
        until(page, "server.state === 'live'")
        page.evaluate("server.publish('numbers', 0)")
    page.evaluate(
        """(last) => {
      window.found = [];
      window.last = window.server.watch("numbers", ({ data }) => {
        found.push(data);
        if (data === 2) window.last.stop();
      }, { last, onState: ({ state }) => found.push(state), onGap: () => found.push("gap") });
    }""",
        last,
    )
    until(page, "found.includes(2)")
    site.publish(9)
    until(page, "first.notes.at(-1)[1].data === 9")
    assert page.evaluate("found.filter((one) => one !== 'connecting')") == ["live", 1, 2]


def test_a_watch_that_another_function_stops_gets_no_more(site: Site) -> None:
    page = start(site)
    page.evaluate("""() => {
      window.found = [];
      server.watch("numbers", () => second.stop());
      window.second = server.watch("numbers", ({ data }) => found.push(data));
      window.third = watch("numbers");
    }""")
    until(page, "server.state === 'live'")
    page.evaluate("server.publish('numbers', 0)")  # after the subscription
    site.publish(1)
    until(page, "third.notes.length === 1")
    assert page.evaluate("found") == []


def test_watches_of_one_page_have_one_subscription_and_each_its_own_last(site: Site) -> None:
    site.publish(*range(1, 6))
    page = start(site)
    watch(page, "{last: 1}")
    watch(page, "{last: 4}", "more")
    until(page, "more.notes.length === 4")
    watch(page, "{last: 3}", "late")
    until(page, "late.notes.length === 3")
    watch(page, "{last: 0}", "none")
    site.publish(6)
    until(page, "[w, more, late, none].every(({notes}) => notes.at(-1)?.[1].data === 6)")
    assert data(page) == [5, 6]
    assert data(page, "more") == [2, 3, 4, 5, 6]
    assert data(page, "late") == [3, 4, 5, 6]
    assert data(page, "none") == [6]
    assert sum("subscribe" in command for command in site.commands) == 1


def test_a_watch_begins_after_the_position_that_it_is_given(site: Site) -> None:
    site.publish(*range(1, 6))
    page = start(site)
    watch(page, "{since: {epoch: 'one', offset: 3}}")
    until(page, "w.notes.length === 2")
    # These two join the subscription.
    watch(page, "{since: {epoch: 'one', offset: 1}, last: 1}", "late")
    watch(page, "{since: {epoch: 'one', offset: 5}}", "present")
    until(page, "late.notes.length === 4")
    site.publish(6)
    until(page, "[w, late, present].every(({notes}) => notes.at(-1)?.[1].data === 6)")
    assert data(page) == [4, 5, 6]
    assert data(page, "late") == [2, 3, 4, 5, 6]
    assert data(page, "present") == [6]
    assert [event["live"] for event in notes(page, "event")] == [False, False, True]
    assert notes(page, "gap") == notes(page, "gap", "late") == []


@pytest.mark.parametrize("joins", [False, True], ids=["first", "joined"])
def test_a_watch_after_a_position_of_another_history_is_told_of_the_gap(
    site: Site, joins: bool
) -> None:
    site.publish(*range(1, 6))
    page = start(site)
    if joins:
        watch(page, "{last: 0}", "first")
        until(page, "server.state === 'live'")
    watch(page, "{last: 2, since: {epoch: 'before', offset: 3}}")
    until(page, "w.notes.length >= 3")
    site.publish(6)
    until(page, "w.notes.at(-1)[1].data === 6")
    [gap] = notes(page, "gap")
    assert gap["missed"] is None
    assert data(page) == [4, 5, 6]


def test_a_watch_without_last_gets_as_many_after_a_gap_as_a_new_one(site: Site) -> None:
    site.publish(*range(12))
    page = start(site)
    watch(page, "{}")
    until(page, "w.notes.length >= 1")
    first = len(data(page))
    page.evaluate("() => { states.length = 0 }")
    site.restart("two")
    site.publish(*range(100, 112))
    until(page, "states.some(({state}) => state === 'reconnecting')")
    page.evaluate("server.retryNow()")
    until(page, "w.notes.at(-1)[1].data === 111")
    site.publish(112)
    until(page, "w.notes.at(-1)[1].data === 112")
    assert first > 1
    assert data(page)[first:] == list(range(112 - first, 113))


def test_a_watch_after_a_position_of_an_empty_channel_gets_all(site: Site) -> None:
    page = start(site)
    watch(page, "{last: 1, since: {epoch: 'one', offset: 0}}")
    until(page, "server.state === 'live'")
    site.publish(1, 2, 3)
    until(page, "w.notes.length === 3")
    assert data(page) == [1, 2, 3]


def test_a_lost_connection_is_recovered_without_a_gap(site: Site) -> None:
    site.publish(1)
    page = start(site)
    watch(page)
    until(page, "w.notes.length === 1")
    reconnect(site, page)
    site.publish(2)
    until(page, "w.notes.length === 2")
    assert (data(page), notes(page, "gap")) == ([1, 2], [])


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_the_reason_of_a_close_before_the_answer_to_connect_is_shown(
    site: Site, first: bool
) -> None:
    """A page that watches too many channels is closed like this."""
    reason = "more than 256 commands wait (queued_commands)"
    site.rejection = (3013, reason) if first else None
    page = start(site)
    if not first:
        until(page, "server.state === 'live'")
        site.rejection = (3013, reason)
        site.close(3001, "shutdown")
    until(page, f"server.reason === {reason!r}")
    site.rejection = None
    until(page, "server.state === 'live'")
    assert page.evaluate("server.reason") == ""


@pytest.mark.parametrize("last", [2, 10])
def test_a_failed_recovery_gives_no_event_twice_and_says_how_many_are_missing(
    site: Site, last: int
) -> None:
    site.publish(1)
    page = start(site)
    watch(page, f"{{last: {last}}}")
    until(page, "w.notes.length === 1")
    site.recovers = False
    page.evaluate("() => { states.length = 0 }")
    site.down = True
    site.close(3001, "shutdown")
    until(page, "states.length > 0")
    site.publish(*range(2, 6))
    site.down = False
    page.evaluate("server.retryNow()")
    until(page, "w.notes.at(-1)[1].data === 5")
    if last == 2:
        assert data(page) == [1, 4, 5]
        assert [gap["missed"] for gap in notes(page, "gap")] == [2]
    else:
        assert data(page) == [1, 2, 3, 4, 5]
        assert notes(page, "gap") == []


def test_a_page_that_starts_again_gets_the_newest_events_again(site: Site) -> None:
    site.publish(1, 2)
    page = start(site)
    watch(page, "{last: 2}", reset=True)
    until(page, "w.notes.length === 2")
    site.recovers = False
    reconnect(site, page)
    until(page, "w.notes.length === 5")
    kinds = page.evaluate("w.notes.map(([kind, event]) => event?.again ? 'again' : kind)")
    assert kinds == ["event", "event", "reset", "again", "again"]


def test_a_new_history_is_a_gap_of_unknown_length(site: Site) -> None:
    site.publish(1, 2)
    page = start(site)
    watch(page)
    until(page, "w.notes.length === 2")
    page.evaluate("() => { states.length = 0 }")
    site.restart("two")
    site.publish("first of two")
    until(page, "states.some(({state}) => state === 'reconnecting')")
    page.evaluate("server.retryNow()")
    until(page, "w.notes.at(-1)[1].data === 'first of two'")
    assert data(page) == [1, 2, "first of two"]
    assert [gap["missed"] for gap in notes(page, "gap")] == [None]
    assert "new history" in notes(page, "gap")[0]["reason"]


def test_a_history_without_an_answer_is_a_gap_and_later_events_come(site: Site) -> None:
    site.publish(1, 2)
    page = start(site)
    watch(page)
    until(page, "w.notes.length === 2")
    site.recovers, site.silent = False, ("history",)
    site.publish(3)
    until(page, "w.notes.length === 3")
    reconnect(site, page)
    site.wait_for(page, lambda: any("history" in command for command in site.commands))
    site.publish(4)
    until(page, "w.notes.some(([kind]) => kind === 'gap')")
    until(page, "w.notes.at(-1)[1].data === 4")
    assert data(page) == [1, 2, 3, 4]
    reason = "the history could not be read: the server did not answer in time"
    assert notes(page, "gap") == [{"missed": None, "reason": reason}]


@pytest.mark.parametrize("recovers", [True, False], ids=["recovered", "not recovered"])
def test_a_watch_whose_first_history_is_cut_off_gets_it_after_the_reconnect(
    site: Site, recovers: bool
) -> None:
    site.publish(1, 2, 3)
    page = start(site)
    watch(page, "{last: 1}")
    until(page, "w.notes.length === 1")
    site.recovers, site.silent = recovers, ("history",)
    watch(page, "{last: 2}", "late")
    site.wait_for(page, lambda: any("history" in command for command in site.commands))
    site.silent, site.down = (), True
    page.evaluate("() => { states.length = 0 }")
    site.close(3001, "shutdown")
    until(page, "states.some(({state}) => state === 'reconnecting')")
    site.publish(4)
    site.down = False
    page.evaluate("server.retryNow()")
    until(page, "w.notes.at(-1)[1].data === 4 && late.notes.length >= 2")
    site.publish(5)
    until(page, "late.notes.at(-1)[1].data === 5")
    assert data(page, "late") == [3, 4, 5]
    assert notes(page, "gap", "late") == []
    assert not any(event["again"] for event in notes(page, "event", "late"))


def test_older_events_come_oldest_first_until_there_are_none(site: Site) -> None:
    site.publish(*range(1, 8))
    page = start(site)
    watch(page, "{last: 2}")
    until(page, "w.notes.length === 2")
    # At once: each continues from the one before.
    found = page.evaluate("Promise.all([w.more(3), w.more(3), w.more(3)])")
    assert [[event["data"] for event in events] for events in found] == [[3, 4, 5], [1, 2], []]
    assert {event["live"] for events in found for event in events} == {False}


def test_a_call_has_the_answer_or_the_error_of_the_application(site: Site) -> None:
    site.answers = {
        "vote": {"rpc": {"data": {"tea": 3}}},
        "late": {"error": {"code": 403, "message": "voting is over"}},
    }
    page = start(site)
    assert page.evaluate("server.call('vote', 'tea')") == {"tea": 3}
    failed = page.evaluate(
        "server.call('late').catch((error) => [error instanceof Error, error.code, error.message])"
    )
    assert failed == [True, 403, "voting is over"]


def test_messages_go_to_the_listeners_of_their_event(site: Site) -> None:
    page = start(site)
    page.evaluate("""() => {
      window.heard = [];
      window.remove = server.on("price", (data) => heard.push(["price", data]));
      server.on("message", (data) => heard.push(["message", data]));
    }""")
    until(page, "server.state === 'live'")
    site.tell({"event": "price", "data": 3})
    site.tell("plain")
    site.tell({"event": "price", "data": 3, "more": 1})
    until(page, "heard.length === 3")
    page.evaluate("remove()")
    site.tell({"event": "price", "data": 4})
    site.tell("end")
    until(page, "heard.at(-1)[1] === 'end'")
    whole = {"event": "price", "data": 3, "more": 1}
    heard = [["price", 3], ["message", "plain"], ["message", whole], ["message", "end"]]
    assert page.evaluate("heard") == heard


def test_the_data_of_connect_arrives_and_its_fallbacks_have_no_url_with_it(site: Site) -> None:
    page = start(site, {"data": {"password": "s3cret"}, "name": "till"})
    until(page, "server.state === 'live'")
    connects = [command["connect"] for command in site.commands if "connect" in command]
    assert connects[0]["data"] == {"password": "s3cret"}
    assert connects[0]["name"] == "till"


def test_a_token_arrives_and_a_new_one_is_requested(site: Site) -> None:
    page = start(site, {"token": "first"})
    until(page, "server.state === 'live'")
    page.evaluate("connect({ getToken: async () => 'second' })")
    site.wait_for(page, lambda: len([c for c in site.commands if "connect" in c]) == 2)
    tokens = [c["connect"].get("token") for c in site.commands if "connect" in c]
    assert tokens == ["first", "second"]


def test_an_error_of_one_handler_costs_no_other_its_event(site: Site) -> None:
    site.allowed = ("error: of the handler",)
    page = start(site)
    page.evaluate("() => { server.watch('numbers', () => { throw Error('of the handler') }) }")
    watch(page)
    until(page, "server.state === 'live'")
    site.publish(1)
    until(page, "w.notes.length === 1")


def test_a_closed_server_makes_no_calls_and_another_one_does(site: Site) -> None:
    site.answers = {"vote": {"rpc": {"data": 1}}}
    page = start(site)
    page.evaluate("""() => {
      const states = [];
      const onState = ({ state, reason }) => void states.push([state, reason]);
      window.w = Object.assign(watch("numbers", { onState }), { states });
    }""")
    until(page, "w.states.at(-1)?.[0] === 'live'")
    page.evaluate("server.close()")
    assert page.evaluate("[server.state, server.reason]") == ["closed", "closed by the page"]
    assert page.evaluate("w.states.at(-1)") == ["closed", "closed by the page"]
    refused = "server.call('vote').catch((error) => error.message)"
    assert "connection is closed" in page.evaluate(refused)
    listening = "() => { try { server.on('a', () => {}) } catch ({message}) { return message } }"
    assert "connection is closed" in page.evaluate(listening)
    assert page.evaluate("connect().call('vote')") == 1


def test_two_servers_of_a_page_share_a_connection(site: Site) -> None:
    page = start(site)
    page.evaluate("() => { window.second = connect() }")
    until(page, "server.state === 'live' && second.state === 'live'")
    page.evaluate("server.close()")
    site.answers = {"vote": {"rpc": {"data": 1}}}
    assert page.evaluate("second.call('vote')") == 1
    assert sum("connect" in command for command in site.commands) == 1


WRONG = [
    ("connect('ftp://push.test')", 'the URL is "ftp://push.test"'),
    ("connect('http://')", 'the URL is "http://", which is not a URL'),
    ("connect(3)", "the URL is 3, expected a text or a URL"),
    ("connect('https://push.test/connection/websocket')", "without /connection/..."),
    ("connect({dat: 3})", 'no option "dat"; there are data, getToken, key, name'),
    ("connect({data: 1n})", "data is of another type, expected a value of JSON"),
    ("connect({name: 3})", "name is 3, expected a text"),
    ("server.watch()", "the channel is undefined, expected a name"),
    ("server.watch('')", 'the channel is "", expected a name'),
    ("server.watch('a b', () => {})", 'the channel is "a b"'),
    ("server.watch('a')", "onEvent is undefined, expected a function"),
    ("server.watch('a', {})", "onEvent is an object, expected a function"),
    ("server.watch('a', () => {}, {last: -1})", "last is -1, expected an integer"),
    ("server.watch('a', () => {}, {since: '1'})", 'since is "1", expected {epoch, offset}'),
    ("server.watch('a', () => {}, {since: {epoch: ''}})", "since is an object, expected {epoch"),
    ("server.watch('a', () => {}, {onGap: 3})", "onGap is 3, expected a function"),
    ("server.watch('a', () => {}, {las: 3})", 'no option "las"'),
    ("server.watch('a', () => {}, 3)", "the options are 3"),
    ("server.watch('a', () => {}).more(0)", "the number is 0, expected 1 or more"),
    ("server.on('a')", "listener is undefined, expected a function"),
    ("server.on(3, () => {})", "the event is 3, expected its name"),
]


def test_wrong_arguments_are_named(site: Site) -> None:
    page = start(site)
    for code, words in WRONG:
        message = page.evaluate(f"() => {{ try {{ {code} }} catch (e) {{ return String(e) }} }}")
        assert message.startswith("TypeError: "), code
        assert words in message
    for event, shown in (
        ("3", "3"),
        ("undefined", "undefined"),
        ("''", '""'),
        ("() => {}", "a function"),
    ):
        message = page.evaluate(f"() => server.call({event}, 1).catch(String)")
        assert message == f"TypeError: call(): the event is {shown}, expected its name"


def test_the_types_name_what_the_module_has(site: Site) -> None:
    page = start(site)
    module = page.evaluate("import('/static/pushserver.js').then(Object.keys)")
    watch(page)
    own = page.evaluate("Object.getOwnPropertyNames(Object.getPrototypeOf(server))")
    types = site.file("static/pushserver.d.ts")
    assert set(module) == set(re.findall(r"^export function (\w+)", types, re.MULTILINE))
    for name in {*own, *page.evaluate("Object.keys(w)")} - {"constructor", "notes"}:
        assert f"  {name}" in types or f"readonly {name}" in types, name
