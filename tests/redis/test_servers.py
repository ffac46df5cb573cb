"""Real servers that share a real Redis, as users run them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pushserver import __version__
from tests.e2e.certificate import certificate
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import SSE, Reading, ask, data, history, publish
from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, environment, free_port, run_twistd
from tests.e2e.sockets import closed_with, dial, frame
from tests.e2e.test_upgrade import OLD, install
from tests.e2e.watcher import Commanded, Watcher
from tests.redis.server import RedisServer
from tests.redis.servers import Node

PATIENCE_OF_READINESS = 10.0
"""The promise of docs/monitoring.md."""


class Group:
    """Servers on one Redis, which are stopped in order at the end of the test."""

    def __init__(self, folder: Path, redis: RedisServer):
        self.folder = folder
        self.redis = redis
        self.url = f"unix://{redis.path}"
        self.nodes: list[Node] = []

    def start(
        self,
        text: str = "[sources]\n",
        url: str = "",
        ready: bool = True,
        app: Path | None = None,
        package: Path = CHECKOUT,
    ) -> Node:
        """Start another server."""
        arguments = () if app is None else (str(app),)
        folder = self.folder / f"node{len(self.nodes)}"
        node = Node(folder, url or self.url, text, *arguments, package=package)
        self.nodes.append(node)
        node.start()
        if ready:
            wait_until(node.is_ready)
        return node

    def end(self) -> None:
        """Stop them in order; their logs must have no problems."""
        for node in self.nodes:
            if node.running:
                assert node.stop() == -signal.SIGTERM
            assert node.problems == []


@contextmanager
def grouped(folder: Path, **options: str) -> Iterator[Group]:
    """A group with a Redis of these options."""
    with RedisServer(folder, **options) as redis:
        group = Group(folder, redis)
        try:
            yield group
            group.end()
        finally:
            for node in group.nodes:
                node.kill()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with grouped(tmp_path) as group:
        yield group


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest) -> str:
    """The configuration of servers with one process, or with workers."""
    return f"[sources]\n[server]\nworkers = {request.param}\n"


def event(stream: Reading) -> Any:
    """The next publication of an event stream."""
    while True:
        block = stream.block()
        if "data" in block and not block.get("event", "").startswith("pushserver-"):
            return json.loads(block["data"])


def refusal(node: Node) -> tuple[int, str, str | None]:
    """The answer to a publication that is refused."""
    answer = ask(node, "POST", "channels/a", b"0")
    return answer.status, answer.text, answer.headers["Retry-After"]


def test_watchers_at_one_server_get_what_was_published_at_the_other(
    group: Group,
) -> None:
    """With workers; without, tests/doors has all ways to read and to publish."""
    workers = "[sources]\n[server]\nworkers = 2\n"
    here, there = group.start(workers), group.start(workers)
    with ExitStack() as stack:
        socket = stack.enter_context(dial(there, "channels/a"))
        assert "subscribed" in frame(socket)
        stream = stack.enter_context(closing(Reading(there, "channels/a", SSE)))
        client = Watcher(there, "websocket", "a")
        stack.callback(client.close)
        client.next("subscribed")
        receipts = [publish(here, "a", number) for number in range(3)]
        assert [r["offset"] for r in receipts] == [1, 2, 3]
        assert [frame(socket)["data"] for _ in range(3)] == [0, 1, 2]
        assert [client.next("publication")["data"] for _ in range(3)] == [0, 1, 2]
        assert [event(stream)["data"] for _ in range(3)] == [0, 1, 2]
    assert history(here, "a") == history(there, "a")
    assert data(history(there, "a")) == [0, 1, 2]


@pytest.mark.fault("a server dies")
def test_client_resumes_at_another_server(group: Group, workers: str) -> None:
    here, there = group.start(workers), group.start(workers)
    with dial(here, "channels/a") as socket:
        frame(socket)
        publish(here, "a", 1)
        seen = frame(socket)
        here.kill()
    for number in (2, 3):
        publish(there, "a", number)
    with dial(there, f"channels/a?since={seen['id']}") as socket:
        assert frame(socket)["subscribed"]["recovered"] is True
        assert [frame(socket)["data"] for _ in range(2)] == [2, 3]


def test_redis_is_killed_and_comes_back_with_its_data(tmp_path: Path, workers: str) -> None:
    with grouped(tmp_path, appendonly="yes", appendfsync="always") as group:
        redis = group.redis
        here, there = group.start(workers), group.start(workers)
        with dial(there, "channels/a") as socket:
            frame(socket)
            publish(here, "a", 1)
            redis.kill()
            wait_until(lambda: here.check()[0] == 503)
            status, text, retry = refusal(here)
            assert (status, retry is not None) == (503, True)
            assert "Redis is away" in text
            assert here.get("health/live").status == 200
            assert there.get("channels/a").status == 503
            redis.start()
            wait_until(here.is_ready)
            wait_until(there.is_ready)
            publish(here, "a", 2)
            assert [frame(socket)["data"] for _ in range(2)] == [1, 2]


def test_redis_comes_back_empty_and_readers_are_told(group: Group, workers: str) -> None:
    here, there = group.start(workers), group.start(workers)
    with dial(there, "channels/a") as socket:
        frame(socket)
        publish(here, "a", 1)
        seen = frame(socket)
        group.redis.restart()
        assert closed_with(socket).code == 1013
    wait_until(here.is_ready)
    wait_until(there.is_ready)
    publish(here, "a", 2)
    with dial(there, f"channels/a?since={seen['id']}") as socket:
        assert frame(socket)["subscribed"]["recovered"] is False


def test_readiness_says_within_seconds_that_redis_does_not_answer(group: Group) -> None:
    node = group.start()
    group.redis.pause()
    try:
        wait_until(lambda: node.check()[0] == 503, PATIENCE_OF_READINESS)
        assert node.check()[1].startswith("Redis does not answer, for ")
        # It may have been sent already, and then be published after all.
        status, _, retry = refusal(node)
        assert (status, retry is not None) == (503, True)
    finally:
        group.redis.go_on()
    wait_until(node.is_ready)
    publish(node, "a", 1)
    metrics = node.get("metrics").text
    assert "pushserver_broker_attached 1.0" in metrics
    assert "pushserver_broker_losses_total 0.0" not in metrics


def test_redis_is_not_there_at_the_start(group: Group) -> None:
    group.redis.kill()
    node = group.start(ready=False)
    status, problem = node.check()
    assert status == 503
    assert "the log has the reason" in problem
    assert node.get("health/live").status == 200
    assert refusal(node)[0] == 503
    wait_until(lambda: "not attached to Redis at" in node.log)
    group.redis.start()
    wait_until(node.is_ready)
    assert publish(node, "a", 1)["offset"] == 1


def test_server_stops_while_redis_is_away(group: Group) -> None:
    first, second = group.start(), group.start()
    group.redis.pause()
    try:
        assert first.stop() == -signal.SIGTERM
    finally:
        group.redis.go_on()
    group.redis.kill()
    assert second.stop() == -signal.SIGTERM


def status_of(node: Node) -> Any:
    return json.loads(node.get("status").body)


def test_over_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    key, path = certificate(tmp_path)
    port = free_port()
    tls = {
        "tls_port": str(port),
        "tls_key_file": str(key),
        "tls_cert_file": str(path),
        "tls_ca_cert_file": str(path),
        "tls_auth_clients": "no",
    }
    with grouped(tmp_path, **tls) as group:
        url = f"rediss://127.0.0.1:{port}"
        here = group.start(f'[sources]\n[broker]\nca = "{path}"\n', url)
        assert publish(here, "a", 1)["offset"] == 1
        there = group.start(url=url, ready=False)
        wait_until(lambda: "certificate verify failed" in there.log)
        plain = group.start(url=f"redis://127.0.0.1:{port}", ready=False)
        wait_until(lambda: "if it expects TLS, write rediss" in plain.log)
        assert {there.check()[0], plain.check()[0]} == {503}


SOURCE = """
import os
from pushserver import PushServer

app = PushServer()

@app.source("ticks", every=0.02)
def tick():
    return os.getpid()

@app.on("start")
async def start():
    await app.publish("starts", os.getpid())
"""


def runs(rows: list[int]) -> list[int]:
    """The pids that follow each other, each once in a row."""
    return [pid for n, pid in enumerate(rows) if not n or rows[n - 1] != pid]


@pytest.mark.parametrize("end", ["killed", "stopped", "paused"])
def test_source_runs_at_one_server_and_another_takes_over(group: Group, end: str) -> None:
    (group.folder / "app.py").write_text(SOURCE)
    text = "[channels.ticks]\nhistory_size = 10000\n"
    nodes = [group.start(text, app=group.folder / "app.py") for _ in range(2)]
    here, there = nodes
    pids = [node.pid for node in nodes]
    assert sorted(data(history(there, "starts"))) == sorted(pids)

    def seen() -> list[int]:
        return runs(data(history(there, "ticks", "last=10000")))

    wait_until(lambda: len(data(history(there, "ticks"))) > 10)
    assert seen() == [pids[0]]
    [source] = status_of(there)["facts"]["sources"]
    assert source["state"] == "elsewhere"
    if end == "killed":
        here.kill()
    elif end == "stopped":
        assert here.stop() == -signal.SIGTERM
    else:
        here.send(signal.SIGSTOP)
    wait_until(lambda: seen() == pids)
    if end == "paused":
        here.send(signal.SIGCONT)
        wait_until(lambda: status_of(here)["facts"]["sources"][0]["state"] == "elsewhere")
        top = history(there, "ticks")["offset"]
        wait_until(lambda: history(there, "ticks")["offset"] > top + 20)
        assert seen() == pids


def test_source_on_demand_runs_where_watchers_are(group: Group) -> None:
    (group.folder / "app.py").write_text(
        SOURCE.replace("every=0.02", "every=0.02, on_demand=True, linger_seconds=0")
    )
    here, there = (group.start("\n", app=group.folder / "app.py") for _ in range(2))
    with dial(there, "channels/ticks") as far:
        frame(far)
        assert frame(far)["data"] == there.pid
        with dial(here, "channels/ticks") as near:
            assert "subscribed" in frame(near)
            assert frame(near)["data"] == there.pid
            far.close()
            while frame(near)["data"] != here.pid:
                pass


def test_webhook_is_open_at_all_servers(group: Group) -> None:
    text = '[sources.h]\ntype = "webhook"\nchannel = "a"\nsignature = "none"\n'
    nodes = [group.start(text) for _ in range(2)]
    assert [ask(node, "POST", "hooks/h", b"1").status for node in nodes] == [201, 201]
    assert data(history(nodes[0], "a")) == [1, 1]


def api(node: Node, method: str, **call: Any) -> None:
    """Call a method of the server API that has no result."""
    answer = ask(node, "POST", f"api/{method}", json.dumps(call).encode())
    assert json.loads(answer.body) == {"result": {}}


USERS = """
from pushserver import PushServer

app = PushServer()

@app.on("connect")
def connect(client, data):
    client.user = data

@app.on("all")
def tell_all(client, data):
    app.send(data, "told")

@app.on("end")
def end(client, user):
    app.disconnect(user, "bye", 4555)
"""


def test_orders_reach_the_clients_of_all_servers(group: Group, workers: str) -> None:
    (group.folder / "app.py").write_text(USERS)
    here, there = (group.start(workers, app=group.folder / "app.py") for _ in range(2))
    with ExitStack() as stack:

        def client(node: Node, user: str) -> Commanded:
            made = Commanded(node, user)
            stack.callback(made.close)
            made.next("connected")
            return made

        ada, ben = client(there, "ada"), client(here, "ben")
        api(here, "subscribe", user="ada", channel="news")
        assert ada.next("subscribed")["channel"] == "news"
        api(here, "unsubscribe", user="ada", channel="news")
        assert ada.next("unsubscribed")["channel"] == "news"
        ben.do("rpc", "all", 7)
        assert [each.next("message")["data"] for each in (ada, ben)] == [
            {"event": "told", "data": 7}
        ] * 2
        ben.do("rpc", "end", "ada")
        assert ada.next("disconnected") == {"code": 4555, "reason": "bye"}
        api(there, "disconnect", user="ben", disconnect={"code": 4600, "reason": "enough"})
        assert ben.next("disconnected") == {"code": 4600, "reason": "enough"}


def listed(node: Node, *options: str) -> list[str]:
    """The lines of `pushserver nodes`."""
    command = [sys.executable, "-m", "pushserver", "nodes", "--url", node.url, *options]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment(), check=True, timeout=PATIENCE
    )
    return ran.stdout.splitlines()


def test_servers_are_listed_with_their_sources(group: Group) -> None:
    one = group.start('[broker]\nname = "one"\n')
    two = group.start('[sources]\n[broker]\nname = "two"\n')
    wait_until(lambda: any(" numbers" in line for line in listed(two)))
    heading, *rows = listed(two)
    assert heading.split()[:3] == ["NAME", "HOST", "PID"]
    assert [(row.split()[0], row.split()[2]) for row in rows] == [
        ("one", str(one.pid)),
        ("two", str(two.pid)),
    ]
    assert one.stop() == -signal.SIGTERM
    [node] = map(json.loads, listed(two, "--json"))
    assert (node["name"], node["pid"], node["sources"]) == ("two", two.pid, [])


@pytest.mark.fault("servers have different versions, during an upgrade")
def test_server_is_upgraded_beside_one_of_the_earlier_version(group: Group) -> None:
    package = install(group.folder / "package", OLD)
    older = group.start('[broker]\nname = "one"\n[sources]\n', package=package)
    upgraded = group.start('[broker]\nname = "two"\n[sources]\n', package=package)
    install(package, __version__)
    with dial(upgraded, "channels/a") as socket:
        assert "subscribed" in frame(socket)
        publish(older, "a", 0)
        seen = frame(socket)
        assert upgraded.stop() == -signal.SIGTERM
    publish(older, "a", 1)
    with dial(older, f"channels/a?since={seen['id']}") as socket:
        assert frame(socket)["subscribed"]["recovered"] is True
        upgraded.start()
        wait_until(upgraded.is_ready)
        publish(upgraded, "a", 2)
        assert [frame(socket)["data"] for _ in range(2)] == [1, 2]
    with dial(upgraded, f"channels/a?since={seen['id']}") as socket:
        assert frame(socket)["subscribed"]["recovered"] is True
        publish(older, "a", 3)
        assert [frame(socket)["data"] for _ in range(3)] == [1, 2, 3]
    assert [row.split()[3] for row in listed(older)[1:]] == [OLD, __version__]


def test_second_server_of_a_name_waits_until_it_is_free(group: Group) -> None:
    text = '[sources]\n[broker]\nname = "one"\n'
    one = group.start(text)
    two = group.start(text, ready=False)
    wait_until(lambda: two.check()[1].startswith("another server has the name"))
    assert f"another server has the name 'one' (broker.name): process {one.pid} of" in two.log
    assert one.is_ready()
    assert one.stop() == -signal.SIGTERM
    wait_until(two.is_ready)


class TestRedisThatCannotBeUsed:
    """Each state is a line of the log, a check and a finding, and never a traceback."""

    @pytest.mark.parametrize(
        ("option", "value", "short", "text"),
        [
            ("maxmemory_policy", "allkeys-lru", "this Redis cannot have", "expected 'noeviction'"),
            ("requirepass", "secret", "Redis wants a password", "broker.url has none"),
            ("replicaof", "127.0.0.1 1", "this Redis cannot have", "expected 'master'"),
        ],
    )
    def test_by_its_settings(
        self, tmp_path: Path, option: str, value: str, short: str, text: str
    ) -> None:
        with grouped(tmp_path, **{option: value}) as group:
            node = group.start(ready=False)
            wait_until(lambda: node.check()[1].startswith(short))
            assert text in node.log
            [finding] = [f for f in status_of(node)["findings"] if f["subject"] == "broker"]
            assert (finding["level"], text in finding["text"]) == ("error", True)

    def test_by_its_password(self, tmp_path: Path) -> None:
        with grouped(tmp_path, requirepass="secret") as group:
            path = group.redis.path
            node = group.start(url=f"unix://:wrong-one@{path}", ready=False)
            wait_until(lambda: node.check()[1].startswith("Redis refuses the password"))
            assert "WRONGPASS" in node.log
            group.start(url=f"unix://:secret@{path}")
            for each in group.nodes:
                assert "wrong-one" not in each.log
                assert "secret" not in each.log

    @pytest.mark.parametrize("key", ["{ps0}:m", "{ps0}:log", "{ps0}:w"])
    def test_by_keys_of_another_program(self, group: Group, key: str) -> None:
        group.redis.connection("SET", key, "theirs")
        node = group.start(ready=False)
        wait_until(lambda: node.check()[1].startswith("this Redis cannot have"))
        assert "another program has keys there" in node.log
        group.redis.connection("DEL", key)
        wait_until(node.is_ready)

    def test_by_its_memory(self, group: Group) -> None:
        node = group.start()
        group.redis.connection("CONFIG", "SET", "maxmemory", 1)
        status, text, retry = refusal(node)
        assert (status, retry is not None) == (503, True)
        assert "the memory of Redis is full" in text
        assert node.check() == (503, "the memory of Redis is full")
        assert node.log.count("redis") == 0 or "OOM" in node.log
        group.redis.connection("CONFIG", "SET", "maxmemory", 0)
        publish(node, "a", 1)
        assert node.is_ready()


def test_slow_redis_is_waited_for(group: Group) -> None:
    node = group.start()
    group.redis.connection("CLIENT", "PAUSE", 1_000, "ALL")
    assert publish(node, "a", 1)["offset"] == 1
    assert "pushserver_broker_losses_total 0.0" in node.get("metrics").text


def test_entry_of_another_program_in_the_log_is_told(group: Group) -> None:
    node = group.start()
    with dial(node, "channels/a") as socket:
        frame(socket)
        publish(node, "a", 1)
        group.redis.connection("XADD", "{ps0}:log", "*", "hello", "world")
        assert closed_with(socket).code == 1013
    wait_until(node.is_ready)
    publish(node, "a", 2)
    assert "not attached to Redis at" in node.log


def test_reload_while_redis_is_away(group: Group) -> None:
    node = group.start()
    group.redis.kill()
    wait_until(lambda: node.check()[0] == 503)
    node.file.write_text('[sources]\n[limits]\nchannels = 1\n[broker]\nprefix = "other"\n')
    node.send(signal.SIGHUP)
    wait_until(lambda: "the configuration was read again" in node.log)
    [line] = [row for row in node.log.splitlines() if "was read again" in row]
    assert "changed limits.channels; these need a restart: broker.prefix" in line
    group.redis.start()
    wait_until(node.is_ready)
    publish(node, "a", 1)
    answer = ask(node, "POST", "channels/b", b"1")
    assert (answer.status, "1 channels" in answer.text) == (503, True)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--broker", "redis://me:secret@h/x"], "invalid URL of a Redis server 'redis://...@h/x'"),
        (["--broker", "redis://h", "--config", "c.toml"], "store.path is set too ('x.db')"),
    ],
)
def test_contradictions_end_the_start(tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "c.toml").write_text('[store]\npath = "x.db"\n')
    ended = run_twistd(tmp_path, "-n", "pushserver", "--port", "0", *arguments)
    assert ended.returncode == 1
    assert problem in ended.stdout
    assert "secret" not in ended.stdout
    assert "Traceback" not in ended.stdout
