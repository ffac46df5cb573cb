"""examples/notifications: users in several browsers and tabs, the desktop, and another origin."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import pushserver
from tests.e2e.blocks import block_with
from tests.e2e.exchange import publish
from tests.e2e.server import CHECKOUT, Server, environment, free_port, running
from tests.e2e.test_browser import AXE, describe
from tests.e2e.visits import LOST_CONNECTION, Visits

EXAMPLE = CHECKOUT / "examples" / "notifications"
SECRET = "a secret of the test, long enough for HS256"
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 640}, "color_scheme": "dark"}
AWAY = "() => { document.hasFocus = () => false; }"
# The browser under test denies its own notifications.
DESKTOP = """
window.shown = [];
window.Notification = class {
  static permission = "default";
  static async requestPermission() { return (Notification.permission = "granted"); }
  constructor(title, options) { shown.push({ title, ...options, notification: this }); }
  close() { shown.find(({ notification }) => notification === this).closed = true; }
};
"""


@pytest.fixture(scope="module")
def other_site() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", free_port()), SimpleHTTPRequestHandler) as site:
        yield site


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, other_site: ThreadingHTTPServer
) -> Iterator[Server]:
    command = block_with("examples/notifications/README.md", "\nPUSH").text.partition(
        " pushserver serve "
    )[2]
    env = environment(
        PUSHSERVER_AUTH_TOKEN_SECRET=SECRET,
        PUSHSERVER_SERVER_ALLOWED_ORIGINS=f"http://localhost:{other_site.server_port}",
    )
    arguments = command.replace("examples/", f"{CHECKOUT}/examples/").split()
    folder = tmp_path_factory.mktemp("notifications")
    with running(Server(folder, *arguments, env=env, serve=True)) as server:
        yield server


@pytest.fixture
def visits(browser: Browser, server: Server) -> Iterator[Visits]:
    with closing(Visits(browser, server.url)) as visits:
        visits.allow("push-token: net::ERR_ABORTED")  # by a login before the answer
        yield visits
    assert visits.problems == []


def log_in(visits: Visits, user: str, **options: Any) -> Page:
    page = visits.open(**options)
    page.select_option("[name=user]", user)
    page.click("text=Log in")
    expect(page.locator(".opener[aria-label]")).to_be_visible()
    return page


def unread(page: Page, count: int) -> None:
    """Wait until the bell and the title have this number."""
    name = f"Notifications, {count} unread" if count else "Notifications"
    expect(page.locator(".opener")).to_have_attribute("aria-label", name)
    expect(page).to_have_title(f"({count}) The shop" if count else "The shop")


def send(page: Page, to: str, title: str, severity: str = "info", **fields: str) -> None:
    page.select_option("[name=to]", to)
    page.select_option("[name=severity]", severity)
    for name, value in {"title": title, **fields}.items():
        page.fill(f"[name={name}]", value)
    page.click("text=Notify")
    page.wait_for_load_state()


def check(page: Page) -> None:
    """No finding of axe, and nothing wider than the window."""
    page.evaluate(f"() => {{ {AXE.read_text('utf-8')} }}")
    found = page.evaluate("axe.run()")["violations"]
    assert [describe(violation) for violation in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_users_have_notices_in_all_pages(server: Server, visits: Visits) -> None:
    ann, phone, ben = log_in(visits, "ann"), log_in(visits, "ann", **PHONE), log_in(visits, "ben")
    tab = ann.context.new_page()
    tab.goto(server.url)
    hostile = "<img src=x onerror=alert(1)> \u202eolleh"
    send(ben, "ann", hostile, "critical", text="<b>bold</b>", url="javascript:alert(1)")
    for page in (ann, tab, phone):
        unread(page, 1)
        toast = page.get_by_role("alert").locator(".toast")
        expect(toast.locator(".title")).to_have_text(hostile)
        expect(toast.locator("p")).to_have_text("<b>bold</b>")
        assert page.locator("#pushserver-notices").locator("img, p b, a").count() == 0
    unread(ben, 0)
    send(ann, "all", "Closed tomorrow", "warning", url="./?order=7")
    unread(ben, 1)
    expect(ben.get_by_role("status").locator("a")).to_have_attribute(
        "href", f"{server.url}?order=7"
    )
    # What is read in one page is read in all pages of the user, and of nobody else.
    phone.click(".opener")
    rows = phone.locator(".panel li")
    expect(rows.locator(".title")).to_have_text(["Closed tomorrow", hostile])
    expect(rows.locator(".severity")).to_have_text(["warning", "critical"])
    check(phone)
    rows.first.get_by_role("button").press("Enter")
    for page in (ann, tab, phone):
        unread(page, 1)
    expect(rows.first.get_by_role("button")).to_be_hidden()
    unread(ben, 1)
    phone.keyboard.press("Escape")
    expect(phone.locator(".panel")).to_be_hidden()
    tab.click(".opener")
    tab.click("text=Mark all as read")
    for page in (ann, tab, phone):
        unread(page, 0)
        expect(page.locator(".toast")).to_have_count(0)
    check(tab)
    # A page that is opened later has them too, without a noise.
    late = log_in(visits, "ann", color_scheme="dark")
    unread(late, 0)
    late.click(".opener")
    expect(late.locator(".panel li")).to_have_count(2)
    expect(late.locator(".toast")).to_have_count(0)
    check(late)
    # A restart loses nothing. The page may have another title meanwhile.
    visits.allow(LOST_CONNECTION)
    publish(server, "notices:%23ann", {"title": "Before", "severity": "of nobody"})
    unread(ann, 1)
    server.stop()
    server.start()
    publish(server, "notices:%23ann", {"title": "After"})
    for odd in ("a text", {"text": "no title"}, {"title": 7}, [1], None):
        publish(server, "notices:%23ann", odd)
    for page in (ann, phone, late):
        unread(page, 2)
    ann.evaluate("document.title = 'Other'")
    expect(ann).to_have_title("(2) Other")
    ann.reload()
    unread(ann, 2)
    assert ann.locator(".toast").count() == 0  # what the page has from before makes no noise
    # Nobody reads, or marks, what is of another user.
    assert server.get("channels/notices:%23ann").status == 401
    refused = """async (text) => {
      const { connect } = await import("/static/pushserver.js");
      const { token } = await (await fetch("/push-token")).json();
      const server = connect({ token, share: false });
      const orders = ["x", { id: "x".repeat(201) }, { until: "now" }, { until: NaN }];
      const calls = orders.map((data) => server.call("read", data));
      calls.push(server.publish("notices:#ann", 1), server.publish("read:#ben", 1));
      calls.push(new Promise((done, refuse) => server.watch("notices:#ann", done, {
        onState: ({ state, reason }) => state === "closed" && refuse(new Error(reason)),
      })));
      return (await Promise.allSettled(calls)).map(({ reason }) => reason?.message);
    }"""
    results = ben.evaluate(refused)
    assert results[:4] == ["expected the id of a notice, or the time until which all are read"] * 4
    assert None not in results


def test_desktop(server: Server, visits: Visits) -> None:
    denied = log_in(visits, "ben")
    denied.click(".opener")
    expect(denied.locator("text=This browser blocks desktop notifications")).to_be_visible()
    expect(denied.locator("text=Show on the desktop")).to_be_hidden()
    page = visits.open()
    page.add_init_script(DESKTOP)
    page.select_option("[name=user]", "ben")
    page.click("text=Log in")
    page.click(".opener")
    page.click("text=Show on the desktop")
    expect(page.locator("text=New notices are shown on the desktop too.")).to_be_visible()
    publish(server, "notices:%23ben", {"title": "Seen"})
    expect(page.locator(".panel .title").first).to_have_text("Seen")
    page.evaluate(AWAY)
    publish(server, "notices:%23ben", {"title": "Not seen", "text": "yet", "severity": "critical"})
    page.wait_for_function("() => shown.length === 1")
    [shown] = page.evaluate("shown.map(({ notification, ...options }) => options)")
    assert (shown["title"], shown["body"]) == ("Not seen", "yet")
    denied.click("text=Mark all as read")
    page.wait_for_function("() => shown[0].closed")
    # A logout, and a login of another user, concern all tabs of the browser, and no other browser.
    publish(server, "notices:%23ben", {"title": "Later"})
    tab = page.context.new_page()
    tab.goto(server.url)
    for here in (page, tab, denied):
        unread(here, 1)
    page.click("text=Log out")
    for here in (page, tab):
        expect(here.locator("#pushserver-notices")).to_have_count(0)
        expect(here).to_have_title("The shop")
    unread(denied, 1)
    other = denied.context.new_page()
    other.goto(server.url)
    unread(other, 1)
    other.evaluate(
        "fetch('./login', { method: 'POST', body: new URLSearchParams({ user: 'ann' }) })"
    )
    other.reload()
    expect(denied.locator("#pushserver-notices")).to_have_count(0)
    expect(other.locator(".opener[aria-label]")).to_be_visible()


@contextmanager
def serving(site: ThreadingHTTPServer, folder: Path) -> Iterator[None]:
    site.RequestHandlerClass = partial(Quiet, directory=str(folder))
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield
    finally:
        site.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    log_message: Callable[..., None] = lambda *_: None


def test_page_of_another_origin(
    browser: Browser, server: Server, other_site: ThreadingHTTPServer, tmp_path: Path
) -> None:
    line = block_with("examples/notifications/README.md", "static/notices.js").text
    push = f"127.0.0.1:{server.port}"
    assert "/push-token" in line
    policy = f"default-src 'self'; script-src http://{push}; connect-src 'self' http://{push} ws://{push}"
    (tmp_path / "index.html").write_text(
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>The shop</title>{line.replace('https://push.example', f'http://{push}')}"
    )
    token = pushserver.token("dan", secret=SECRET)
    (tmp_path / "push-token").write_text(json.dumps({"token": token}))
    publish(server, "notices:%23dan", {"title": "Hello", "url": "/orders"})
    with (
        serving(other_site, tmp_path),
        closing(Visits(browser, f"http://localhost:{other_site.server_port}/")) as visits,
    ):
        visits.allow(f"to another host: (http|ws)://{push}|favicon|status of 404")
        page = visits.open()
        expect(page.locator(".opener")).to_have_attribute("aria-label", re.compile(" unread"))
        page.click(".opener")
        link = page.locator(".panel a", has_text="Hello")
        expect(link).to_have_attribute("href", f"{visits.url}orders")
        page.click("text=Mark all as read")
        unread(page, 0)
        # Another name of the same site is an origin that is not allowed.
        visits.allow("403|ERR_FAILED|CORS|WebSocket")
        stranger = page.context.new_page()
        stranger.goto(visits.url.replace("localhost", "127.0.0.1"))
        expect(stranger.locator(".opener.away")).to_be_visible()
        stranger.click(".opener")
        expect(stranger.locator(".panel")).to_contain_text("refuses pages of http://127.0.0.1")
    assert visits.problems == []


@pytest.mark.parametrize("height", [700, 640])
def test_the_titles_of_long_notices_are_seen(server: Server, visits: Visits, height: int) -> None:
    page = log_in(
        visits, "ben", viewport={"width": 360 if height < 700 else 1000, "height": height}
    )
    # Notices that come before the history is complete are not shown as new.
    publish(server, "notices:%23ben", {"title": "Before"})
    expect(page.locator(".opener")).to_have_attribute("aria-label", re.compile(" unread"))
    for title in ("first", "second"):
        # A critical one stays until it is read.
        data = {"title": f"{title} " * 25, "text": "long " * 200, "severity": "critical"}
        publish(server, "notices:%23ben", data)
    toasts = page.locator(".toast.critical")
    expect(toasts).to_have_count(2)
    for toast in toasts.all():
        expect(toast.locator(".title")).to_be_in_viewport(ratio=1)
    check(page)
