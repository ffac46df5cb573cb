"""The commands `pushserver store`: keep the file of the history."""

from __future__ import annotations

import io
import os
import sys
from contextlib import nullcontext
from functools import partial
from typing import Any, TextIO

from pushserver.command_line.console import complain, orderly_end, shown_json
from pushserver.errors import CommandFailed


def add_store_commands(commands: Any) -> None:
    """Add `store backup` and the others to the commands of a parser."""
    group = commands.add_parser("store", help="back up, restore and check the stored history")
    actions = group.add_subparsers(metavar="ACTION", title="actions", required=True)

    command = _add(actions, "backup", "copy the store, also while the server runs", backup)
    command.add_argument("file", help="the copy")
    command.add_argument("--force", action="store_true", help="replace an earlier copy")

    command = _add(actions, "restore", "put a copy in the place of the store", restore)
    command.add_argument("file", help="the copy")
    _add_keep_epoch(command)

    _add(actions, "check", "check the store, also while the server runs", check)
    _add(actions, "compact", "make the file smaller; the server must be stopped", compact)

    command = _add(actions, "export", "write the store as lines of JSON", export)
    command.add_argument("file", help="the new file; - is standard output")
    command.add_argument("--force", action="store_true", help="replace an earlier export")

    command = _add(actions, "import", "put a store of exported lines in its place", import_)
    command.add_argument("file", help="the exported file; - is standard input")
    _add_keep_epoch(command)


def _add_keep_epoch(command: Any) -> None:
    command.add_argument(
        "--keep-epoch",
        action="store_true",
        help="clients recover as if nothing had happened; only if the copy was made of a server"
        " that was stopped and has not run since",
    )


def _add(actions: Any, name: str, words: str, run: Any) -> Any:
    command = actions.add_parser(name, help=words)
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--store", metavar="PATH", help="the file of the store")
    where.add_argument(
        "--config", metavar="FILE", help="the configuration of the server, which has its path"
    )
    command.set_defaults(run=partial(_in_order, run))
    return command


def _in_order(run: Any, options: Any, out: TextIO) -> None:
    """Run a command, which removes its unfinished file also when a signal ends the process."""
    with orderly_end():
        run(options, out)


def _path(options: Any) -> str:
    """The path of the store; raises CommandFailed or InvalidConfig."""
    if options.store is not None:
        return str(options.store)
    # Imported here, as in cli.
    from pushserver.config.loader import read
    from pushserver.sources.registry import SourceTypes

    path = read(options.config, os.environ, SourceTypes()).store.path
    if not path:
        raise CommandFailed(f"{options.config} has no store: expected [store] with a path")
    return path


def _say(text: str, out: TextIO) -> None:
    print(shown_json(text, out), file=out, flush=True)


def backup(options: Any, out: TextIO) -> None:
    """Copy the store; raises StoreError."""
    from pushserver.store.copying import backup as copy

    size = copy(_path(options), options.file, options.force, _progress())
    _say(f"{options.file}: {size:,} bytes", out)


def restore(options: Any, out: TextIO) -> None:
    """Put a copy in the place of the store; raises StoreError."""
    from pushserver.store.copying import restore as put

    path = _path(options)
    kept = put(options.file, path, options.keep_epoch)
    _say_replaced(path, "restored", kept, options.keep_epoch, out)


def _say_replaced(path: str, done: str, kept: str, keep_epoch: bool, out: TextIO) -> None:
    if kept:
        _say(f"the store before: {kept}", out)
    epoch = "keeps the epoch" if keep_epoch else "begins a new epoch"
    _say(f"{path}: {done}; the next start {epoch}", out)


def compact(options: Any, out: TextIO) -> None:
    """Give free space back; raises StoreError."""
    from pushserver.store.copying import compact as shrink

    path = _path(options)
    before, after = shrink(path)
    _say(f"{path}: {before:,} bytes before, {after:,} bytes now", out)


def check(options: Any, out: TextIO) -> None:
    """Check the store; raises StoreError, or CommandFailed if it is damaged."""
    from pushserver.store.checking import MOST_PROBLEMS
    from pushserver.store.checking import check as checked

    path = _path(options)
    found = checked(path)
    for problem in found.problems:
        complain(problem)
    if found.problems:
        more = " or more" if len(found.problems) == MOST_PROBLEMS else ""
        raise CommandFailed(
            f"{path} is damaged ({len(found.problems)}{more} problems): restore a copy"
            " (docs/store.md)"
        )
    _say(
        f"{path}: good; publications: {found.publications:,}, channels: {found.channels:,},"
        f" size: {found.bytes:,} bytes, free in it: {found.free_bytes:,} bytes",
        out,
    )


def export(options: Any, out: TextIO) -> None:
    """Write the lines of the store; raises StoreError."""
    from pushserver.store.exporting import export as lines
    from pushserver.store.files import EXPORT, check_target, new_file

    path = _path(options)
    if options.file == "-":
        binary = None if out.isatty() else getattr(out, "buffer", None)
        for line in lines(path):
            if binary is None:
                print(shown_json(line.decode(), out), file=out)
            else:
                # In UTF-8, whatever the encoding of the output.
                binary.write(line + b"\n")
        out.flush()
        return
    check_target(options.file, path, options.force, EXPORT)
    with new_file(options.file) as new, open(new, "wb") as file:
        for line in lines(path):
            file.write(line + b"\n")
    _say(f"{options.file}: {os.stat(options.file).st_size:,} bytes", out)


def import_(options: Any, out: TextIO) -> None:
    """Put a store of exported lines in the place of the store; raises StoreError."""
    from pushserver.store.importing import load

    path = _path(options)
    with _input(options.file) as file:
        name = "standard input" if options.file == "-" else options.file
        done = load(file, name, path, options.keep_epoch)
    if done.skipped:
        complain(f"skipped {done.skipped:,} lines of kinds that this version does not know")
    text = f"publications: {done.publications:,}, channels: {done.channels:,}"
    _say_replaced(path, text, done.kept, options.keep_epoch, out)


def _input(name: str) -> Any:
    if name == "-":
        # There may be no standard input (`<&-`).
        return nullcontext(getattr(sys.stdin, "buffer", io.BytesIO()))
    try:
        return open(name, "rb")
    except OSError as error:
        raise CommandFailed(f"cannot read {name}: {error.strerror}") from None


def _progress() -> Any:
    """Shows the progress in a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return lambda done, pages: None

    def show(done: int, pages: int) -> None:
        end = "\n" if done == pages else ""
        print(f"\r{100 * done // max(pages, 1)} %", end=end, file=sys.stderr, flush=True)

    return show
