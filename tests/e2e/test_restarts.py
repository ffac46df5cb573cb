"""The measurement of restarts, with few clients: an upgrade of the application under load."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.followers import KINDS
from tests.e2e.server import CHECKOUT, environment


def test_clients_of_each_transport_lose_nothing_while_the_application_is_replaced() -> None:
    module = (sys.executable, "-m", "benchmarks.restarts")
    ended = subprocess.run(
        [*module, "--clients", "12", "--restarts", "0", "--seconds", "0.3"],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    rows = [line.strip("| ").split(" | ") for line in ended.stdout.splitlines()[2:-1]]
    assert [row[0] for row in rows] == [kind.name for kind in KINDS]
    for row in rows:
        clients, published, lost, doubled, resets, connects = map(int, row[1:7])
        assert (clients, lost, doubled, resets) == (2, 0, 0, 0)
        assert published > 0
        assert connects >= 2 * clients
