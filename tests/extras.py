"""Each extra is installed alone, with the package, into a new environment, and used there.

`make extras` runs this; it is no part of `make test`, because it makes five environments.
"""

from __future__ import annotations

import http.server
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, Server, environment, running
from tests.http_server import HttpServer, Quiet
from tests.redis.server import RedisServer

CRON = """
[sources.night]
type = "cron"
channel = "night"
expression = "30 2 * * *"
timezone = "Europe/Paris"
"""
FEED = """
[sources.news]
type = "feed"
channel = "news"
url = "%s"
"""
REDIS = """
[broker]
url = "%s"
"""
FLASK = """
from flask import Flask
from pushserver.flask import SocketIO

app = Flask(__name__)
socketio = SocketIO(app)

@app.route("/")
def index():
    return "by Flask"
"""


class OneEntry(Quiet, http.server.BaseHTTPRequestHandler):
    """Answers with a feed."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        entry = b"<item><guid>1</guid><title>Bread</title></item>"
        self.wfile.write(b'<rss version="2.0"><channel>%b</channel></rss>' % entry)


def run(*command: str | Path, **variables: str) -> tuple[int, str]:
    """The status and the output of a program that does not see the checkout."""
    ended = subprocess.run(
        command,
        env=environment(PYTHONPATH="", **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    status, output = run(CHECKOUT / "tools" / "dist", folder, PYTHON=sys.executable)
    assert status == 0, output
    [path] = folder.glob("*.whl")
    return path


def install(folder: Path, wheel: Path, extra: str = "") -> Path:
    """The folder of the programs of a new environment with the wheel and this extra."""
    programs = folder / "venv" / "bin"
    pip = (programs / "python", "-m", "pip", "--disable-pip-version-check")
    constraints = CHECKOUT / "constraints.txt"
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    for command in (
        (sys.executable, "-m", "venv", folder / "venv"),
        (*pip, "install", "--constraint", constraints, wanted),
        (*pip, "check"),
    ):
        status, output = run(*command)
        assert status == 0, output
    return programs


def serving(folder: Path, programs: Path, config: str = "", app: str = "") -> Server:
    """A server of this environment, with a configuration or a program for Flask."""
    path = folder / ("app.py" if app else "c.toml")
    path.write_text(app or config)
    arguments = ("--app", f"{path}:socketio") if app else ("--config", str(path))
    twistd = [str(programs / "twistd")]
    # The time zones are those of the extra: this one hides those of the machine.
    env = environment(PYTHONPATH="", PYTHONTZPATH="")
    return Server(folder, *arguments, twistd=twistd, env=env)


def test_cron_has_the_times_and_the_time_zones(tmp_path: Path, wheel: Path) -> None:
    programs = install(tmp_path, wheel, "cron")
    with running(serving(tmp_path, programs, CRON)) as server:
        assert "night" in server.get("status").text


def test_feed_reads_a_feed(tmp_path: Path, wheel: Path) -> None:
    programs = install(tmp_path, wheel, "feed")
    with (
        closing(HttpServer(OneEntry)) as site,
        running(serving(tmp_path, programs, FEED % f"{site.url}/")) as server,
    ):
        assert "Bread" in server.get(f"channels/news?since=oldest&wait={PATIENCE:.0f}").text


def test_flask_serves_an_application(tmp_path: Path, wheel: Path) -> None:
    programs = install(tmp_path, wheel, "flask")
    with running(serving(tmp_path, programs, app=FLASK)) as server:
        assert server.get("").text == "by Flask"
        assert server.get("socket.io/?EIO=4&transport=polling").text.startswith("0{")


def test_redis_keeps_a_publication(tmp_path: Path, wheel: Path) -> None:
    programs = install(tmp_path, wheel, "redis")
    with RedisServer(tmp_path / "redis") as redis:
        server = serving(tmp_path, programs, REDIS % f"unix://{redis.path}")
        for data in ("first", "second"):
            with running(server):
                publish = (programs / "pushserver", "publish", "news", data, "--url", server.url)
                assert run(*publish)[0] == 0
                assert "first" in server.get("channels/news?since=oldest").text


def test_each_extra_is_named_where_it_is_missing(tmp_path: Path, wheel: Path) -> None:
    programs = install(tmp_path, wheel)
    path = tmp_path / "c.toml"
    for config, extra in (
        (CRON, "cron"),
        (FEED % "http://h/", "feed"),
        (REDIS % "redis://h", "redis"),
    ):
        path.write_text(config)
        status, output = run(programs / "pushserver", "check-config", path)
        assert (status, output.count("\n")) == (1, 1), output
        assert f": pip install 'pushserver[{extra}]'" in output
    status, output = run(programs / "python", "-c", "import pushserver.flask")
    assert status == 1
    assert output.endswith(": pip install 'pushserver[flask]'\n")
