"""docs/browser.md is true: its examples, as pages of the server and of another one."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.blocks import Block, block_with
from tests.page.site import ORIGIN, Site

pytestmark = pytest.mark.slow

WATCH = block_with("docs/browser.md", "console.log(event, data")
ELSEWHERE = block_with("docs/browser.md", "https://push.example/static/pushserver.js")
PARTS = block_with("docs/browser.md", 'number("#newest"')
TOKENS = block_with("docs/browser.md", "getToken")


@pytest.mark.parametrize(("block", "logged"), [(WATCH, "message 7 "), (ELSEWHERE, "7")])
def test_watch_logs_each_event(site: Site, block: Block, logged: str) -> None:
    page = site.open_blank()
    site.pages["/"] = f"<!doctype html>{block.text.replace('https://push.example', ORIGIN)}"
    site.publish(7)
    with page.expect_console_message() as message:
        page.goto(f"{ORIGIN}/")
    assert message.value.text.startswith(logged)


def test_parts_show_their_channel(site: Site) -> None:
    site.publish(*({"temperature": 18.5 + n, "humidity": 60} for n in range(6)))
    page = site.open_own(f"<!doctype html>{PARTS.text}")
    expect(page.locator("#newest .figure-value")).to_have_text("23.5°C")
    expect(page.locator("#graph canvas")).to_be_visible()
    expect(page.locator("#list li[data-offset]")).to_have_count(5)


def test_token_is_fetched_from_the_site(site: Site) -> None:
    site.pages["/token"] = "signed"
    script = f'import {{ connect }} from "/static/pushserver.js";\n{TOKENS.text}'
    page = site.open_own(f'<!doctype html><script type="module">{script}</script>')
    site.wait_for(page, lambda: bool(site.commands))
    assert site.commands[0]["connect"]["token"] == "signed"
