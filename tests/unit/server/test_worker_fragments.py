"""Fragments at a worker: it renders templates itself, and the main process calls functions."""

from __future__ import annotations

from pathlib import Path

import pytest
from markupsafe import Markup

from pushserver import PublicationView, PushServer
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.server.build import with_app
from pushserver.server.meter import REPORT_SECONDS
from tests.unit.fakes.processes import Processes
from tests.unit.fakes.web import Trouble, handshake, parse

SSE = "text/event-stream"


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    (tmp_path / "row.html").write_text("<p>{{ data }}</p>")
    app = PushServer()

    @app.fragment("called")
    def called(publication: PublicationView) -> Markup:
        return Markup("<b>{}</b>").format(publication.data)

    @app.fragment(namespace="all")
    def of_all(publication: PublicationView) -> Markup:
        return Markup("<i>{}</i>").format(publication.data)

    tables = {"rendered": {"template": "row.html"}}
    config = Config(server=ServerConfig(templates=str(tmp_path)), channels=tables)
    made = Processes(tmp_path, app, config=with_app(config, app))
    made.settle()
    return made


@pytest.mark.parametrize(("channel", "relayed"), [("rendered", 0), ("called", 1), ("all:a", 1)])
@pytest.mark.parametrize("path", ["/channels/{}?as=html", "/events?channel={}&as=turbo"])
def test_streams_have_live_fragments(
    processes: Processes, path: str, channel: str, relayed: int
) -> None:
    (worker,) = processes.workers
    line = worker.open(path.format(channel), accept=SSE)
    processes.settle()
    assert parse(line.take()).status == 200
    assert len(processes.relayed) == relayed
    processes.main.publish(channel, "new")
    processes.settle()
    assert b">new</" in line.take()


@pytest.mark.parametrize("channel", ["rendered", "called"])
def test_retained_fragments_are_those_of_the_main_process(
    processes: Processes, channel: str
) -> None:
    processes.main.publish(channel, "one")
    processes.settle()
    asked = f"/channels/{channel}?as=html"
    answers = [processes.ask(one, asked).body for one in (processes.main, *processes.workers)]
    assert answers[0] == answers[1]
    assert b">one</" in answers[0]


@pytest.mark.parametrize("path", ["/channels/called?as=html", "/events?channel=called&as=html"])
def test_a_websocket_of_a_function_is_that_of_the_main_process(
    processes: Processes, path: str
) -> None:
    (worker,) = processes.workers
    line = worker.open(path, **handshake())
    processes.settle()
    answer = parse(line.take())
    assert answer.status == 101
    processes.main.publish("called", "new")
    processes.settle()
    assert line.take()[2:] == b"<b>new</b>"


def test_failures_of_a_worker_are_counted_and_in_the_status(
    processes: Processes, tmp_path: Path, trouble: Trouble
) -> None:
    (tmp_path / "row.html").write_text("{{ data.nothing }}")
    (worker,) = processes.workers
    worker.service.live._base.fragments.use(str(tmp_path), ())
    processes.main.publish("rendered", {})
    processes.settle()
    answer = processes.ask(worker, "/channels/rendered?as=html")
    assert b"<!--" in answer.body
    processes.clock.advance(REPORT_SECONDS)
    processes.settle()
    (failed,) = processes.main.get("/status?channel=rendered").json["fragments"]
    assert (failed["name"], failed["channel"]) == ("row.html", "rendered")
    assert "no attribute 'nothing'" in failed["error"]
    assert processes.main.get("/status?channel=called").json["fragments"] == []
    answer = processes.main.get("/status").json
    assert [each["name"] for each in answer["facts"]["templates"]] == ["row.html"]
    assert "templates" in {finding["subject"] for finding in answer["findings"]}
    metrics = processes.main.get("/metrics").body
    assert b'pushserver_template_failures_total{template="row.html"} 1.0' in metrics
    assert "the template row.html failed for rendered" in trouble.take()[0]
