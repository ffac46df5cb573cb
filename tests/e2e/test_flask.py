"""Programs with `pushserver.flask`: Flask and Socket.IO on one port, in a browser."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from shutil import copytree

from playwright.sync_api import Browser, Page, expect

from tests.e2e.follower import Programs
from tests.e2e.server import CHECKOUT, Server, running
from tests.e2e.visits import Visits

EXAMPLE = CHECKOUT / "examples" / "async_flask"
LOST_CONNECTION = r"ERR_(CONNECTION_|EMPTY_)|WebSocket connection to"

PROGRAM = """
from flask import Flask, render_template_string, request, session

from pushserver.flask import SocketIO, call, emit, join_room, send

app = Flask(__name__)
app.secret_key = "secret"
socketio = SocketIO(app, async_mode="threading")


@app.route("/")
def index():
    session["user"] = request.args["user"]
    return render_template_string(PAGE)


@app.route("/say/<text>")
def say(text):
    socketio.emit("said", text)
    return "", 204


@socketio.on("connect")
def connect(auth):
    join_room("everybody")
    emit("come", [session["user"], auth, request.headers["Host"]], to="everybody")


@socketio.on("ask")
def ask(question, data):
    answer = call("question", (question, data), timeout=60)
    emit("answered", list(answer), callback=thanks)
    return session["user"], data[::-1]


def thanks(*values):
    emit("thanks", list(values), broadcast=True)


@socketio.on("stop")
def stop():
    socketio.stop()


PAGE = '''<!doctype html>
<link rel="icon" href="data:,">
<script src="/socket.io/socket.io.js"></script>
<script>
  const lines = [];
  const socket = io({auth: {name: "page"}});
  const text = (value) => value instanceof ArrayBuffer ? [...new Uint8Array(value)] : value;
  for (const event of ["come", "said", "thanks"]) {
    socket.on(event, (value) => lines.push([event, value]));
  }
  socket.on("question", (question, data, done) => done(question + "!", text(data).length));
  socket.on("answered", (value, done) => { lines.push(["answered", value]); done(1, 2); });
  const ask = async () => {
    const data = new Uint8Array([1, 2, 3]).buffer;
    return new Promise((done) => {
      socket.emit("ask", "why", data, (...values) => done(values.map(text)));
    });
  };
</script>
'''

if __name__ == "__main__":
    socketio.run(app, port=PORT)
"""


def numbers(page: Page) -> list[str]:
    return page.locator("#numbers li").all_inner_texts()


def record_numbers(page: Page) -> None:
    """Let the page keep its present and later numbers, which it shows for half a second only."""
    page.evaluate("""() => {
      window.seen = new Set();
      const list = document.querySelector("#numbers");
      const note = () => {
        for (const { innerText } of list.children) seen.add(innerText);
      };
      note();
      new MutationObserver(note).observe(list, { childList: true, subtree: true });
    }""")


def has_seen(page: Page, number: str) -> None:
    page.wait_for_function("(number) => seen.has(number)", arg=number)


def test_pages_have_the_same_numbers_also_after_a_restart_by_another_command(
    browser: Browser, tmp_path: Path
) -> None:
    copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "application.py"
    text = file.read_text("utf-8")
    [arguments] = re.findall(r"twistd -n pushserver (.*) --port 5000", text)
    server = Server(tmp_path, *arguments.split())
    text = text.replace("sleep(1)", "sleep(0.05)")
    file.write_text(text.replace("run(app)", f"run(app, port={server.port})"), "utf-8")
    programs, visits = Programs(tmp_path), Visits(browser, server.url)
    visits.allow(LOST_CONNECTION)
    with closing(visits), ExitStack() as stack:
        with closing(programs):
            programs.start([sys.executable, "application.py"], server.port)
            first = visits.open()
            record_numbers(first)
            expect(first.locator("#numbers li")).to_have_count(10)
            second = visits.open()
            record_numbers(second)
            # A page that comes later has a whole list, and both go on.
            expect(second.locator("#numbers li")).to_have_count(10)
            latest = numbers(second)[-1]
            has_seen(first, latest)
            expect(first.locator("#numbers")).not_to_contain_text(latest)
        expect(first.locator("#state")).to_have_text("connecting again")
        before = {*numbers(first)}
        stack.enter_context(running(server))
        for page in (first, second):
            expect(page.locator("#state")).to_have_text("connected")
            expect(page.locator("#numbers li").first).not_to_have_text(
                re.compile("|".join(map(re.escape, before)))
            )
        has_seen(second, numbers(first)[-1])
        assert visits.problems == []
    assert "Traceback" not in (tmp_path / "programs").read_text("utf-8")


def test_pages_and_routes_of_flask_talk_to_each_other(browser: Browser, tmp_path: Path) -> None:
    server = Server(tmp_path)
    program = PROGRAM.replace("PORT", str(server.port))
    (tmp_path / "program.py").write_text(program, "utf-8")
    programs, visits = Programs(tmp_path), Visits(browser, server.url)
    with closing(programs), closing(visits):
        programs.start([sys.executable, "program.py"], server.port)
        ann = visits.open("?user=ann")
        ann.wait_for_function("() => lines.length == 1")
        bob = visits.open("?user=bob")
        host = f"127.0.0.1:{server.port}"
        arrived = [["come", [user, {"name": "page"}, host]] for user in ("ann", "bob")]
        ann.wait_for_function("() => lines.length == 2")
        assert ann.evaluate("ask()") == ["ann", [3, 2, 1]]
        ann.wait_for_function("() => lines.length == 4")
        assert ann.evaluate("lines") == [
            *arrived,
            ["answered", ["why!", 3]],
            ["thanks", [1, 2]],
        ]
        bob.evaluate("fetch('/say/hello')")
        for page in (ann, bob):
            page.wait_for_function("() => lines.some(([event, value]) => value == 'hello')")
        assert bob.evaluate("lines") == [arrived[1], ["thanks", [1, 2]], ["said", "hello"]]
        visits.allow(LOST_CONNECTION)
        ann.evaluate("socket.emit('stop')")
        assert programs.wait() == 0
        assert visits.problems == []
    assert "Traceback" not in (tmp_path / "programs").read_text("utf-8")
