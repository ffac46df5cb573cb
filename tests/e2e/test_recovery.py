"""The command line and a browser resume by themselves after a restart of the server.

That each way to read can resume is in tests/doors; the clients of other projects are in
tests/peers/test_restart.py.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Browser

from tests.e2e.exchange import publish, serving
from tests.e2e.lines import Lines
from tests.e2e.programs import PUSHSERVER

STORE = '[store]\npath = "s.db"\n[sources]'
MEMORY = "[sources]"


def test_the_command_line_resumes_by_itself(tmp_path: Path) -> None:
    with serving(tmp_path, STORE) as server:
        publish(server, "a", 1)
        command = [
            *PUSHSERVER,
            "subscribe",
            "a",
            "--url",
            server.url,
            "--last",
            "1",
            "--count",
            "5",
        ]
        with closing(Lines(command)) as program:
            assert json.loads(program.next())["data"] == 1
            publish(server, "a", 2)
            assert json.loads(program.next())["data"] == 2
            server.stop()
            server.start()
            for n in (3, 4, 5):
                publish(server, "a", n)
            assert [json.loads(line)["data"] for line in program.to_the_end()] == [3, 4, 5]
            assert program.wait() == 0


def test_an_eventsource_of_a_browser_resumes_by_itself(tmp_path: Path, browser: Browser) -> None:
    with serving(tmp_path, STORE) as server, browser.new_context() as context:
        page = context.new_page()
        # A page of the same origin without a script.
        page.goto(f"{server.url}static/favicon.svg")
        page.evaluate(LISTEN)
        page.wait_for_function("() => window.opened === 1")
        publish(server, "a", 1)
        page.wait_for_function("() => window.heard.length === 1")
        server.stop()
        server.start()
        for n in (2, 3):
            publish(server, "a", n)
        # A lost stream reconnects after one to four seconds.
        page.wait_for_function("() => window.heard.length === 3")
        publish(server, "a", 4)
        page.wait_for_function("() => window.heard.length === 4")
        assert page.evaluate("window.heard") == [1, 2, 3, 4]
        assert page.evaluate("window.resets") == []


def test_an_eventsource_of_a_browser_is_told_of_a_loss(tmp_path: Path, browser: Browser) -> None:
    with serving(tmp_path, MEMORY) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{server.url}static/favicon.svg")
        page.evaluate(LISTEN)
        # It has no publication yet, but knows its position.
        page.wait_for_function("() => window.opened === 1")
        server.stop()
        server.start()
        page.wait_for_function("() => window.resets.length === 1")
        assert page.evaluate("window.resets") == ["epoch"]
        publish(server, "a", 1)
        page.wait_for_function("() => window.heard.length === 1")


LISTEN = """
    () => {
        window.heard = [];
        window.resets = [];
        window.opened = 0;
        const source = new EventSource('/channels/a');
        source.addEventListener('pushserver-subscribed', () => { window.opened += 1; });
        source.onmessage = event => window.heard.push(JSON.parse(event.data).data);
        source.addEventListener('pushserver-reset',
            event => window.resets.push(JSON.parse(event.data).reason));
    }
"""
