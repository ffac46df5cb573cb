"""Who is in a channel, as several real servers tell it; one of them freezes, and another dies."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import ask
from tests.e2e.server import Server
from tests.e2e.sockets import dial, frame, objects
from tests.redis.test_servers import grouped

CHANNEL = "room"
PLAIN = "[sources]\n"
WORKERS = "[sources]\n[server]\nworkers = 2\n"


class Observer:
    """A client of the Centrifuge protocol that notes the joins and leaves of the others."""

    def __init__(self, stack: ExitStack, server: Server):
        self._socket: ClientConnection = stack.enter_context(dial(server, "connection/websocket"))
        self.events: dict[str, list[str]] = {}
        """By client: what it was told, in this order."""
        subscribe = {"channel": CHANNEL, "join_leave": True}
        self._socket.send('{"id": 1, "connect": {}}')
        self._socket.send(json.dumps({"id": 2, "subscribe": subscribe}))
        self.name = ""
        while not self._read(2):
            pass

    def _read(self, number: int = 0) -> bool:
        """Read a frame; whether it has the reply of this number."""
        found = objects(self._socket)
        for each in found:
            if not each:
                self._socket.send("{}")
            elif "connect" in each:
                self.name = each["connect"]["client"]
            elif "push" in each:
                for kind in each["push"].keys() & {"join", "leave"}:
                    client = each["push"][kind]["info"]["client"]
                    self.events.setdefault(client, []).append(kind)
        return any(each.get("id") == number for each in found)

    def wait_for(self, client: str, *events: str) -> None:
        """Wait until it was told these of a client, and no others."""
        while len(self.events.get(client, ())) < len(events):
            self._read()
        assert self.events[client] == [*events]

    def events_now(self) -> dict[str, list[str]]:
        """What it was told of others up to now."""
        self._socket.send('{"id": 3, "ping": {}}')
        while not self._read(3):
            pass
        return {name: told for name, told in self.events.items() if name != self.name}


def api(server: Server, method: str, **parameters: str) -> Any:
    answer = ask(server, "POST", f"api/{method}", json.dumps(parameters).encode())
    return json.loads(answer.body)["result"]


def names(server: Server) -> set[str]:
    """The clients in the channel."""
    return set(api(server, "presence", channel=CHANNEL)["presence"])


def test_all_servers_tell_who_is_there(tmp_path: Path) -> None:
    with ExitStack() as stack:
        group = stack.enter_context(grouped(tmp_path))
        here, there, frozen = (group.start(text) for text in (PLAIN, WORKERS, PLAIN))
        first = Observer(stack, here)
        second = Observer(stack, there)
        third = Observer(stack, frozen)
        first.wait_for(second.name, "join")
        first.wait_for(third.name, "join")
        second.wait_for(third.name, "join")
        # A stream is no client of the protocol, and is in the channel too.
        stream = stack.enter_context(dial(there, f"channels/{CHANNEL}"))
        frame(stream)
        clients = {first.name, second.name, third.name}
        for server in group.nodes:
            wait_until(partial(has, server, 4))
            assert clients < names(server)
            numbers = api(server, "presence_stats", channel=CHANNEL)
            assert numbers == {"num_clients": 4, "num_users": 1}
            wait_until(partial(is_watched, server, 4))
        [streams] = names(here) - clients
        first.wait_for(streams, "join")

        frozen.send(signal.SIGSTOP)
        first.wait_for(third.name, "join", "leave")
        second.wait_for(third.name, "join", "leave")
        assert third.name not in names(here) | names(there)
        frozen.send(signal.SIGCONT)
        first.wait_for(third.name, "join", "leave", "join")
        second.wait_for(third.name, "join", "leave", "join")
        wait_until(partial(has, frozen, 4))

        there.kill()
        first.wait_for(second.name, "join", "leave")
        third.wait_for(second.name, "leave")
        wait_until(lambda: names(here) == {first.name, third.name})
        assert frozen.stop() == -signal.SIGTERM
        first.wait_for(third.name, "join", "leave", "join", "leave")
        assert first.events_now() == {
            second.name: ["join", "leave"],
            third.name: ["join", "leave", "join", "leave"],
            streams: ["join", "leave"],
        }
        assert names(here) == {first.name}


def has(server: Server, number: int) -> bool:
    """Whether as many clients are in the channel."""
    return len(names(server)) == number


def is_watched(server: Server, number: int) -> bool:
    """Whether the list of channels has as many watchers."""
    answer = server.get("channels/", "application/json")
    [row] = json.loads(answer.body)["channels"]
    return bool(row["watchers"] == number)
