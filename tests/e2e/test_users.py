"""The recipes of docs/users.md, as they are written, with official clients and real frameworks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.blocks import sections_of
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import ask, publish
from tests.e2e.follower import NO_ICON, Follower, Programs, visits_at
from tests.e2e.server import Server, environment, free_port, running
from tests.e2e.watcher import Commanded

USERS = sections_of("docs/users.md")
PASSWORDS = {"ada": "correct horse", "bob": "battery staple"}
WRONG = {"code": 401, "message": "wrong name or password"}
FLASK = "The session of your Flask"
DJANGO = "The session of your Django"
LOGIN = ["A login by password", "Limits on attempts", "The page", "Private rooms and roles"]


def test_every_recipe_is_run() -> None:
    assert set(USERS) == {*LOGIN, FLASK, DJANGO, "The end of a login"}


def test_passwords_without_a_name_print_the_usage(tmp_path: Path) -> None:
    Recipe(tmp_path, "A login by password")
    ended = subprocess.run(
        [sys.executable, "passwords.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "passwords.py NAME [ROLE]" in ended.stderr
    assert "Traceback" not in ended.stderr


class Recipe:
    """The files and commands of some sections, in a folder."""

    def __init__(self, folder: Path, *sections: str):
        self.folder = folder
        self.programs = Programs(folder)
        self.follower = Follower(USERS, folder, self.programs)
        self.page_port = free_port()
        self._commands: list[str] = []
        for section in sections:
            self.follower.write(section)
            for block in USERS[section]:
                if block.language == "console":
                    self._commands += block.text.splitlines()
        for path in folder.glob("*.py"):
            path.write_text(self.real(path.read_text()))

    def real(self, text: str) -> str:
        """The text with the actual ports."""
        text = re.sub(r"\b(?:5000|8000)\b", str(self.page_port), text)
        return self.follower.real(text)

    def commands(self, start: str) -> list[str]:
        """Take the commands that begin with this out of the document."""
        found = [c.removeprefix("$ ") for c in self._commands if c.startswith(f"$ {start}")]
        assert found, start
        return found

    def run(self, command: str, typed: str = "") -> str:
        """Run a command in a shell; returns its output."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Without a terminal, getpass reads the standard input.
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment(PATH=path),
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def server(self, **more: str) -> Server:
        """The server of the command, with its variables and `more`, and its application."""
        [command] = [c for c in self.commands("") if "pushserver serve" in c]
        before, _, application = command.partition("pushserver serve ")
        settings = dict(word.split("=", 1) for word in self.real(before).split())
        listen = ("--listen", f"tcp:{self.follower.port}:interface=127.0.0.1")
        return Server(self.folder, *listen, application, env=environment(**settings, **more))


@contextmanager
def client(server: Server, data: object = None, cookie: str = "") -> Iterator[Commanded]:
    with closing(Commanded(server, data, cookie)) as commanded:
        yield commanded


@contextmanager
def connected(server: Server, data: object = None, cookie: str = "") -> Iterator[Commanded]:
    with client(server, data, cookie) as commanded:
        commanded.next("connected")
        yield commanded


def refusal(server: Server, data: object = None, cookie: str = "") -> Any:
    """Code and reason of the refusal of a client, which must not come back."""
    with client(server, data, cookie) as commanded:
        context = commanded.next("connected", "disconnected", "error")
        return context.get("code"), context.get("reason")


def users(commanded: Commanded, channel: str) -> list[tuple[str, Any]]:
    """User and info of each client in the channel."""
    presence = commanded.ask("presence", channel)["clients"].values()
    return sorted((info.get("user", ""), info.get("connInfo")) for info in presence)


def watchers(server: Server, channel: str) -> set[str]:
    """The users in the channel; tabs of a browser may be one client."""
    answer = ask(server, "POST", "api/presence", json.dumps({"channel": channel}).encode())
    presence = json.loads(answer.body)["result"]["presence"]
    return {info.get("user", "") for info in presence.values()}


class Club(Recipe):
    """The login by password, with the users ada, a moderator, and bob."""

    def __init__(self, folder: Path):
        super().__init__(folder, *LOGIN)
        [make_secret] = self.commands("(umask")
        self.run(make_secret)
        for command in self.commands("python3"):
            self.run(command, PASSWORDS[command.split()[2]] + "\n")

    def token(self, server: Server, user: str) -> str:
        with connected(server) as guest:
            token = self.login(guest, user, PASSWORDS[user])["data"]
            assert isinstance(token, str)
            return token

    @staticmethod
    def login(guest: Commanded, user: Any, password: Any) -> Any:
        return guest.ask("rpc", "login", {"user": user, "password": password})

    def python(self, code: str) -> str:
        """The output of Python code in the application's module."""
        (self.folder / "code.py").write_text(f"import login\n{code}")
        return self.run("python3 code.py").strip()


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Club:
    return Club(tmp_path_factory.mktemp("club"))


@pytest.fixture(scope="module")
def server(club: Club) -> Iterator[Server]:
    with running(club.server()) as server:
        yield server


@pytest.fixture(scope="module")
def ada(club: Club, server: Server) -> str:
    return club.token(server, "ada")


@pytest.fixture(scope="module")
def bob(club: Club, server: Server) -> str:
    return club.token(server, "bob")


class TestALoginByPassword:
    def test_no_password_is_stored(self, club: Club) -> None:
        for path in club.folder.iterdir():
            if path.is_file():
                assert not any(word in path.read_text() for word in PASSWORDS.values()), path
        for name in ("users.json", "secret.key"):
            assert (club.folder / name).stat().st_mode & 0o077 == 0

    def test_gives_the_user_to_two_tabs_beyond_a_restart(self, tmp_path: Path) -> None:
        club = Club(tmp_path)
        with running(club.server()) as server, ExitStack() as tabs:
            token = club.token(server, "bob")
            one, other = (tabs.enter_context(connected(server, {"token": token})) for _ in range(2))
            with connected(server) as guest:
                for tab in (one, other):
                    tab.do("subscribe", "news", {"joinLeave": True})
                    tab.next("own subscribed")
                assert one.next("own join")["info"]["user"] == "bob"
                assert users(guest, "news") == [("bob", {"role": "member"})] * 2
            server.stop()
            server.start()
            for tab in (one, other):
                tab.next("own subscribed")
            assert users(one, "news") == [("bob", {"role": "member"})] * 2
            # And the name is not an attempt: there were none that failed.
            with connected(server, {"token": token}):
                pass

    @pytest.mark.parametrize(
        ("user", "password"),
        [("ada", "wrong"), ("ada", ""), ("eve", "correct horse"), ("", ""), ("ada ", "x")],
    )
    def test_refuses_a_wrong_password_and_an_unknown_name_alike(
        self, server: Server, user: str, password: str
    ) -> None:
        with connected(server) as guest:
            assert Club.login(guest, user, password) == WRONG

    @pytest.mark.parametrize(
        "data",
        [
            *(None, 7, [], {}, {"user": "ada"}, {"user": 7, "password": "x"}),
            *({"user": "ada", "password": "x" * 1000}, {"user": ["ada"], "password": None}),
        ],
        ids=lambda data: str(data)[:30],
    )
    def test_refuses_odd_data(self, server: Server, data: object) -> None:
        with connected(server) as guest:
            assert guest.ask("rpc", "login", data)["message"] == "expected user and password"


class TestTheToken:
    @pytest.mark.parametrize(
        "token",
        ["", "x", "..", "1.2.ada", "9999999999.00.ada", "٣.x.ada", "1.2.nobody", "1.grün.ada"],
    )
    def test_is_not_invented(self, server: Server, ada: str, token: str) -> None:
        code, reason = refusal(server, {"token": token})
        assert (code, reason.partition(": ")[2]) == (4500, "log in")

    def test_cannot_be_tampered_with(self, club: Club, server: Server, ada: str, bob: str) -> None:
        until, signature, name = ada.split(".")
        tampered = [
            f"{int(until) + 1}.{signature}.{name}",
            f"{until}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}.{name}",
            f"{until}.{signature[:-1]}.{name}",
            f"{until}.{signature.upper()}.{name}",
            f"{until}.{signature}.bob",
            f"{until}.{bob.split('.')[1]}.{name}",
        ]
        for token in tampered:
            assert refusal(server, {"token": token}) == (4500, "invalid token: log in"), token

    def test_expires(self, club: Club, server: Server) -> None:
        make = "login.TOKEN_SECONDS = {}\nprint(login.make_token('ada', login.users()['ada']))"
        assert refusal(server, {"token": club.python(make.format(-1))}) == (
            4500,
            "the login has expired: log in again",
        )
        assert refusal(server, {"token": club.python(make.format(60))}) == (None, None)

    def test_of_another_key_is_invalid(self, club: Club, server: Server) -> None:
        make = "login.SECRET = bytes(32)\nprint(login.make_token('ada', login.users()['ada']))"
        refused = refusal(server, {"token": club.python(make)})
        assert refused == (4500, "invalid token: log in")

    def test_ends_with_a_new_password_and_with_the_user(self, tmp_path: Path) -> None:
        club = Club(tmp_path)
        [change] = [c for c in club.commands("python3") if "bob" in c]
        [block] = USERS["The end of a login"]
        request, answer = club.real(block.text).splitlines()
        with running(club.server()) as server:
            token = club.token(server, "bob")
            with connected(server, {"token": token}) as tab:
                club.run(change, "another password\n")
                assert club.run(request.removeprefix("$ ")).strip() == answer
                assert tab.next("disconnected")["code"] == 3503
            assert refusal(server, {"token": token}) == (4500, "invalid token: log in")
            (tmp_path / "users.json").write_text("{}")
            assert refusal(server, {"token": token}) == (4500, "unknown token: log in")

    @pytest.mark.parametrize("data", [7, {}, [], {"token": 7}, {"token": None}, "x"])
    def test_is_a_text_in_the_data(self, server: Server, data: object) -> None:
        assert refusal(server, data) == (4500, "expected a token, or no data")

    def test_needs_a_key_that_is_long_enough(self, club: Club, tmp_path: Path) -> None:
        for path in club.folder.glob("*.py"):
            (tmp_path / path.name).write_text(path.read_text())
        for key in ("", "00" * 31):
            (tmp_path / "secret.key").write_text(key)
            ended = subprocess.run(
                [sys.executable, "login.py"],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
            )
            assert ended.stderr.splitlines()[-1] == "ValueError: secret.key is too short"


class TestLimits:
    @pytest.fixture
    @staticmethod
    def attempts(monkeypatch: pytest.MonkeyPatch) -> Any:
        """The module, with a clock that the test sets: `attempts.now`."""
        blocks = [b for b in USERS["Limits on attempts"] if b.language == "python"]
        module = ModuleType("attempts")
        exec(compile(blocks[0].text, "attempts.py", "exec"), vars(module))
        vars(module)["now"] = 0.0
        monkeypatch.setattr(vars(module)["time"], "monotonic", lambda: vars(module)["now"])
        return module

    def test_end_after_their_time(self, attempts: Any) -> None:
        limit = attempts.Attempts(3, seconds=10)
        assert [limit.take("a") for _ in range(5)] == [True, True, True, False, False]
        assert limit.take("b")
        attempts.now = 9.9
        assert not limit.take("a")
        attempts.now = 10.0
        assert [limit.take("a") for _ in range(4)] == [True, True, True, False]

    def test_do_not_count_a_right_attempt(self, attempts: Any) -> None:
        limit = attempts.Attempts(3, seconds=10)
        limit.take("a")
        for _ in range(20):
            assert limit.take("a")
            limit.give_back("a")
        assert [limit.take("a") for _ in range(3)] == [True, True, False]
        limit.give_back("unknown")

    def test_have_bounded_memory(self, attempts: Any) -> None:
        limit = attempts.Attempts(3, seconds=10, keys=100)
        for number in range(1_000):
            limit.take(number)
            limit.take("in use")
        assert len(limit._counts) == 100
        assert not limit.take("in use")

    @pytest.mark.parametrize(
        ("address", "key"),
        [
            ("203.0.113.9", "203.0.113.9"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("::ffff:203.0.113.9", "::ffff:203.0.113.9"),
            ("", ""),
        ],
    )
    def test_are_of_a_network_in_ipv6(self, attempts: Any, address: str, key: str) -> None:
        assert attempts.network(address) == key

    def test_hold_for_a_name_and_for_an_address(self, tmp_path: Path) -> None:
        club = Club(tmp_path)
        refused = {"code": 429, "message": "too many attempts: try again in a quarter of an hour"}
        with running(club.server()) as server:
            token = club.token(server, "ada")
            with connected(server) as guest:
                for _ in range(10):
                    assert Club.login(guest, "ada", "wrong") == WRONG
                assert Club.login(guest, "ada", PASSWORDS["ada"]) == refused
            # Neither another name nor a token is affected; another connection is no way around.
            with connected(server) as guest:
                assert Club.login(guest, "ada", PASSWORDS["ada"]) == refused
                assert "data" in Club.login(guest, "bob", PASSWORDS["bob"])
                for number in range(8):
                    assert Club.login(guest, f"name {number}", "wrong") == WRONG
                assert Club.login(guest, "bob", PASSWORDS["bob"]) == refused
            with connected(server, {"token": token}):
                pass


class TestRoomsAndRoles:
    def test_private_room_is_for_its_members(self, server: Server, ada: str, bob: str) -> None:
        private = {"code": 103, "message": "this room is private"}
        with (
            connected(server, {"token": ada}) as moderator,
            connected(server, {"token": bob}) as member,
            connected(server) as guest,
        ):
            for one, rooms in ((member, ["room:board", "room:new"]), (guest, ["room:garden"])):
                for room in rooms:
                    one.do("subscribe", room)
                    refused = one.next("own unsubscribed")
                    assert (refused["code"], refused["reason"]) == (103, private["message"])
                    for method in ("presence", "history"):
                        assert one.ask(method, room, {"limit": 1}) == private
                    assert one.ask("publish", room, "hello") == private
            for one in (moderator, member):
                one.do("subscribe", "room:garden")
                one.next("own subscribed")
            assert member.ask("publish", "room:garden", "hello") == {}
            said = moderator.next("own publication")
            assert (said["data"], said["info"]["user"]) == ("hello", "bob")
            assert said["info"]["connInfo"] == {"role": "member"}
        answer = ask(server, "GET", "channels/room:garden?last=1")
        assert answer.status == 403

    def test_moderators_write_and_guests_read(self, server: Server, ada: str, bob: str) -> None:
        denied = {"code": 103, "message": "only moderators write here"}
        with (
            connected(server, {"token": ada}) as moderator,
            connected(server, {"token": bob}) as member,
            connected(server) as guest,
        ):
            guest.do("subscribe", "news")
            guest.next("own subscribed")
            for one in (member, guest):
                assert one.ask("publish", "news", "spam") == denied
            assert moderator.ask("publish", "news", "welcome") == {}
            read = guest.next("own publication")
            assert (read["data"], read["info"]["user"]) == ("welcome", "ada")


class TestTheSessionOfFlask:
    @pytest.fixture(scope="class")
    @staticmethod
    def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
        recipe = Recipe(tmp_path_factory.mktemp("flask"), FLASK)
        [make_key] = recipe.commands("(umask")
        recipe.run(make_key)
        return recipe

    @pytest.fixture(scope="class")
    @staticmethod
    def server(recipe: Recipe) -> Iterator[Server]:
        with running(recipe.server()) as server:
            yield server

    @staticmethod
    def cookie(recipe: Recipe, before: str = "", values: str = "{'user': 'ada'}") -> str:
        """A cookie of Flask; `before` is code that changes `web`."""
        code = f"""
from blog import web
from flask import session
{before}

@web.get("/set")
def set():
    session.update({values})
    return ""

print(web.test_client().get("/set").headers["Set-Cookie"].partition(";")[0])
"""
        (recipe.folder / "set.py").write_text(code)
        return recipe.run("python3 set.py").strip()

    def test_gives_the_user(self, recipe: Recipe, server: Server) -> None:
        cookie = self.cookie(recipe)
        with (
            connected(server, cookie=f"theme=dark; {cookie}") as one,
            connected(server, cookie=f"{cookie}; theme=dark"),
        ):
            one.do("subscribe", "comments")
            one.next("own subscribed")
            assert users(one, "comments") == [("ada", None)]

    def test_may_have_any_values_and_be_long(self, recipe: Recipe, server: Server) -> None:
        values = "{'user': 'Zoë', 'cart': list(range(500)), '_flashes': [('a', 'b')]}"
        with connected(server, cookie=self.cookie(recipe, values=values)) as one:
            one.do("subscribe", "comments")
            one.next("own subscribed")
            assert users(one, "comments") == [("Zoë", None)]

    @pytest.mark.parametrize(
        ("before", "values"),
        [
            ("web.secret_key = 'that of another application'", "{'user': 'ada'}"),
            ("web.session_interface.salt = 'another'", "{'user': 'ada'}"),
            ("web.session_interface.key_derivation = 'concat'", "{'user': 'ada'}"),
            (
                "web.session_interface.digest_method = __import__('hashlib').sha256",
                "{'user': 'ada'}",
            ),
            (
                "import itsdangerous as i; i.TimestampSigner.get_timestamp = lambda s: 1",
                "{'user': 'ada'}",
            ),
            ("", "{'theme': 'dark'}"),
        ],
        ids=["another key", "another salt", "derivation", "digest", "too old", "nobody"],
    )
    def test_of_nobody_is_refused(
        self, recipe: Recipe, server: Server, before: str, values: str
    ) -> None:
        cookie = self.cookie(recipe, before, values)
        assert refusal(server, cookie=cookie) == (4500, "log in first")

    def test_cannot_be_tampered_with(self, recipe: Recipe, server: Server) -> None:
        name, _, value = self.cookie(recipe).partition("=")
        payload, when, signature = value.split(".")
        other = self.cookie(recipe, values="{'user': 'bob'}").partition("=")[2].split(".")
        for tampered in (
            f"{other[0]}.{when}.{signature}",
            f"{payload}.{when[:-1]}.{signature}",
            f"{payload}.{when}.{signature[:-2]}",
            f"{payload}.{when}",
            f".{payload}.{when}.{signature}",
            payload,
            "",
        ):
            assert refusal(server, cookie=f"{name}={tampered}") == (4500, "log in first"), tampered
        assert refusal(server) == (4500, "log in first")

    def test_works_in_two_tabs_of_a_browser_beyond_a_restart(
        self, recipe: Recipe, server: Server, browser: Browser
    ) -> None:
        [start] = recipe.commands("flask")
        flask = [sys.executable, "-m", *recipe.real(start).split()]
        recipe.programs.start(flask, recipe.page_port)
        try:
            with browser.new_context() as context:
                self.visit(recipe, server, context.new_page(), context.new_page())
        finally:
            recipe.programs.close()

    @staticmethod
    def visit(recipe: Recipe, server: Server, one: Page, other: Page) -> None:
        url = f"http://localhost:{recipe.page_port}/"
        one.goto(url)
        expect(one.locator("#problem")).to_contain_text("log in first")
        one.fill("input", "ada")
        one.click("button")
        one.wait_for_url(url)
        other.goto(url)
        for text in ("first", "second"):
            wait_until(lambda: watchers(server, "comments") == {"ada"})
            publish(server, "comments", text)
            for tab in (one, other):
                expect(tab.locator("#comment")).to_have_text(text)
            if text == "first":
                server.stop()
                server.start()


SETTINGS = """
import os

SESSION_ENGINE = "django.contrib.sessions.backends." + os.environ.get("ENGINE", "db")
ALLOWED_HOSTS = ["testserver"]
"""
SESSION = """
import sys, django
django.setup()
from django.contrib.auth.models import User
from django.test import Client
name, change = sys.argv[1:]
user, _ = User.objects.get_or_create(username=name, is_staff=name == "ada")
client = Client()
client.force_login(user)
cookie = client.cookies["sessionid"].value
if change == "password":
    user.set_password("another")
    user.save()
if change == "logout":
    client.logout()
if change == "inactive":
    user.is_active = False
    user.save()
print("sessionid=" + cookie)
"""


class TestTheSessionOfDjango:
    @pytest.fixture(scope="class")
    @staticmethod
    def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
        recipe = Recipe(tmp_path_factory.mktemp("django"), DJANGO)
        recipe.run("python3 -m django startproject mysite .")
        with (recipe.folder / "mysite" / "settings.py").open("a") as settings:
            settings.write(SETTINGS)
        recipe.run("python3 manage.py migrate")
        (recipe.folder / "session.py").write_text(SESSION)
        return recipe

    @pytest.fixture(scope="class", params=["db", "signed_cookies"])
    @staticmethod
    def engine(request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(scope="class")
    @staticmethod
    def server(recipe: Recipe, engine: str) -> Iterator[Server]:
        with running(recipe.server(ENGINE=engine)) as server:
            yield server

    @staticmethod
    def cookie(recipe: Recipe, engine: str, name: str, change: str = "-", key: str = "") -> str:
        settings = f"ENGINE={engine} DJANGO_SETTINGS_MODULE=mysite.settings"
        if key:
            (recipe.folder / "other.py").write_text(
                f"from mysite.settings import *\nSECRET_KEY = {key!r}\n"
            )
            settings = f"ENGINE={engine} DJANGO_SETTINGS_MODULE=other"
        return recipe.run(f"{settings} python3 session.py {name} {change}").strip()

    def test_gives_user_and_role_beyond_a_restart(
        self, recipe: Recipe, engine: str, server: Server
    ) -> None:
        staff, member = (self.cookie(recipe, engine, name) for name in ("ada", "bob"))
        with (
            connected(server, cookie=staff) as ada,
            connected(server, cookie=member) as bob,
            connected(server, cookie=member) as tab,
        ):
            for one in (bob, tab):
                one.do("subscribe", "news")
                one.next("own subscribed")
            assert [info for _, info in users(ada, "news")] == [{"name": "bob"}] * 2
            server.stop()
            server.start()
            for one in (bob, tab):
                one.next("own subscribed")
            ada.next("connected")
            assert ada.ask("publish", "news", "welcome") == {}
            assert bob.next("own publication")["info"]["connInfo"] == {"name": "ada"}
            assert bob.ask("publish", "news", "spam")["message"] == "only the staff writes here"

    @pytest.mark.parametrize("change", ["password", "inactive"])
    def test_ends_with_the_password_and_the_user(
        self, recipe: Recipe, engine: str, server: Server, change: str
    ) -> None:
        cookie = self.cookie(recipe, engine, f"{change}-{engine}", change)
        assert refusal(server, cookie=cookie) == (4500, "log in first")

    def test_of_nobody_is_refused(self, recipe: Recipe, engine: str, server: Server) -> None:
        cookie = self.cookie(recipe, engine, "bob")
        others = ["", "sessionid=", "sessionid=x", f"{cookie[:-1]}", f"other{cookie}"]
        if engine == "db":
            others.append(self.cookie(recipe, engine, "carl", "logout"))
        else:
            others.append(self.cookie(recipe, engine, "bob", key="that of another project"))
        for other in others:
            assert refusal(server, cookie=other) == (4500, "log in first"), other


class TestThePage:
    def test_logs_in_two_tabs_and_stays_so(self, browser: Browser, tmp_path: Path) -> None:
        club = Club(tmp_path)
        with running(club.server()) as server:
            visits = visits_at(browser, f"http://localhost:{club.follower.port}/")
            visits.allow(NO_ICON)
            page = visits.open()
            self.log_in(page, "ada", "wrong")
            expect(page.locator("#problem")).to_have_text("wrong name or password")
            self.log_in(page, "ada", PASSWORDS["ada"])
            expect(page.locator("#logout")).to_be_visible()
            tab = page.context.new_page()
            tab.goto(page.url)
            expect(tab.locator("#logout")).to_be_visible()
            with connected(server, {"token": club.token(server, "ada")}) as ada:
                ada.ask("publish", "news", "welcome")
                for one in (page, tab):
                    expect(one.locator("#news li")).to_have_text(["welcome"])
                assert watchers(server, "news") == {"ada"}
            server.stop()
            server.start()
            for one in (page, tab):
                expect(one.locator("#problem")).to_have_text("")
            tab.evaluate("localStorage.setItem('token', '1.2.ada')")
            tab.reload()
            expect(tab.locator("#problem")).to_contain_text("invalid token: log in")
            self.log_in(tab, "bob", PASSWORDS["bob"])
            expect(tab.locator("#problem")).to_have_text("")
            tab.click("#logout")
            expect(tab.locator("#login")).to_be_visible()
            visits.close()
            assert visits.problems == []

    @staticmethod
    def log_in(page: Page, user: str, password: str) -> None:
        page.fill("[name=user]", user)
        page.fill("[name=password]", password)
        page.click("#login button")
