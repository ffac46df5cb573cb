from __future__ import annotations

import os

from benchmarks.processes import children
from tests.e2e.server import Server


def test_the_servers_of_this_folder_have_two_workers(server: Server) -> None:
    # Each has a session of its own.
    assert len([pid for pid in children(server.pid) if os.getsid(pid) == pid]) == 2
