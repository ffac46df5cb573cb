"""A main process that is killed or stopped under load, and the next one."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.followers import HttpStream, LongPoll
from tests.e2e.conditions import wait_until
from tests.e2e.crew import MEMORY, STORES, Crew, stop_process
from tests.e2e.exchange import SSE, Reading, data, history
from tests.e2e.load import Load
from tests.e2e.sockets import closed_with, dial, dial_centrifuge, frame
from tests.processes import lives


@pytest.fixture
def crews() -> Iterator[list[Crew]]:
    """The servers of a test, of which nothing may be left."""
    crews: list[Crew] = []
    try:
        yield crews
        for crew in crews:
            if crew.server.running:
                assert crew.server.stop() == -signal.SIGTERM
            crew.check_end()
            assert crew.server.problems == []
    finally:
        for crew in crews:
            crew.clean()


def stored(folder: Path) -> dict[str, int]:
    """The last offset of each channel in the file of the store."""
    with closing(sqlite3.connect(f"file:{folder}/s.db?mode=ro", uri=True)) as file:
        rows = file.execute("SELECT channel, max(offset) FROM publications GROUP BY channel")
        return dict(rows.fetchall())


def has(folder: Path, counts: dict[str, int]) -> bool:
    """Whether the file of the store has so many publications of each channel."""
    found = stored(folder)
    return all(found.get(channel, 0) >= count for channel, count in counts.items())


@pytest.mark.parametrize("store", STORES)
def test_next_main_process_continues_with_the_workers(
    tmp_path: Path, crews: list[Crew], store: str
) -> None:
    crew = Crew(tmp_path, STORES[store], lasting=True, times="ALONE_SECONDS=60")
    crews.append(crew)
    crew.server.start()
    with Load(crew.server.port) as load:
        load.go_on()
        before, safe = crew.workers(), {}
        if store == "batched":
            counts = {publisher.channel: publisher.count for publisher in load.publishers}
            wait_until(lambda: has(tmp_path, counts))
            safe = counts
        crew.server.kill()
        crew.server.start()
        # Ready means that each worker has the log of this process.
        answers = [crew.server.get("channels/c0?limit=1").status for _ in range(20)]
        assert answers == [200] * 20
        assert crew.workers() == before
        load.go_on()
        # A new epoch is what the readers are told.
        resets = 0 if store == "sync" else 1
        assert {reader.record.resets for reader in load.readers} == {resets}
        if store == "sync":
            # Requests may be refused while no main process is there.
            asking = (HttpStream, LongPoll)
            kept = [reader for reader in load.readers if not isinstance(reader, asking)]
            assert [load.describe(r) for r in kept if r.record.connects > 1] == []
        # In order, and under load too.
        assert crew.server.stop() == -signal.SIGTERM
        assert crew.all() == set()
        crew.server.start()
        load.go_on()
        load.finish()
        load.check(resets + (store == "memory"))
        if store != "memory":
            for publisher in load.publishers:
                found = data(history(crew.server, publisher.channel, "limit=10000"))
                lost = publisher.check(found)
                assert store == "batched" or not lost
                assert all(number > safe[publisher.channel] for number in lost)


def test_main_process_that_stops_for_a_moment_is_noticed_by_nobody(
    tmp_path: Path, crews: list[Crew]
) -> None:
    crew = Crew(tmp_path, MEMORY)
    crews.append(crew)
    crew.server.start()
    with Load(crew.server.port, 20) as load:
        load.go_on()
        stop_process(crew.main)
        attempts = [publisher.attempts for publisher in load.publishers]
        with dial(crew.server, "connection/websocket") as client:
            client.ping().wait()
        os.kill(crew.main, signal.SIGCONT)
        load.go_on()
        load.finish()
        load.check()
        assert [load.describe(r) for r in load.readers if r.record.connects > 1] == []
        assert attempts


def test_next_server_waits_for_workers_that_it_cannot_keep(
    tmp_path: Path, crews: list[Crew]
) -> None:
    # It knows workers by their command line.
    crew = Crew(tmp_path, MEMORY, times="ALONE_SECONDS=5", forks=False)
    crews.append(crew)
    crew.server.start()
    before = set(crew.workers().values())
    crew.server.kill()
    crew.server.start()
    assert not before & set(crew.workers().values())
    assert crew.checks() == (200, "ok")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_workers_without_a_main_process_close_their_clients_and_end(
    tmp_path: Path, crews: list[Crew], number: signal.Signals
) -> None:
    crew = Crew(tmp_path, MEMORY, times="ALONE_SECONDS=1 SILENT_SECONDS=2")
    crews.append(crew)
    crew.server.start()
    before = crew.workers()
    with (
        dial_centrifuge(crew.server) as client,
        dial(crew.server, "channels/numbers") as raw,
        closing(Reading(crew.server, "channels/numbers", SSE)) as stream,
    ):
        frame(raw)
        stream.block()
        if number == signal.SIGKILL:
            crew.server.kill()
        else:
            stop_process(crew.main)
        assert closed_with(client).code == 3001
        assert closed_with(raw).code == 1001
        with pytest.raises(EOFError):
            stream.block()
    for pid in before.values():
        wait_until(lambda pid=pid: not lives(pid))  # type: ignore[misc]
    if number == signal.SIGSTOP:
        os.kill(crew.main, signal.SIGCONT)
        wait_until(lambda: len(crew.workers()) == 2)
        with dial(crew.server, "channels/numbers") as raw:
            frame(raw)
