"""Several tabs of a browser share one connection of `static/pushserver.js`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import Error, Page

from tests.page.site import SECURE, Site
from tests.page.test_pushserver_js import START, data, notes, until, watch

pytestmark = pytest.mark.slow

DOUBT = "document.dispatchEvent(new Event('visibilitychange'))"
"""A visible tab asks the leader whether it is there."""

COUNT_MESSAGES = """
window.messages = [];
const Channel = BroadcastChannel;
window.BroadcastChannel = class extends Channel {
  constructor(name) {
    super(name);
    this.addEventListener("message", ({ data }) => messages.push(JSON.stringify(data)));
  }
};
"""


def open_tab(site: Site, options: dict[str, Any] | None = None) -> Page:
    page = site.open_blank(SECURE)
    page.evaluate(START, [None, options])
    until(page, "server.state === 'live'")
    return page


def open_tabs(site: Site, count: int, options: str = "{last: 10}") -> list[Page]:
    """Tabs that watch; the first of them leads."""
    tabs = [open_tab(site) for _ in range(count)]
    for tab in tabs:
        watch(tab, options)
    return tabs


def show(tabs: list[Page], *expected: object) -> None:
    """Wait until each tab has these data, each once and in order."""
    for tab in tabs:
        tab.wait_for_function("(count) => w.notes.length >= count", arg=len(expected))
        assert data(tab) == list(expected)
        assert notes(tab, "gap") == []


def connects(site: Site) -> int:
    return sum("connect" in command for command in site.commands)


def test_tabs_share_a_connection_and_a_subscription(site: Site) -> None:
    site.publish(1)
    tabs = open_tabs(site, 3)
    show(tabs, 1)
    site.publish(2)
    show(tabs, 1, 2)
    assert connects(site) == 1
    assert sum("subscribe" in command for command in site.commands) == 1


def test_tabs_have_each_its_own_last(site: Site) -> None:
    site.publish(*range(20))
    tabs = [open_tab(site) for _ in range(4)]
    for tab, options in zip(tabs, ("{last: 1}", "{last: 3}", "{}", "{last: 0}"), strict=True):
        watch(tab, options)
    show(tabs[:1], 19)
    show(tabs[1:2], 17, 18, 19)
    show(tabs[2:3], *range(10, 20))
    site.publish(20)
    show(tabs[3:], 20)


@pytest.mark.parametrize("change", ["data.list.push(2)", "data.node = document.body"])
def test_data_that_a_tab_changes_arrives_unchanged_in_the_others(site: Site, change: str) -> None:
    """The functions of the leader have an event before it is sent to the other tabs."""
    tabs = [open_tab(site) for _ in range(3)]
    tabs[0].evaluate(f"() => {{ server.watch('numbers', ({{ data }}) => {{ {change} }}) }}")
    tabs[0].evaluate("() => { server.on('price', (data) => { data.node = document.body }) }")
    for tab in tabs[1:]:
        watch(tab)
        tab.evaluate("() => { server.on('price', ({ sum }) => (window.price = sum)) }")
        tab.evaluate("server.publish('numbers', 0)")  # after the watch
    site.publish({"list": [1]})
    site.tell({"event": "price", "data": {"sum": 31}})
    for tab in tabs[1:]:
        until(tab, "window.price === 31")
    show(tabs[1:], {"list": [1]})


def test_a_tab_that_watches_nothing_receives_no_events(site: Site) -> None:
    site.run_first(COUNT_MESSAGES)
    [leader, watcher] = open_tabs(site, 2)
    idle = open_tab(site)
    site.publish(*(f"event {number}" for number in range(50)))
    show([leader, watcher], *(f"event {number}" for number in range(50)))
    assert "event 49" in watcher.evaluate("messages.join()")
    assert "event" not in idle.evaluate("messages.join()")


def test_each_tab_gets_the_answer_to_its_own_call(site: Site) -> None:
    site.answers = {
        "vote": {"rpc": {"data": 7}},
        "late": {"error": {"code": 403, "message": "voting is over"}},
    }
    _, follower = open_tab(site), open_tab(site)
    assert follower.evaluate("server.call('vote', {tea: 1})") == 7
    failed = "server.call('late').catch(({code, message}) => [code, message])"
    assert follower.evaluate(failed) == [403, "voting is over"]
    assert connects(site) == 1


def test_messages_of_the_application_come_to_the_tabs_that_listen(site: Site) -> None:
    site.run_first(COUNT_MESSAGES)
    _, follower, idle = open_tab(site), open_tab(site), open_tab(site)
    follower.evaluate("() => { server.on('price', (data) => (window.price = data)) }")
    assert follower.evaluate("server.publish('numbers', 1)") is None  # after the listener
    site.tell({"event": "price", "data": 31})
    until(follower, "window.price === 31")
    assert "price" not in idle.evaluate("messages.join()")


def test_the_next_tab_takes_over_from_one_that_closed(site: Site) -> None:
    tabs = open_tabs(site, 3)
    site.publish(1)
    show(tabs, 1)
    tabs[0].close()
    site.publish(2, 3)
    show(tabs[1:], 1, 2, 3)
    site.publish(4)
    show(tabs[1:], 1, 2, 3, 4)
    assert connects(site) == 2


def test_the_next_tab_takes_over_from_one_that_crashed(site: Site) -> None:
    tabs = open_tabs(site, 3)
    site.publish(1)
    show(tabs, 1)
    crashed: list[Page] = []
    tabs[0].on("crash", lambda page: crashed.append(page))
    with suppress(Error):  # the page cannot answer
        tabs[0].goto("chrome://crash")
    site.wait_for(tabs[1], lambda: len(crashed) == 1)
    site.publish(2)
    show(tabs[1:], 1, 2)
    site.publish(3)
    show(tabs[1:], 1, 2, 3)


def test_a_tab_takes_over_from_one_that_is_frozen(site: Site) -> None:
    tabs = open_tabs(site, 2)
    site.publish(1)
    show(tabs, 1)
    session = tabs[0].context.new_cdp_session(tabs[0])
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    site.publish(2)
    show(tabs[1:], 1, 2)
    session.send("Page.setWebLifecycleState", {"state": "active"})
    site.publish(3)
    show(tabs, 1, 2, 3)
    assert site.connections == 1


def test_a_visible_tab_takes_over_from_one_that_does_not_answer(site: Site) -> None:
    tabs = open_tabs(site, 2)
    site.publish(1)
    show(tabs, 1)
    session = tabs[0].context.new_cdp_session(tabs[0])
    session.send("Debugger.enable")
    session.send("Debugger.pause")
    tabs[1].evaluate(DOUBT)
    tabs[1].wait_for_function("() => states.some(({state}) => state === 'reconnecting')")
    until(tabs[1], "server.state === 'live'")
    site.publish(2)
    show(tabs[1:], 1, 2)
    session.send("Debugger.disable")
    show(tabs, 1, 2)
    site.publish(3)
    show(tabs, 1, 2, 3)
    site.wait_for(tabs[1], lambda: site.connections == 1)


def test_a_tab_takes_over_though_the_clock_was_set_back(site: Site) -> None:
    tabs = open_tabs(site, 2)
    session = tabs[0].context.new_cdp_session(tabs[0])
    session.send("Debugger.enable")
    session.send("Debugger.pause")
    tabs[1].evaluate(DOUBT)
    tabs[1].evaluate("""() => {
      const now = Date.now;
      Date.now = () => now() - 3_600_000;
    }""")
    tabs[1].wait_for_function("() => states.some(({state}) => state === 'reconnecting')")
    until(tabs[1], "server.state === 'live'")
    site.publish(1)
    show(tabs[1:], 1)
    session.send("Debugger.disable")
    show(tabs, 1)


def test_a_lost_connection_is_recovered_in_all_tabs(site: Site) -> None:
    tabs = open_tabs(site, 3)
    site.publish(1)
    show(tabs, 1)
    site.down = True
    site.close(3001, "shutdown")
    site.publish(2)
    words = "shutting down"
    until(
        tabs[2],
        f"states.some((s) => s.state === 'reconnecting' && s.reason.includes({words!r}))",
    )
    site.down = False
    tabs[2].evaluate("server.retryNow()")
    show(tabs, 1, 2)


def test_a_new_history_is_a_gap_in_all_tabs(site: Site) -> None:
    tabs = open_tabs(site, 3)
    site.publish(1)
    show(tabs, 1)
    site.restart("two")
    site.publish("new")
    for tab in tabs:
        until(tab, "w.notes.at(-1)[1].data === 'new'")
        assert data(tab) == [1, "new"]
        assert [gap["missed"] for gap in notes(tab, "gap")] == [None]


def test_a_tab_that_comes_when_events_come_misses_none(site: Site) -> None:
    [first] = open_tabs(site, 1)
    second = open_tab(site)
    for number in range(1, 101):
        site.publish(number)
        if number == 50:
            watch(second, "{last: 50}")
    until(first, "w.notes.length === 100")
    until(second, "w.notes.at(-1)?.[1].data === 100")
    found = data(second)
    assert found == list(range(found[0], 101))
    assert notes(second, "gap") == []


def test_tabs_of_two_users_have_two_connections_and_no_name_has_the_secret(site: Site) -> None:
    site.run_first(COUNT_MESSAGES)
    ann, bob = {"data": {"password": "ann's"}}, {"data": {"password": "bob's"}}
    tabs = [open_tab(site, options) for options in (ann, bob, ann, {"token": "t"}, {"token": "u"})]
    assert connects(site) == 4
    locks = tabs[0].evaluate("navigator.locks.query().then((found) => JSON.stringify(found))")
    assert "ann" not in locks
    assert all("ann" not in tab.evaluate("messages.join()") for tab in tabs)


def test_a_page_may_choose_who_shares(site: Site) -> None:
    open_tab(site, {"share": False})
    open_tab(site, {"share": False})
    assert connects(site) == 2
    # The name of a user, whose token is new on each page.
    open_tab(site, {"share": "ann", "token": "one"})
    open_tab(site, {"share": "ann", "token": "two"})
    open_tab(site, {"share": "bob", "token": "three"})
    assert connects(site) == 4


def test_a_tab_that_closed_its_server_leaves_the_connection_to_the_others(site: Site) -> None:
    tabs = open_tabs(site, 3)
    site.publish(1)
    show(tabs, 1)
    tabs[1].evaluate("server.close()")
    tabs[0].evaluate("server.close()")
    site.publish(2)
    show(tabs[2:], 1, 2)
    assert site.connections == 1


def test_without_locks_each_tab_has_its_own_connection(site: Site) -> None:
    for _ in range(2):
        page = site.open_blank()
        page.evaluate(START, [None, None])
        until(page, "server.state === 'live'")
    assert connects(site) == 2
