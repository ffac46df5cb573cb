"""docs/frameworks.md is true: each part runs with the real framework, as written."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

import pushserver
from tests.e2e.conditions import wait_until
from tests.e2e.desk import DOCUMENT, KEY, SECTIONS, Desk
from tests.e2e.exchange import history
from tests.e2e.follower import NO_ICON, visits_at
from tests.e2e.patience import PATIENCE
from tests.e2e.server import get
from tests.e2e.visits import Visits

STEPS = [{"percent": percent} for percent in range(0, 100, 10)]
RESULT = {"rows": 1234}
RECORD = """
window.seen = [];
window.EventSource = class extends EventSource {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", (message) => window.seen.push(JSON.parse(message.data)));
  }
};
"""
"""The page's own EventSource, which also collects its events for the test."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def follow(
    desk: Desk, job: str, at: int = -1, disturb: Callable[[], object] | None = None
) -> list[Any]:
    """Read a job to its end, and return its data; `disturb` is called after the step `at`.

    The reader then connects again, as a browser does, with the last id that it has.
    """
    found: list[Any] = []
    reading = desk.read(job)
    try:
        while not found or found[-1]["event"] != "done":
            found.append(reading.object())
            assert found[-1]["offset"] == len(found)
            if disturb is not None and len(found) == at:
                reading.close()
                disturb()
                reading = desk.read(job, found[-1]["id"])
    finally:
        reading.close()
    return [publication["data"] for publication in found]


def late(desk: Desk, job: str) -> Any:
    """The data of a reader that comes after the end."""
    [publication] = history(desk.server, f"job:{job}", "last=1")["publications"]
    assert publication["event"] == "done"
    return publication["data"]


def restart(desk: Desk) -> None:
    assert desk.server.stop() == -signal.SIGTERM
    desk.server.start()


def restart_slowly(desk: Desk) -> None:
    """Restart the server after six attempts to publish: those of one second are five."""
    assert desk.server.stop() == -signal.SIGTERM
    with socket.create_server(("127.0.0.1", desk.server.port)) as away:
        away.settimeout(PATIENCE)
        for _ in range(6):
            away.accept()[0].close()
    desk.server.start()


def change(desk: Desk, name: str, noticed: str) -> None:
    """Save a file, and wait until the program has noticed that and answers again."""
    with (desk.folder / name).open("a") as file:
        file.write("\n# saved\n")
    wait_until(lambda: re.search(noticed, desk.log.read_text()))
    wait_until(lambda: get_page(desk) == 200)


def get_page(desk: Desk) -> int:
    try:
        return get(desk.page_port, "").status
    except OSError:
        return 0


class TestInABrowser:
    def visits(self, browser: Browser, desk: Desk, host: str = "localhost") -> Visits:
        visits = visits_at(browser, f"http://{host}:{desk.page_port}/")
        visits.allow(f"http://localhost:{desk.server.port}/channels/")
        visits.allow(NO_ICON)
        return visits

    def follow(self, visits: Visits, desk: Desk, disturb: Callable[[], object]) -> str:
        """The whole story; returns the name of the job."""
        page = visits.open()
        page.add_init_script(RECORD)
        page.click("text=Make a report")
        self.wait_for(page, "seen.length >= 3")
        disturb()
        job = page.evaluate("job")
        middle = visits.open(f"?job={job}")
        middle.wait_for_function("() => document.getElementById('bar')?.value > 0")
        for each in (page, middle):
            expect(each.locator("#result")).to_have_text("1234 rows")
        assert [event["data"] for event in page.evaluate("seen")] == [*STEPS, RESULT]
        after = visits.open(f"?job={job}")
        expect(after.locator("#result")).to_have_text("1234 rows")
        assert follow(desk, job) == [*STEPS, RESULT]
        return str(job)

    def wait_for(self, page: Page, condition: str) -> None:
        page.wait_for_function(f"() => window.seen && {condition}")

    def refused(self, browser: Browser, desk: Desk, job: str, problems: str) -> str:
        """The text of a page whose origin is not allowed."""
        visits = self.visits(browser, desk, "127.0.0.1")
        visits.allow(problems)
        result = visits.open(f"?job={job}").locator("#result")
        expect(result).to_contain_text("refuse")
        text = result.text_content()
        wait_until(lambda: f"http://127.0.0.1:{desk.page_port}" in desk.server.log)
        assert "allowed_origins" in desk.server.log
        visits.close()
        assert visits.problems == []
        return text or ""

    def test_fastapi(self, browser: Browser, desk: Desk) -> None:
        desk.server.start()
        desk.write("FastAPI")
        desk.serve_pages(*desk.commands("FastAPI"))
        visits = self.visits(browser, desk)
        job = self.follow(visits, desk, lambda: restart(desk))
        assert self.refused(browser, desk, job, "CORS policy|net::ERR_FAILED") == "refused"
        visits.close()
        assert visits.problems == []

    def test_fastapi_with_the_module_of_the_server(self, browser: Browser, desk: Desk) -> None:
        desk.server.start()
        desk.write("FastAPI", "The page with pushserver.js")
        desk.serve_pages(*desk.commands("FastAPI"))
        visits = self.visits(browser, desk)
        visits.allow(f"localhost:{desk.server.port}/")
        page = visits.open()
        page.click("text=Make a report")
        page.wait_for_function("() => document.getElementById('bar')?.value >= 20")
        job = parse_qs(urlsplit(page.url).query)["job"][0]
        restart(desk)
        middle = visits.open(f"?job={job}")
        middle.wait_for_function("() => document.getElementById('bar')?.value > 0")
        for each in (page, middle, visits.open(f"?job={job}")):
            expect(each.locator("#result")).to_have_text("1234 rows")
        problems = f"CORS policy|net::ERR_FAILED|localhost:{desk.server.port}/|403"
        text = self.refused(browser, desk, job, problems)
        assert f"refuses pages of http://127.0.0.1:{desk.page_port}" in text
        visits.close()
        assert visits.problems == []

    def test_django_with_its_form_token_and_a_reload_in_the_middle(
        self, browser: Browser, desk: Desk
    ) -> None:
        desk.server.start()
        begin, serve = desk.commands("Django")
        assert desk.run(begin).returncode == 0
        desk.write("Django")
        desk.serve_pages(serve)
        visits = self.visits(browser, desk)
        self.follow(visits, desk, lambda: change(desk, "mysite/urls.py", "urls.py changed"))
        assert desk.post()[0] == 403  # without the token
        visits.close()
        assert visits.problems == []


class TestEarlierEvents:
    def order(self, desk: Desk, *numbers: int) -> None:
        for number in numbers:
            url = f"http://localhost:{desk.server.port}"
            pushserver.publish(url, "orders", {"text": f"<{number}>"}, api_key=KEY)

    def check(self, browser: Browser, desk: Desk, framework: str) -> None:
        """The newest ten are rendered, and those that come meanwhile and later follow, once."""
        title = f"Earlier events: {framework}"
        desk.server.start()
        desk.write(title)
        desk.serve_pages(*desk.commands(title))
        self.order(desk, *range(12))
        visits = visits_at(browser, f"http://localhost:{desk.page_port}/")
        visits.allow(NO_ICON)
        visits.allow(f"localhost:{desk.server.port}/")
        page = visits.open("")

        def meanwhile(route: Route) -> None:
            self.order(desk, 12, 13)
            route.continue_()

        page.route("**/static/pushserver.js", meanwhile, times=1)
        page.reload()
        items = page.locator("#orders li")
        expect(items).to_have_text([f"<{number}>" for number in range(2, 14)])
        self.order(desk, 14)
        expect(items).to_have_count(13)
        restart(desk)
        self.order(desk, 15)
        expect(items).to_have_text([f"<{number}>" for number in range(2, 16)])
        visits.close()
        assert visits.problems == []

    def check_the_examples(self, browser: Browser, desk: Desk) -> None:
        read, stream = SECTIONS["Earlier events"]
        names: dict[str, Any] = {"pushserver": pushserver}
        exec(desk.real(read.text), names)
        recent = names["recent"]
        assert [row["data"]["text"] for row in recent.publications] == [
            f"<{number}>" for number in range(6, 16)
        ]
        assert recent.position == {"epoch": recent.cursor.partition(":")[0], "offset": 16}
        self.order(desk, 16)
        visits = visits_at(browser, f"http://localhost:{desk.server.port}/")
        visits.allow(f"http://localhost:{desk.server.port}/channels/orders.*ERR_ABORTED")
        # The policy of a page would forbid to make a function of a text.
        page = visits.open("health/live")
        script = """([text, cursor]) => new Promise((resolve) => {
            const stream = new Function("cursor", `return ${text}`)(cursor);
            stream.onmessage = ({ data }) => {
                stream.close();
                resolve(JSON.parse(data).data.text);
            };
        })"""
        assert page.evaluate(script, [desk.real(stream.text), recent.cursor]) == "<16>"
        visits.close()
        assert visits.problems == []

    def test_is_rendered_by_fastapi(self, browser: Browser, desk: Desk) -> None:
        self.check(browser, desk, "FastAPI")

    def test_is_rendered_by_flask(self, browser: Browser, desk: Desk) -> None:
        self.check(browser, desk, "Flask")
        self.check_the_examples(browser, desk)

    def test_is_rendered_by_django(self, browser: Browser, desk: Desk) -> None:
        begin, _ = desk.commands("Django")
        assert desk.run(begin).returncode == 0
        self.check(browser, desk, "Django")

    def test_cannot_be_read_without_the_server(self, desk: Desk) -> None:
        title = "Earlier events: Flask"
        desk.write(title)
        desk.serve_pages(*desk.commands(title))
        assert get(desk.page_port, "").status == 500
        assert f"localhost:{desk.server.port}: [Errno 111]" in desk.log.read_text()


class TestFastapi:
    @pytest.mark.parametrize(
        ("more", "noticed"), [("--workers 2", ""), ("--reload", "web.py'?. Reloading")]
    )
    def test_with_several_processes(self, desk: Desk, more: str, noticed: str) -> None:
        desk.server.start()
        desk.write("FastAPI")
        [command] = desk.commands("FastAPI")
        desk.serve_pages(f"{command} {more}")
        status, job = desk.post()
        assert status == 303
        if noticed:
            found = follow(desk, job, 3, lambda: change(desk, "web.py", noticed))
        else:
            found = follow(desk, job)
        assert found == [*STEPS, RESULT]

    def test_without_a_server_answers_503_with_the_reason(self, desk: Desk) -> None:
        desk.write("FastAPI")
        desk.serve_pages(*desk.commands("FastAPI"))
        status, text = desk.post()
        assert status == 503
        assert f"localhost:{desk.server.port}: " in json.loads(text)["detail"]
        assert json.loads(text)["detail"].endswith("; is it running?")

    def test_serves_others_while_the_server_is_slow(self, desk: Desk) -> None:
        desk.write("FastAPI")
        web = desk.folder / "web.py"
        web.write_text(web.read_text().replace("timeout=5", "timeout=60"))
        desk.serve_pages(*desk.commands("FastAPI"))
        with (
            socket.create_server(("127.0.0.1", desk.server.port)) as slow,
            socket.create_connection(("localhost", desk.page_port), PATIENCE) as poster,
        ):
            slow.settimeout(PATIENCE)
            poster.sendall(b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            connection, _ = slow.accept()
            with connection:
                # The POST waits for an answer, which never comes.
                assert get(desk.page_port, "").status == 200
                connection.shutdown(socket.SHUT_RDWR)


class TestFlask:
    def test_with_the_reloader(self, desk: Desk) -> None:
        desk.server.start()
        desk.write("Flask")
        debug, _ = desk.commands("Flask")
        desk.serve_pages(debug)
        status, job = desk.post()
        assert status == 303
        found = follow(desk, job, 3, lambda: change(desk, "web.py", "Detected change in .*web.py"))
        assert found == [*STEPS, RESULT]
        assert late(desk, job) == RESULT

    def test_in_processes_that_are_forked_after_a_publication(self, desk: Desk) -> None:
        desk.server.start()
        desk.write("Flask")
        with (desk.folder / "web.py").open("a") as web:
            web.write("\n\ntell('boot', 0, {'percent': 0})\n")
        _, production = desk.commands("Flask")
        desk.serve_pages(production)
        jobs = [desk.post()[1] for _ in range(4)]
        assert [follow(desk, job) for job in jobs] == [[*STEPS, RESULT]] * 4
        [boot] = history(desk.server, "job:boot")["publications"]
        assert boot["data"] == {"percent": 0}


FLAKY = """

from report import tell

runs = Path("runs")


@app.task(bind=True, autoretry_for=(OSError,), default_retry_delay=0)
def flaky(self):
    with runs.open("a") as file:
        file.write("run ")
    for percent in (0, 50):
        tell(self.request.id, percent, {"percent": percent})
        if percent == 50 and not self.request.retries:
            raise OSError("the disk is full")
    tell(self.request.id, "end", {"rows": 1234}, event="done")
"""


class TestCelery:
    def test_runs_the_job_through_a_restart_of_the_server(self, desk: Desk) -> None:
        desk.server.start()
        desk.write("Celery")
        worker, order = desk.commands("Celery")
        desk.start(worker)
        job = desk.run(order).stdout.strip()
        assert follow(desk, job, 3, lambda: restart_slowly(desk)) == [*STEPS, RESULT]
        assert late(desk, job) == RESULT

    def test_retries_a_task_and_each_step_is_published_once(self, desk: Desk) -> None:
        desk.server.start()
        desk.write("Celery")
        with (desk.folder / "tasks.py").open("a") as tasks:
            tasks.write(FLAKY)
        worker, order = desk.commands("Celery")
        desk.start(worker)
        job = desk.run(order.replace("make_report", "flaky")).stdout.strip()
        assert follow(desk, job) == [{"percent": 0}, {"percent": 50}, RESULT]
        assert (desk.folder / "runs").read_text() == "run run "


class TestCron:
    @pytest.mark.parametrize("program", ["sh backup.sh", "python backup.py"])
    def test_script_publishes_once_a_day(self, desk: Desk, program: str) -> None:
        desk.server.start()
        desk.write("cron")
        assert program in desk.commands("cron")
        for _ in range(2):
            ended = desk.run(program)
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        found = history(desk.server, "job:backup")["publications"]
        assert [publication["event"] for publication in found] == ["progress", "done"]
        assert found[1]["data"] == {"bytes": (desk.folder / "backup.tar").stat().st_size}

    @pytest.mark.parametrize("program", ["sh backup.sh", "python backup.py"])
    def test_refused_message_does_not_end_the_script(self, desk: Desk, program: str) -> None:
        desk.server.start()
        desk.write("cron")
        ended = desk.run(program, PUSH_KEY="wrong")
        assert (ended.returncode, ended.stdout) == (0, "")
        reason = "the API key is not one of auth.api_keys and auth.keys"
        told = [line for line in ended.stderr.splitlines() if line.startswith("not published: ")]
        assert [reason in line for line in told] == [True, True]
        assert (desk.folder / "backup.tar").exists()


def test_notebook_publishes_in_a_cell(desk: Desk) -> None:
    desk.server.start()
    [cell] = SECTIONS["A notebook"]
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {
                "cell_type": "code",
                "id": "publish",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": desk.real(cell.text),
            }
        ],
    }
    (desk.folder / "progress.ipynb").write_text(json.dumps(notebook))
    ended = desk.run("jupyter execute progress.ipynb --kernel_name=python3")
    assert ended.returncode == 0, ended.stderr
    steps = [{"percent": percent} for percent in range(0, 100, 25)]
    assert follow(desk, "notebook") == [*steps, RESULT]


class TestFailures:
    def message(self, problem: str) -> str:
        """The message in the row of this problem."""
        text = DOCUMENT.read_text("utf-8").partition("\n## Failures\n")[2]
        [row] = [line for line in text.splitlines() if line.startswith(f"| {problem} |")]
        return str(re.findall("`([^`]*)`", row)[-1])

    def test_server_that_does_not_run(self, desk: Desk) -> None:
        program = "import report; report.tell('1', 0, {}, retry_seconds=0)"
        ended = desk.run(f'python -c "{program}"')
        expected = desk.real(self.message("the server does not run"))
        assert ended.stderr.splitlines()[-1].endswith(expected)

    def test_wrong_key_is_named_at_once(self, desk: Desk) -> None:
        desk.server.start()
        ended = desk.run("python report.py 1", PUSH_KEY="wrong")
        assert ended.returncode == 1
        line = ended.stderr.splitlines()[-1]
        assert line.endswith(self.message("the key is wrong")), line
        assert KEY not in ended.stderr

    def test_server_that_hangs(self, desk: Desk) -> None:
        program = desk.real(
            "import pushserver\n"
            "pushserver.publish('http://localhost:8080', 'a', 1, timeout=0.1, retry_seconds=0)\n"
        )
        (desk.folder / "hang.py").write_text(program)
        with closing(socket.create_server(("127.0.0.1", desk.server.port))):
            ended = desk.run("python hang.py")
        expected = desk.real(self.message("the server hangs"))
        assert ended.stderr.splitlines()[-1].endswith(expected)


def test_every_section_has_a_test() -> None:
    own = {"The server", "The job", "The page", "The page with pushserver.js", "Earlier events"}
    tested = {"FastAPI", "Flask", "Django", "Celery", "cron", "A notebook"}
    tested |= {f"Earlier events: {name}" for name in ("FastAPI", "Flask", "Django")}
    assert set(SECTIONS) == own | tested
    assert os.environ.get("PUSH_KEY") is None
