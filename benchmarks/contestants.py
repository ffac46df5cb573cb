"""The measured servers: how each is started, and where its clients connect."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import build
from benchmarks.build import CHECKOUT, HERE
from benchmarks.scenario import Group

ENGINE_PATH = "/socket.io/?EIO=4"
SOCKETIO_PATH = f"{ENGINE_PATH}&transport=websocket"


@dataclass(frozen=True, slots=True)
class Place:
    """The port, files and settings for a server.

    `settings`: of the product alone, by section.
    """

    port: int
    feed: Path
    folder: Path
    channels: int = 1
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server. `command` raises Missing if it is not available here.

    `groups`: by the name of a protocol, how one client connects. `cost`: microseconds for
    each delivery, roughly; the rate of publications is chosen so that nobody is overrun.
    `connects`: a second, as roughly, to say how long it will take. `post`: where it is
    published to, if it cannot publish by itself. `workers`: the processes of pushserver that
    hold connections; one is the whole server.
    """

    name: str
    command: Callable[[Place], list[str]]
    groups: Mapping[str, Group]
    cost: float
    connects: float = 1_000
    post: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    most_clients: int = 1_000_000
    workers: int = 1


def _limit(place: Place) -> list[str]:
    return [str(build.limit()), str(place.port), str(place.feed)]


def _product(place: Place) -> list[str]:
    # All settings that matter have their defaults: history is on, no check is off.
    sections: dict[str, Mapping[str, object]] = {
        "server": {"listen": [f"tcp:{place.port}:interface=127.0.0.1"]},
        "sources.feed": {"type": "random", "channel": "bench"},
        # The namespace `/` is a channel, so that clients get the same bytes as from Node's server.
        "socketio": {"channel": "bench"},
    }
    for name, values in place.settings.items():
        sections[name] = {**sections.get(name, {}), **values}
    config = place.folder / "pushserver.toml"
    config.write_text(toml(sections), "utf-8")
    program = [sys.executable, "-m", "benchmarks.servers.product"]
    return [*program, str(place.feed), str(place.channels), "--config", str(config)]


def toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """JSON of strings, numbers, booleans and lists, which is also TOML."""
    lines: list[str] = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _own_peer(module: str) -> Callable[[Place], list[str]]:
    """A server that runs on the packages of the product."""

    def command(place: Place) -> list[str]:
        program = [sys.executable, "-m", f"benchmarks.servers.{module}"]
        return [*program, str(place.feed), str(place.port)]

    return command


def _python_peer(
    module: str, *arguments: str, needs: tuple[str, ...] = build.PYTHON_PEERS
) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        python = str(build.python_peers(needs))
        program = [python, "-m", f"benchmarks.servers.{module}"]
        return [*program, str(place.feed), str(place.port), *arguments]

    return command


def _node_peer(script: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        modules = str(build.node_peers())
        return ["node", str(HERE / "servers" / script), modules, str(place.feed), str(place.port)]

    return command


def _nchan(place: Place) -> list[str]:
    folder = build.nchan()
    try:
        # nchan 1.3.6 creates a folder here for every configuration, and rejects
        # its own setting for it (nchan_message_temp_path) as a duplicate.
        Path("/var/lib/nginx").mkdir(exist_ok=True)
    except OSError as error:
        raise build.Missing(f"nchan needs a folder that can be written: {error}") from None
    text = (HERE / "servers" / "nchan.conf").read_text("utf-8")
    values = {
        "@MODULES@": str(folder / "usr/lib/nginx/modules"),
        "@FOLDER@": str(place.folder),
        "@PORT@": str(place.port),
    }
    for mark, value in values.items():
        text = text.replace(mark, value)
    config = place.folder / "nchan.conf"
    config.write_text(text, "utf-8")
    program = [str(folder / "usr/sbin/nginx"), "-p", str(place.folder)]
    return [*program, "-c", str(config), "-e", str(place.folder / "nginx.log")]


def _everywhere(path: str) -> dict[str, Group]:
    return {"websocket": Group("websocket", 1, path)}


def _socketio() -> dict[str, Group]:
    return {
        "socketio": Group("socketio", 1, SOCKETIO_PATH),
        "upgrade": Group("upgrade", 1, ENGINE_PATH),
        "polling": Group("polling", 1, ENGINE_PATH),
    }


LIMIT = Contestant(
    "limit",
    _limit,
    {"websocket": Group("websocket", 1, "/"), "sse": Group("sse", 1, "/sse")},
    cost=11,
    connects=10_000,
)
PRODUCT = Contestant(
    "pushserver",
    _product,
    {
        "websocket": Group("stream", 1, "/channels/bench"),
        "centrifuge": Group("centrifuge", 1, "/connection/websocket", "bench"),
        "sse": Group("sse", 1, "/channels/bench"),
        **_socketio(),
        "deflate": Group("stream", 1, "/channels/bench", deflate=True),
    },
    cost=35,
    connects=2_500,
    environment={"PYTHONPATH": str(CHECKOUT)},
)
PEERS = (
    Contestant(
        "nginx + nchan",
        _nchan,
        {"websocket": Group("websocket", 1, "/subscribe"), "sse": Group("sse", 1, "/subscribe")},
        cost=15,
        connects=10_000,
        post="/publish",
    ),
    Contestant(
        "picows",
        _python_peer("picows_peer", needs=build.PICOWS),
        _everywhere("/"),
        cost=15,
        connects=4_000,
    ),
    Contestant("Node ws", _node_peer("ws_peer.js"), _everywhere("/"), cost=20, connects=4_000),
    Contestant(
        "websockets", _python_peer("websockets_peer"), _everywhere("/"), cost=22, connects=1_500
    ),
    Contestant("Socket.IO (Node)", _node_peer("socketio_peer.js"), _socketio(), cost=25),
    Contestant("Autobahn", _own_peer("autobahn_peer"), _everywhere("/"), cost=50),
    Contestant("python-socketio", _python_peer("socketio_peer"), _socketio(), cost=100),
    Contestant(
        "Flask-SocketIO, gevent",
        _python_peer("flask_peer", "gevent"),
        _socketio(),
        cost=80,
        connects=700,
    ),
    Contestant(
        "Flask-SocketIO, threads",
        _python_peer("flask_peer", "threading"),
        _socketio(),
        cost=400,
        connects=400,
        most_clients=1_000,
    ),
)
ALL = (LIMIT, PRODUCT, *PEERS)


def with_workers(count: int) -> Contestant:
    """pushserver with so many workers."""
    if count == 1:
        return PRODUCT

    def command(place: Place) -> list[str]:
        server = {**place.settings.get("server", {}), "workers": count}
        return _product(replace(place, settings={**place.settings, "server": server}))

    return replace(PRODUCT, name=f"pushserver, {count} workers", command=command, workers=count)
