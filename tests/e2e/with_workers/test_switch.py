from __future__ import annotations

from benchmarks.processes import children
from tests.e2e.server import Server


def test_the_servers_of_this_folder_have_two_workers(server: Server) -> None:
    assert len(children(server.pid)) == 2
