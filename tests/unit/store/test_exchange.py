"""Export of a store as lines of JSON, and import of such lines."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.names import is_name
from pushserver.channels.position import Position
from pushserver.channels.publication import ClientInfo, Draft
from pushserver.cli import main
from pushserver.store.checking import check
from pushserver.store.copying import backup, restore
from pushserver.store.exporting import export
from pushserver.store.files import StoreError
from pushserver.store.importing import load
from tests.unit.store.runs import THREAD, Answer, Run

pytestmark = pytest.mark.usefixtures("_expects_store_problems")
Capture = pytest.CaptureFixture[str]

NAMES = ["a", "A", "n:x", "$private", "shop#u,v", "#u", "0", "a.b_c@d-e", "z" * 128]
"""All ASCII, as the rule of names wants it."""
TEXTS = ["grün", "日本語", "😀", "مرحبا", "e\u0301", "\xe9", "\U0010ffff", "\u2028"]
DATA = [
    *(f'"{text}"' for text in TEXTS),
    '"\\u2028\\u0000\\ud83d\\ude00"',
    '"\x7f\x85"',
    "1e308",
    "1.50",
    '{"a":1,"a":2}',
    "null",
]


def tables(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as database:
        found = {
            name: list(database.execute(f"SELECT * FROM {name} ORDER BY 1, 2"))
            for name in ("channels", "publications", "keys", "memory", "forgotten")
        }
        marks = dict(database.execute("SELECT * FROM meta"))
    return found | {"numbers": [marks["epoch"], marks["seq"]]}


def filled(path: Path) -> Run:
    """A run with all that a store can have."""
    run = Run(path)
    for name in NAMES:
        assert is_name(name), name
        run.publish(1, name, key=f"k {len(name)}")
    THREAD.finish()
    run.clear("a")
    THREAD.finish()
    info = ClientInfo("c", "grün", b'{"a":"\xc3\xa9"}', b"[]")
    for text in DATA:
        draft = Draft("b", text.encode(), "größe", {"tag": text, text: "\n"}, info)
        Answer(Deferred.fromCoroutine(run.broker.publish(draft)))
    run.memory.set("feed", {"since": "\x85\n"})
    run.tick()
    THREAD.finish()
    return run


def lines(path: Path) -> bytes:
    return b"".join(line + b"\n" for line in export(str(path)))


@pytest.fixture
def other(path: Path) -> Path:
    return path.with_name("other.db")


def test_import_of_an_export_is_the_same_store(path: Path, other: Path) -> None:
    filled(path).stop()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("INSERT INTO forgotten VALUES (7, 1), (8, 2)")
        database.execute("UPDATE channels SET generation = 2 WHERE name = 'A'")
    text = lines(path)
    done = load(io.BytesIO(text), "x", str(other))
    assert (done.publications, done.channels) == (check(str(path)).publications, 10)
    assert tables(other) == tables(path)
    assert [json.loads(line)["kind"] for line in text.splitlines()[:1]] == ["pushserver-store"]
    assert lines(other) == text


def test_export_of_a_running_server_has_all_commits(path: Path, other: Path) -> None:
    run = filled(path)
    text = lines(path)
    load(io.BytesIO(text), "x", str(other))
    assert tables(other) == tables(path)
    with pytest.raises(StoreError, match="its epoch cannot be kept"):
        load(io.BytesIO(text), "x", str(other), keep_epoch=True)
    with pytest.raises(StoreError, match="in use: stop the server first"):
        load(io.BytesIO(text), "x", str(path))
    run.stop()


def resumed(path: Path, epoch: str) -> str:
    """Publish once more in a new run; the reason why a reader of the epoch is not recovered."""
    run = Run(path)
    run.publish(9)
    THREAD.finish()
    reason = run.history.resume("a", Position(epoch, 2)).reason
    run.stop()
    return reason


def started(path: Path) -> str:
    """Stopped, with three publications; returns the epoch."""
    run = Run(path)
    for number in range(3):
        run.publish(number)
    THREAD.finish()
    run.stop()
    return run.history.epoch


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("by", ["copy", "copy of a copy", "lines"])
def test_epoch_of_a_stopped_server_is_kept_on_demand(
    path: Path, other: Path, by: str, keep: bool
) -> None:
    epoch = started(path)
    text = lines(path)
    backup(str(path), f"{path}.copy")
    backup(f"{path}.copy", f"{path}.copy2")
    if by == "lines":
        load(io.BytesIO(text), "x", str(other), keep)
    else:
        restore(f"{path}.copy{'2' if by == 'copy of a copy' else ''}", str(other), keep)
    assert resumed(other, epoch) == ("" if keep else "epoch")


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("by", ["copy", "lines"])
def test_epoch_under_which_the_store_has_published_more_is_not_kept(
    path: Path, by: str, killed: bool
) -> None:
    epoch = started(path)
    text = lines(path)
    backup(str(path), f"{path}.copy")
    run = Run(path)
    if killed:
        run.kill()
    else:
        run.publish(4)
        THREAD.finish()
        run.stop()
    before = path.read_bytes()
    replace = {
        "copy": lambda: restore(f"{path}.copy", str(path), keep_epoch=True),
        "lines": lambda: load(io.BytesIO(text), "x", str(path), keep_epoch=True),
    }
    with pytest.raises(StoreError, match="its epoch cannot be kept"):
        replace[by]()
    assert path.read_bytes() == before
    restore(f"{path}.copy", str(path))
    assert resumed(path, epoch) == "epoch"


def test_copy_of_a_running_server_does_not_keep_its_epoch(path: Path, other: Path) -> None:
    run = filled(path)
    backup(str(path), f"{path}.copy")
    backup(f"{path}.copy", f"{path}.copy2")
    for copy in ("copy", "copy2"):
        with pytest.raises(StoreError, match="made while a server ran"):
            restore(f"{path}.{copy}", str(other), keep_epoch=True)
    run.stop()


def test_lines_of_a_later_version_are_read_as_far_as_they_are_known(
    path: Path, other: Path
) -> None:
    started(path)
    [first, *middle, last] = lines(path).splitlines()
    later = [
        json.dumps(json.loads(first) | {"colour": 1}).encode(),
        b'{"kind": "weather", "is": ["fine"]}',
        *(line[:-1] + b', "colour": {"a": 1}}' for line in middle),
        json.dumps({"kind": "end", "lines": len(middle) + 2}).encode(),
    ]
    done = load(io.BytesIO(b"\n".join(later)), "x", str(other))
    assert (done.skipped, done.publications) == (1, 3)
    assert tables(other) == tables(path)
    assert last


def change(number: int, **fields: object) -> Any:
    def changed(rows: list[bytes]) -> list[bytes]:
        rows[number] = msgspec.json.encode(json.loads(rows[number]) | fields)
        return rows

    return changed


BAD: dict[str, tuple[Any, str]] = {
    "empty": (lambda rows: [], "x is empty: expected an export of a store"),
    "foreign": (lambda rows: [b"hello"], "x, line 1: JSON is malformed.*expected an export"),
    "binary": (lambda rows: [b"SQLite format 3\0\xff\xfe"], "line 1: .*expected an export"),
    "other JSON": (lambda rows: [b"[1]"], "line 1: Expected `object`.*expected an export"),
    "without a header": (lambda rows: rows[1:], "line 1: the kind is not pushserver-store"),
    "two headers": (lambda rows: rows[:1] + rows, "line 2: a second first line"),
    "newer": (change(0, version=2), r"x, line 1: version 2; this version of pushserver reads 1\Z"),
    "cut between lines": (lambda rows: rows[:-1], "x is incomplete"),
    "cut in a line": (lambda rows: [*rows[:3], rows[3][:20]], "line 4: Input data was truncated"),
    "line removed": (lambda rows: rows[:2] + rows[3:], "line 5: 4 lines before this one; expected"),
    "more": (lambda rows: [*rows, b"{}"], "line 6: more lines after the last one"),
    "twice": (lambda rows: [*rows[:3], *rows[2:]], "line 4: the same was in an earlier line"),
    "no name": (change(1, name=""), "line 2: invalid channel name ''"),
    "negative": (change(2, offset=-1), r"line 3: Expected `int` >= 0 - at `\$.offset`"),
    "huge": (change(2, offset=2**63), "line 3: .*"),
    "text": (change(2, seq="1"), "line 3: Expected `int`, got `str`"),
    "event": (change(2, event="\n"), "line 3: invalid event name"),
    "tags": (change(2, tags={"a": 1}), "line 3: Expected `str`"),
    "hole": (change(2, offset=7), "x: channel a: 3 publications with offsets 2 to 7"),
    "seq": (change(0, seq=2), "x: channel a: seqs 1 to 3; expected 1 to 2"),
    "epoch": (change(0, epoch="a:b"), "line 1: invalid epoch 'a:b'"),
}


@pytest.mark.parametrize("damage", BAD)
def test_bad_lines_are_refused_and_the_store_is_unchanged(path: Path, damage: str) -> None:
    started(path)
    before, files = path.read_bytes(), sorted(path.parent.iterdir())
    change_rows, message = BAD[damage]
    rows = lines(path).splitlines()
    text = b"\n".join(change_rows(rows))
    with pytest.raises(StoreError, match=message):
        load(io.BytesIO(text), "x", str(path))
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == (before, files)


def test_endless_line_is_not_read_into_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushserver.store.importing.LINE_BYTES", 1000)
    with open("/dev/zero", "rb") as file, pytest.raises(StoreError, match="more than 1000 bytes"):
        load(file, "x", str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_commands_exchange_a_store_by_standard_output_and_input(
    path: Path, other: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    filled(path).stop()
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding))
    assert main(["store", "export", "-", "--store", str(path)]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw.getvalue())))
    assert main(["store", "import", "-", "--store", str(other), "--keep-epoch"]) == 0
    assert b"channels: 10; the next start keeps the epoch" in raw.getvalue()
    assert tables(other)["publications"] == tables(path)["publications"]


def test_commands_exchange_a_store_by_a_file(path: Path, other: Path, capsys: Capture) -> None:
    filled(path).stop()
    file = path.with_name("lines")
    assert main(["store", "export", str(file), "--store", str(path)]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert main(["store", "export", str(file), "--store", str(path)]) == 1
    assert "exists: name another file" in capsys.readouterr().err
    assert main(["store", "export", str(file), "--store", str(path), "--force"]) == 0
    assert main(["store", "export", str(path), "--store", str(path), "--force"]) == 1
    assert main(["store", "import", str(file), "--store", str(path)]) == 0
    assert f"the store before: {path}.before-restore" in capsys.readouterr().out
    assert main(["store", "import", f"{file}x", "--store", str(path)]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_damaged_row_is_not_exported(path: Path) -> None:
    started(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("UPDATE publications SET data = x'7b' WHERE offset = 2")
    with pytest.raises(StoreError, match=r"is damaged .*store check"):
        lines(path)
