from __future__ import annotations

from tests.e2e.server import Server


def test_the_servers_of_this_folder_have_no_shortcuts(server: Server) -> None:
    assert "the shortcuts are off (PUSHSERVER_SHORTCUTS)" in server.log
