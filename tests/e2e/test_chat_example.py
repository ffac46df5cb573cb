"""examples/chat: two browsers and more, late-comers, moderators, a restart and two workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.blocks import block_with
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import LINES, ask
from tests.e2e.server import CHECKOUT, Server, environment, running
from tests.e2e.test_browser import AXE, describe
from tests.e2e.visits import LOST_CONNECTION, Visits

KEY = "correct-horse-battery-staple"
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 640}, "has_touch": True}


def chat(folder: Path, *options: str) -> Server:
    """The server of the command in the README."""
    command = block_with("examples/chat/README.md", "\npushserver serve ").text.partition(
        " serve "
    )[2]
    arguments = command.replace("examples/", f"{CHECKOUT}/examples/").split()
    env = environment(PUSHSERVER_AUTH_API_KEYS=KEY)
    return Server(folder, *arguments, *options, env=env, serve=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(chat(tmp_path_factory.mktemp("chat"))) as server:
        yield server


@pytest.fixture
def visits(browser: Browser, server: Server) -> Iterator[Visits]:
    with closing(Visits(browser, server.url)) as visits:
        yield visits
    assert visits.problems == []


def check(page: Page) -> None:
    """No finding of axe, and nothing wider than the window."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [describe(violation) for violation in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def enter(visits: Visits, name: str, key: str = "", inside: bool = True, **options: Any) -> Page:
    page = visits.open(**options)
    page.fill("#name", name)
    if key:
        page.click("summary")
        page.fill("#key", key)
    page.click("text=Come in")
    if inside:
        expect(page.locator("#state")).to_have_text("Connected.")
    return page


def say(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")
    expect(page.locator("#text")).to_have_value("")


def shows(page: Page, *texts: str) -> None:
    """Wait until these are the last messages."""
    wait_until(lambda: page.locator("#messages .text").all_inner_texts()[-len(texts) :] == [*texts])


def seed(server: Server, count: int, word: str) -> None:
    """What a person who has left had said."""
    said = ({"name": "Zoe", "person": "zoe", "text": f"{word} {n}"} for n in range(1, count + 1))
    body = "\n".join(map(json.dumps, said)).encode()
    answer = ask(server, "POST", "channels/said", body, X_API_Key=KEY, Content_Type=LINES)
    assert answer.status == 201, answer


def test_people_talk(visits: Visits) -> None:
    ann = enter(visits, " Ann ", color_scheme="dark")
    expect(ann.locator("#beginning")).to_be_visible()
    expect(ann.locator("#older")).to_be_hidden()
    ben = enter(visits, "Ben", **PHONE)
    expect(ann.locator("#people")).to_have_text("Here: you and Ben")
    expect(ben.locator("#people")).to_have_text("Here: you and Ann")
    ann.locator("#text").press_sequentially("<b>h")
    expect(ben.locator("#typing")).to_have_text("Ann is typing…")
    expect(ann.locator("#typing")).to_have_text("")
    hostile = "<b>hello</b> <img src=x onerror=alert(1)> &amp; \u202eolleh\nsecond line"
    say(ann, hostile)
    expect(ben.locator("#typing")).to_have_text("")
    say(ben, "x" * 1000)
    # Somebody who comes late, and whose browser keeps nothing, has it too.
    cleo = visits.open(color_scheme="light")
    cleo.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw 1; }})")
    cleo.reload()
    cleo.fill("#name", "Cleo")
    cleo.press("#name", "Enter")
    for page in (ann, ben, cleo):
        shows(page, hostile, "x" * 1000)
        expect(page.locator("#messages b").first).to_have_text("Ann")
        assert page.locator("#messages").locator("img, b b, .text b").count() == 0
        check(page)
    expect(ann.locator("#people")).to_have_text("Here: you, Ben and Cleo")
    for name, reason in {
        "ANN": "Ann is here already: take another name",
        "   ": "a name has 1 to 30 characters",
        "A" * 29 + "㎯": "a name has 1 to 30 characters",  # four characters when it is normalized
        "Ann\u202e": "the name has a character that is not printable: U+202E",
        "\u200b": "the name has a character that is not printable: U+200B",
    }.items():
        other = enter(visits, name, inside=False)
        expect(other.locator("#state")).to_have_text(f"You are out: {reason}.")
        expect(other.locator("#enter")).to_be_visible()
    check(other)
    # A reload is no farewell, and another tab of the browser is the same person.
    ann.reload()
    shows(ann, hostile, "x" * 1000)
    second = ann.context.new_page()
    second.goto(visits.url)
    say(second, "from another tab")
    shows(ann, "from another tab")
    expect(ann.locator("#messages .own")).to_have_count(2)
    expect(ann.locator("#people")).to_have_text("Here: you, Ben and Cleo")
    ben.click("text=Leave")
    expect(ben.locator("#enter")).to_be_visible()
    expect(cleo.locator("#people")).to_have_text("Here: you and Ann")
    # Who takes a name that was somebody else's is told apart.
    say(enter(visits, "Ben"), "another Ben")
    shows(cleo, "from another tab", "another Ben")
    expect(cleo.locator("#messages b").last).to_have_text("Ben (2)")


def test_history_unread_and_moderation(server: Server, visits: Visits) -> None:
    seed(server, 80, "early")
    dan = enter(visits, "Dan")
    moderator = enter(visits, "Mia", KEY)
    shows(dan, "early 80")
    expect(dan.locator("#messages .text")).to_have_count(50)
    dan.click("text=Older messages")
    expect(dan.locator("#messages .text", has_text="early 1").first).to_have_text("early 1")
    # Still at the same message, so what comes now is not read.
    seed(server, 30, "late")
    expect(dan.locator("#unread")).to_have_text("30 new ↓")
    expect(dan).to_have_title("(30) Chat")
    assert dan.locator("#messages .new + p .text").inner_text() == "late 1"
    dan.click("#unread")
    expect(dan).to_have_title("Chat")
    expect(dan.locator("#messages .text").last).to_be_in_viewport()
    # The mark is there for who comes back, too.
    dan.goto("about:blank")
    seed(server, 3, "away")
    dan.goto(visits.url)
    shows(dan, "away 1", "away 2", "away 3")
    assert dan.locator("#messages .new + p .text").inner_text() == "away 1"
    expect(dan).to_have_title("Chat")
    for _ in range(2):
        count = dan.locator("#messages .text").count()
        dan.click("#older")
        expect(dan.locator("#messages .text").nth(count)).to_be_attached()
    expect(dan.locator("#beginning")).to_be_visible()
    expect(dan.locator("#older")).to_be_hidden()
    # Moderation.
    say(dan, "something bad")
    assert dan.locator("#messages button").count() == 0
    row = moderator.locator("#messages p", has_text="something bad")
    row.locator("text=Remove").click()
    for page in (dan, moderator):
        shows(page, "away 3", "removed by a moderator")
    check(moderator)
    expect(dan.locator("body")).not_to_contain_text("something bad")
    seed(server, 60, "more")
    late = enter(visits, "Late")
    shows(late, "more 60")
    late.click("#older")
    expect(late.locator("#messages", has_text="removed by a moderator")).to_be_visible()
    expect(late.locator("body")).not_to_contain_text("something bad")
    say(dan, "once more")
    moderator.locator("#messages p", has_text="once more").locator("text=Put out").click()
    out = "You are out: a moderator has put you out."
    expect(dan.locator("#state")).to_have_text(out)
    dan.reload()
    expect(dan.locator("#state")).to_have_text(out)
    dan.fill("#name", "Daniel")
    dan.evaluate("document.getElementById('state').textContent = ''")
    dan.click("text=Come in")
    expect(dan.locator("#state")).to_have_text(out)
    refused = "async () => { const { connect } = await import('/static/pushserver.js');"
    refused += "const server = connect({ data: { name: 'Eve', secret: 'x'.repeat(16) } });"
    refused += "const zoe = { name: 'Zoe', person: 'zoe' };"
    refused += "const orders = [['remove', 1], ['put out', zoe], ['put out', 'zoe'],"
    refused += " ['say', 'x'], ['say', null]];"
    refused += (
        "const results = await Promise.allSettled(orders.map((order) => server.call(...order)));"
    )
    refused += "return results.map(({ reason }) => reason.message); }"
    assert late.evaluate(refused) == [
        "only moderators remove messages",
        "only moderators put people out",
        "expected the name and the person of a message",
        "a message has 1 to 1,000 characters",
        "a message has 1 to 1,000 characters",
    ]
    wrong = enter(visits, "Eve", "not-the-key", inside=False)
    expect(wrong.locator("#state")).to_contain_text("key")
    # Who has not entered reads nothing.
    assert server.get("channels/said").status == 403
    # A restart loses nothing.
    visits.allow(LOST_CONNECTION)
    server.stop()
    server.start()
    say(late, "after the restart")
    for page in (late, moderator):
        shows(page, "once more", "after the restart")
        expect(page.locator("#state")).to_have_text("Connected.")
    dan.reload()
    expect(dan.locator("#state")).to_have_text(out)
    dan.click("summary")
    dan.fill("#key", KEY)
    dan.click("text=Come in")
    expect(dan.locator("#state")).to_have_text("Connected.")
    # What is not read is of no interest to somebody who leaves.
    late.locator("#talk").evaluate(
        "(talk) => new Promise((done) => { talk.addEventListener('scroll', done, { once: true });"
        " talk.scrollTop = 0; })"
    )
    seed(server, 1, "last")
    expect(late).to_have_title("(1) Chat")
    late.click("text=Leave")
    expect(late).to_have_title("Chat")


def test_flood_is_refused(server: Server, visits: Visits) -> None:
    ann = enter(visits, "Flo")
    flood = """async () => {
      const { connect } = await import("/static/pushserver.js");
      const server = connect({ data: { name: "Mob", secret: "0123456789abcdef" } });
      const say = (_, n) => server.call("say", { text: `spam ${n}`, id: `${n}` });
      const results = await Promise.allSettled(Array.from({ length: 200 }, say));
      return results.filter(({ status }) => status === "rejected").length;
    }"""
    assert visits.open().evaluate(flood) > 0
    answer = ask(server, "GET", "channels/said?last=300", X_API_Key=KEY)
    assert answer.text.count('"spam ') <= 110
    say(ann, "still here")
    shows(ann, "still here")


def test_works_with_workers(browser: Browser, tmp_path: Path) -> None:
    with (
        running(chat(tmp_path, "--workers", "2")) as server,
        closing(Visits(browser, server.url)) as visits,
    ):
        seed(server, 50, "early")  # all that a page asks for at first
        people = [enter(visits, name) for name in ("Ann", "Ben", "Cleo")]
        for page in people:
            expect(page.locator("#beginning")).to_be_visible()
            expect(page.locator("#older")).to_be_hidden()
            expect(page.locator("#people")).to_contain_text(" and ")
            say(page, f"hello {page.input_value('#name')}")
        for page in people:
            shows(page, "hello Ann", "hello Ben", "hello Cleo")
        taken = enter(visits, "ben", inside=False)
        expect(taken.locator("#state")).to_contain_text("Ben is here already")
    assert visits.problems == []
