"""WSGI applications of real frameworks in real servers; docs/applications.md is true of Flask."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.blocks import sections_of
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import LINES, Reading, ask, data
from tests.e2e.follower import FILE, NO_ICON
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Answer, Server, environment, running
from tests.e2e.visits import Visits

[SHOP] = sections_of("docs/applications.md", "A Flask application").values()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`pushserver serve` with the Flask application of the document."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "templates").mkdir()
    for block in SHOP:
        if block.language != "console":
            match = FILE.search(block.before)
            assert match is not None, block.before
            (folder / match[2]).write_text(block.text)
    [command] = [block.lines[0].text for block in SHOP if block.language == "console"]
    assert command == "$ SHOP_SECRET=change-me pushserver serve shop.py --config shop.toml"
    env = environment(SHOP_SECRET="change-me")
    with running(Server(folder, "shop.py", "--config", "shop.toml", serve=True, env=env)) as server:
        yield server


def cookie_of(answer: Answer) -> str:
    """The cookie that an answer sets, as the next request sends it."""
    return str(answer.headers["Set-Cookie"]).partition(";")[0]


def post(server: Server, path: str, body: str, cookie: str = "") -> Answer:
    form = "application/x-www-form-urlencoded"
    more = {"Cookie": cookie} if cookie else {}
    return ask(server, "POST", path, body.encode(), Content_Type=form, **more)


class TestTheShop:
    @pytest.fixture
    def cookie(self, shop: Server) -> str:
        answer = post(shop, "login", "name=Ada")
        assert (answer.status, answer.headers["Location"]) == (302, "/")
        return cookie_of(answer)

    def test_has_flasks_templates_and_sessions(self, shop: Server, cookie: str) -> None:
        assert '<form method="post" action="/login">' in shop.get("").text
        page = ask(shop, "GET", "", Cookie=cookie)
        assert "<title>Orders of Ada</title>" in page.text
        assert "Content-Security-Policy" not in page.headers
        module = re.search(r'from "/(.*pushserver.js)"', page.text)
        assert module is not None
        assert shop.get(module[1]).headers["Content-Type"].startswith("text/javascript")

    def test_view_publishes_to_users_with_a_session(self, shop: Server, cookie: str) -> None:
        with closing(Reading(shop, "channels/orders", LINES, Cookie=cookie)) as reading:
            assert "subscribed" in reading.object()
            published = json.loads(post(shop, "orders", "product=caf%C3%A9", cookie).text)
            publication = reading.object()
        assert publication["data"] == {"product": "caf\xe9", "by": "Ada"}
        assert publication["id"] == published["id"]
        stored = ask(shop, "GET", "channels/orders?last=1", Cookie=cookie)
        assert data(json.loads(stored.text)) == [publication["data"]]

    def test_page_shows_the_orders(self, shop: Server, browser: Browser) -> None:
        with closing(Visits(browser, shop.url)) as visits:
            visits.allow(NO_ICON)
            page = visits.open()
            page.fill("[name=name]", "Bob")
            page.click("text=Log in")
            page.wait_for_function("() => document.title === 'Orders of Bob'")
            page.evaluate(
                "fetch('orders', {method: 'POST', body: new URLSearchParams({product: 'rye'})})"
            )
            expect(page.locator("#orders li").last).to_have_text("rye, by Bob")
        assert visits.problems == []

    def test_others_do_not_read(self, shop: Server, cookie: str) -> None:
        for forged in ("session=", cookie[:-1] + "!", "other=1"):
            answer = ask(shop, "GET", "channels/orders", Cookie=forged)
            assert (answer.status, "needs a user" in answer.text) == (401, True)
        assert post(shop, "channels/orders", "1", cookie).status == 403

    def test_monitoring_has_its_threads(self, shop: Server, cookie: str) -> None:
        # The thread of the last request may still be at its end.
        idle = 'pushserver_wsgi_threads{state="running"} 0.0'
        wait_until(lambda: idle in shop.get("metrics").text)


DESK = """
import itertools
import threading

import django
from django.conf import settings
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.core.wsgi import get_wsgi_application
from django.shortcuts import render
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="change-me",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[
        {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["."]}
    ],
)
closed = threading.Event()


def page(request):
    if request.method == "POST":
        request.session["name"] = request.POST["name"]
    return render(request, "page.html", {"name": request.session.get("name", "nobody")})


def endless():
    try:
        for number in itertools.count():
            yield b"x" * 1_000
    finally:
        closed.set()


urlpatterns = [
    path("", page),
    path("who", lambda request: JsonResponse({"address": request.META["REMOTE_ADDR"]})),
    path("endless", lambda request: StreamingHttpResponse(endless())),
    path("closed", lambda request: HttpResponse(str(closed.is_set()))),
]
application = get_wsgi_application()
"""
PAGE = "<form method=post>{% csrf_token %}<input name=name></form><p>{{ name }}</p>"


class TestDjangoInTwistd:
    @pytest.fixture(scope="class")
    @staticmethod
    def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("desk")
        (folder / "desk.py").write_text(DESK)
        (folder / "page.html").write_text(PAGE)
        server = Server(folder, "--wsgi", "desk:application", "--listen", f"unix:{folder}/socket")
        with running(server):
            yield server

    def test_has_its_forms_with_tokens_and_sessions(self, desk: Server) -> None:
        page = desk.get("")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None
        answer = post(desk, "", f"name=Ada&csrfmiddlewaretoken={token[1]}", cookie_of(page))
        assert "<p>Ada</p>" in answer.text
        session = next(
            value for value in answer.headers.get_all("Set-Cookie", []) if "sessionid" in value
        )
        again = ask(desk, "GET", "", Cookie=session.partition(";")[0])
        assert "<p>Ada</p>" in again.text
        # Django says so in its own log.
        assert post(desk, "", "name=Eve", cookie_of(page)).status == 403

    def test_has_the_address_of_the_client(self, desk: Server) -> None:
        assert json.loads(desk.get("who").text) == {"address": "127.0.0.1"}
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(PATIENCE)
            line.connect(str(Path(desk._folder) / "socket"))
            line.sendall(b"GET /who HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = http.client.HTTPResponse(line)
            answer.begin()
            assert json.loads(answer.read()) == {"address": ""}

    def test_ends_an_answer_whose_client_leaves(self, desk: Server) -> None:
        with socket.create_connection(("127.0.0.1", desk.port), PATIENCE) as line:
            line.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 OK" in line.recv(1_000)
            assert desk.get("closed").text == "False"
        wait_until(lambda: desk.get("closed").text == "True")
