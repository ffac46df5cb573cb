"""The commands and lines of code on the live page do what they say, as they are copied."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.e2e.exchange import publish
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, environment

CHANNEL = "commands:one_two.three@four-5"
PATH = quote(CHANNEL, safe="")


def commands_of(browser: Browser, url: str) -> dict[str, str]:
    """The commands of a page by their names."""
    page = browser.new_page()
    page.goto(url)
    page.locator("#live[data-started=true]").wait_for()
    found: dict[str, str] = page.eval_on_selector_all(
        "code[data-command]",
        "all => Object.fromEntries(all.map((code) => [code.id, code.textContent]))",
    )
    page.close()
    return {name.removeprefix("command-"): text for name, text in found.items()}


@pytest.fixture(scope="module")
def commands(server: Server, browser: Browser) -> dict[str, str]:
    """The commands of the page of one channel."""
    return commands_of(browser, f"{server.url}channels/{PATH}")


@pytest.fixture(scope="module")
def together(server: Server, browser: Browser) -> dict[str, str]:
    """The commands of the page of several channels."""
    found = commands_of(browser, f"{server.url}events?channel=other&channel={PATH}")
    assert found.keys() == {"follow", "event-source"}
    return found


def output(*command: str, shell: bool = False) -> str:
    """What a program writes."""
    words = command[0] if shell else list(command)
    done = subprocess.run(
        words, shell=shell, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["empty", "publish"])
def test_curl_publishes(server: Server, commands: dict[str, str], name: str) -> None:
    before = publish(server, PATH, 1)["offset"]
    assert f'"offset":{before + 1}' in output(commands[name], shell=True)


def test_curl_reads_the_history(server: Server, commands: dict[str, str]) -> None:
    publish(server, PATH, "curl reads")
    assert '"data":"curl reads"' in output(commands["history"], shell=True)


@pytest.mark.parametrize("page", ["commands", "together"])
def test_curl_follows(server: Server, page: str, request: pytest.FixtureRequest) -> None:
    with subprocess.Popen(
        request.getfixturevalue(page)["follow"],
        shell=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        # The position comes first.
        while "data:" not in (line := program.stdout.readline()):
            assert line
        publish(server, PATH, "curl follows")
        while '"curl follows"' not in (line := program.stdout.readline()):
            assert line
        os.killpg(program.pid, signal.SIGTERM)


def test_python_publishes_and_reads(server: Server, commands: dict[str, str]) -> None:
    output(sys.executable, "-c", commands["python-publish"])
    assert "'data': {'number': 3}" in output(sys.executable, "-c", commands["python-last"])


def lines(page: Page) -> list[str]:
    """The lines that the page writes to its console, from now on."""
    found: list[str] = []

    def note(message: ConsoleMessage) -> None:
        found.append(message.text)

    page.on("console", note)
    return found


@pytest.mark.parametrize(
    ("of", "name"),
    [("commands", "module"), ("commands", "event-source"), ("together", "event-source")],
)
def test_a_page_of_the_server_follows(
    server: Server, browser: Browser, of: str, name: str, request: pytest.FixtureRequest
) -> None:
    page = browser.new_page()
    own = f"<!doctype html><script type=module>{request.getfixturevalue(of)[name]}</script>"
    page.route("**/own", lambda route: route.fulfill(body=own, content_type="text/html"))
    found = lines(page)
    page.goto(f"{server.url}own")
    number = 0
    while not any("published" in text for text in found):
        number += 1
        publish(server, PATH, f"published {number}")
        page.wait_for_timeout(50)
        assert number < PATIENCE * 20, found
    page.close()
