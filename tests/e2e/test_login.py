"""docs/login.md is true: each step runs with the real frameworks, as written."""

from __future__ import annotations

import json
import shlex
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import jwt
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect

import pushserver
from tests.e2e.blocks import sections_of
from tests.e2e.desk import KEY, Desk
from tests.e2e.exchange import LINES, Reading, ask
from tests.e2e.server import CHECKOUT, Server, running

DOCUMENT = CHECKOUT / "docs" / "login.md"
SECTIONS = sections_of("docs/login.md")
FIRST = "Everybody reads, a key publishes"
COOKIE = "Users by the cookie of the site"
TOKENS = "Tokens"
FRAMEWORKS = ["Flask", "FastAPI", "Django"]
PRIVATE = "Private channels"
STREAMS = "Streams and raw WebSockets"
PUBLIC = "A public key in place of the secret"


def test_every_section_has_a_test() -> None:
    assert set(SECTIONS) == {FIRST, COOKIE, TOKENS, *FRAMEWORKS, PRIVATE, STREAMS, PUBLIC}


class Login(Desk):
    """The document, followed to its tokens with one framework."""

    def __init__(self, folder: Path):
        super().__init__(folder, KEY, SECTIONS, [FIRST])

    def type(self, title: str, start: str = "") -> list[str]:
        """Run the commands of a section that begin so; return what they print."""
        commands = [command for command in self.commands(title) if command.startswith(start)]
        assert commands, start
        return [self.shell(command) for command in commands]

    def shell(self, command: str) -> str:
        ended = self.run(shlex.join(["bash", "-c", command]))
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def follow(self, framework: str, *more: str, seconds: float = 600) -> None:
        """Write the files of the steps, and start the site and the server."""
        self.type(TOKENS, "(umask")
        self.write(TOKENS)
        if framework == "Django":
            start, migrate, *users, serve = self.commands(framework)
            self.shell(start)
            self.shell(migrate)
            for command in users:
                variables = {"DJANGO_SUPERUSER_PASSWORD": "s3cret"}
                self.run(f"{command} --noinput --email a@example.org", **variables)
        else:
            [serve] = self.commands(framework)
        self.write(framework, *more)
        if PUBLIC in more:
            self.type(PUBLIC)
        self.replace("push_tokens.py", "SECONDS = 600", f"SECONDS = {seconds}")
        self.server.start()
        self.serve_pages(serve)

    def replace(self, name: str, old: str, new: str) -> None:
        file = self.folder / name
        assert file.read_text().count(old) == 1
        file.write_text(file.read_text().replace(old, new))

    def publish(self, channel: str, data: object) -> None:
        body = json.dumps(data).encode()
        assert ask(self.server, "POST", f"channels/{channel}", body, X_API_Key=KEY).status == 201

    def make_token(self, user: str) -> str:
        command = f"python -c 'from push_tokens import *; print(make_token({user!r}))'"
        return self.shell(command.replace(repr(user), f'"{user}"')).strip()

    def with_application(self, *arguments: str) -> Server:
        """The server of the configuration, with an application."""
        return Server(self.folder, *arguments, "--config", "pushserver.toml", serve=True)

    @property
    def site(self) -> str:
        return f"http://localhost:{self.page_port}/"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Login]:
    desk = Login(tmp_path)
    yield desk
    desk.close()
    assert desk.server.problems == []


class Visitor:
    """A program with the cookies of one visitor of the site."""

    def __init__(self, site: str):
        self._site = site
        self.cookies = CookieJar()
        processor = urllib.request.HTTPCookieProcessor(self.cookies)
        self._opener = urllib.request.build_opener(processor)

    def ask(self, path: str, form: dict[str, str] | None = None) -> tuple[int, Any]:
        body = None if form is None else urlencode(form).encode()
        try:
            with self._opener.open(self._site + path, body, 30) as response:
                text = response.read().decode()
                is_json = response.headers.get_content_type() == "application/json"
                return response.status, json.loads(text) if is_json else text
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def log_in(self, user: str) -> None:
        assert self.ask("login", {"username": user, "password": "s3cret"})[0] == 200

    @property
    def header(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)


def log_in(page: Page, user: str) -> None:
    page.fill("[name=username]", user)
    page.fill("[name=password]", "s3cret")
    page.click("text=Log in")


def statuses(page: Page, path: str) -> list[int]:
    """The statuses of the answers to this path; the list grows."""
    found: list[int] = []

    def note(response: Response) -> None:
        if path in response.url:
            found.append(response.status)

    page.on("response", note)
    return found


def lines(page: Page) -> list[str]:
    return page.locator("#events li").all_text_contents()


def status(desk: Login, path: str, **headers: str) -> int:
    return ask(desk.server, "GET", path, b"", **headers).status


def test_a_key_publishes_and_everybody_reads(desk: Login) -> None:
    desk.server.start()
    [publish] = desk.type(FIRST, "curl")
    assert json.loads(publish)["offset"] == 1
    assert status(desk, "channels/news") == 200
    assert ask(desk.server, "POST", "channels/news", b"1").status == 401


def test_the_session_of_starlette_is_a_user_of_every_protocol(desk: Login) -> None:
    desk.type(TOKENS, "(umask")
    desk.write(COOKIE, TOKENS, "FastAPI")
    [command] = desk.commands(COOKIE)
    assert command.startswith("pushserver serve members.py ")
    with running(desk.with_application("members.py")) as server:
        desk.server = server
        desk.serve_pages(*desk.commands("FastAPI"))
        visitor = Visitor(desk.site)
        visitor.log_in("ann")
        chat = "channels/chat:lobby"
        assert ask(server, "POST", chat, b"1", Cookie=visitor.header).status == 201
        assert status(desk, chat, Cookie=visitor.header) == 200
        with closing(Reading(server, f"{chat}?last=1", LINES, Cookie=visitor.header)) as reading:
            assert "subscribed" in reading.object()
            assert reading.object()["data"] == 1
        for cookie in ("", "session=", f"{visitor.header[:-2]}AA", "session=e30=.x.y"):
            assert status(desk, chat, Cookie=cookie) == 401, cookie


class TestInEachFramework:
    @pytest.fixture(params=FRAMEWORKS)
    @staticmethod
    def framework(request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_pages_get_their_tokens_and_miss_nothing_when_these_expire(
        self, desk: Login, framework: str, browser: Browser
    ) -> None:
        desk.follow(framework, seconds=2)
        assert Visitor(desk.site).ask("push-token")[0] == 401
        with browser.new_context() as context:
            page = context.new_page()
            answers = statuses(page, "/push-token")
            page.goto(desk.site)
            expect(page.locator("#problem")).to_contain_text("token")
            log_in(page, "ann")
            expect(page.locator("#problem")).to_have_text("")
            published = 0
            # The first 401 is that of the guest.
            while answers.count(200) < 4:
                published += 1
                desk.publish("team:7", str(published))
                page.wait_for_timeout(50)
            expect(page.locator("#events li")).to_have_count(published)
            expected = [str(number + 1) for number in range(published)]
            assert lines(page)[-20:] == expected[-20:]
            assert lines(page) == expected
            page.goto(desk.site)
            page.click("text=Log out")
            expect(page.locator("#problem")).to_contain_text("token")
            log_in(page, "bob")
            expect(page.locator("#problem")).to_contain_text("team:7")
            assert lines(page) == []


def test_logout_makes_guests_of_the_pages_of_this_session_only(
    desk: Login, browser: Browser
) -> None:
    desk.follow("Flask")
    with browser.new_context() as one, browser.new_context() as other:
        first, tab, elsewhere = (open_as_ann(desk, each) for each in (one, one, other))
        desk.publish("team:7", "before")
        for page in (first, tab, elsewhere):
            expect(page.locator("#events li")).to_have_text(["before"])
        first.click("text=Log out")
        expect(tab.locator("#problem")).to_contain_text("token")
        desk.publish("team:7", "after")
        expect(elsewhere.locator("#events li")).to_have_text(["before", "after"])
        assert lines(tab) == ["before"]


def open_as_ann(desk: Login, context: BrowserContext) -> Page:
    """A page of the user ann, who logs in first if the browser has no session."""
    page = context.new_page()
    page.goto(desk.site)
    if not context.cookies():
        log_in(page, "ann")
    expect(page.locator("#problem")).to_have_text("")
    return page


def test_a_page_enters_private_channels_by_tokens_of_their_own(
    desk: Login, browser: Browser
) -> None:
    desk.follow("Flask", PRIVATE, seconds=2)
    with browser.new_context() as context:
        page = open_as_ann(desk, context)
        page.goto(f"{desk.site}channel?channel=$team:8")
        expect(page.locator("#problem")).to_have_text("unauthorized")
        tokens = statuses(page, "/channel-token")
        page.goto(f"{desk.site}channel?channel=$team:7")
        published = 0
        while len(tokens) < 4:
            published += 1
            desk.publish("$team:7", str(published))
            expect(page.locator("#event")).to_have_text(str(published))
        assert page.locator("#problem").text_content() == ""


class TestStreams:
    def test_continues_after_the_end_of_its_token(self, desk: Login, browser: Browser) -> None:
        desk.follow("Flask", STREAMS, seconds=2)
        with browser.new_context() as context:
            page = open_as_ann(desk, context)
            tokens = statuses(page, "/push-token")
            page.goto(f"{desk.site}stream")
            published = 0
            while len(tokens) < 4:
                published += 1
                desk.publish("team:7", str(published))
                page.wait_for_timeout(50)
            expect(page.locator("#events li")).to_have_count(published)
            assert lines(page) == [str(number + 1) for number in range(published)]
            cookies = {cookie["name"]: cookie for cookie in context.cookies()}
            cookie = cookies["push_token"]
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            page.goto(desk.site)
            page.click("text=Log out")
            page.goto(f"{desk.site}stream")
            expect(page.locator("#problem")).to_have_text("no token")
            assert "push_token" not in {cookie["name"] for cookie in context.cookies()}

    def test_all_ways_of_a_token(self, desk: Login, browser: Browser) -> None:
        desk.follow("Flask", STREAMS)
        token, other = desk.make_token("ann"), desk.make_token("bob")
        team = "channels/team:7"
        for given, expected in [(token, 200), (other, 403), (f"{token}x", 401)]:
            assert status(desk, team, Authorization=f"Bearer {given}") == expected
            assert status(desk, team, Cookie=f"push_token={given}") == expected
            assert status(desk, f"{team}?token={given}") == expected
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(desk.site)
            url = desk.server.websocket(team).replace("127.0.0.1", "localhost")
            for given, outcome in [(token, "subscribed"), (other, "error")]:
                script = """([url, name]) => new Promise((resolve) => {
                    const socket = new WebSocket(url, ["pushserver", name]);
                    socket.onmessage = ({ data }) => resolve(Object.keys(JSON.parse(data))[0]);
                    socket.onerror = () => resolve("error");
                })"""
                name = f"pushserver.token.{given}"
                assert page.evaluate(script, [url, name]) == outcome
        assert token not in desk.server.log

    def test_a_closed_server_needs_a_token_for_everything(self, desk: Login) -> None:
        desk.follow("Flask")
        assert status(desk, "channels/news") == 200
        desk.replace("pushserver.toml", "[auth]\n", "[auth]\nclosed = true\n")
        desk.server.stop()
        desk.server.start()
        assert status(desk, "channels/news") == 401
        token = desk.make_token("ann")
        assert status(desk, "channels/news", Authorization=f"Bearer {token}") == 200


class TestKeys:
    def test_a_public_key_verifies_what_the_site_signs(self, desk: Login) -> None:
        desk.follow("FastAPI", PUBLIC)
        visitor = Visitor(desk.site)
        visitor.log_in("ann")
        token = visitor.ask("push-token")[1]["token"]
        team = "channels/team:7"
        assert status(desk, team, Authorization=f"Bearer {token}") == 200
        secret = (desk.folder / "token.key").read_text().strip()
        by_secret = pushserver.token("ann", channels=["team:7"], secret=secret)
        answer = ask(desk.server, "GET", team, Authorization=f"Bearer {by_secret}")
        assert answer.status == 401
        assert "alg is" in answer.text
        make = "from push_tokens import *; print(make_channel_token(str(1), chr(36) + str(2)))"
        own = desk.shell(f"python -c '{make}'").strip()
        checked = desk.shell(f"pushserver token check --config pushserver.toml - <<< {own}")
        assert checked.startswith("valid: ")

    def test_a_page_says_why_its_token_is_refused(self, desk: Login, browser: Browser) -> None:
        desk.follow("Flask")
        secret = (desk.folder / "token.key").read_text().strip()
        root = f"http://localhost:{desk.server.port}/"
        claims = {"sub": "ann", "exp": time.time() - 60}
        reasons = {
            jwt.encode(claims, secret): "the token has expired: connect() needs getToken",
            jwt.encode(claims, "x" * 32): "the signature is not that of a key for HS256",
            jwt.encode(claims | {"aud": "shop"}, secret): 'aud is "shop", expected none',
        }
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(desk.site)
            for token, reason in reasons.items():
                script = """async ([root, token]) => {
                    const { connect } = await import(`${root}static/pushserver.js`);
                    window.mine = connect(root, { token });
                }"""
                page.evaluate(script, [root, token])
                page.wait_for_function("() => mine.state === 'closed'")
                assert reason in page.evaluate("mine.reason")

    def test_two_secrets_are_valid_while_one_replaces_the_other(self, desk: Login) -> None:
        desk.follow("Flask")
        old = desk.make_token("ann")
        (desk.folder / "token.key").rename(desk.folder / "old.key")
        desk.type(TOKENS, "(umask")
        with (desk.folder / "pushserver.toml").open("a") as config:
            config.write('[[auth.token_keys]]\nalgorithm = "HS256"\nfile = "old.key"\n')
        desk.server.stop()
        desk.server.start()
        for token in (old, desk.make_token("ann")):
            assert status(desk, "channels/team:7", Authorization=f"Bearer {token}") == 200
