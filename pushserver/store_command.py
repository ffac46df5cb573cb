"""The commands `pushserver store`: keep the file of the history."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from pushserver.console import CommandFailed, complain, shown_json


def add_store_commands(commands: Any) -> None:
    """Add `store backup` and the others to the commands of a parser."""
    group = commands.add_parser("store", help="back up, restore and check the stored history")
    actions = group.add_subparsers(metavar="ACTION", title="actions", required=True)

    command = _add(actions, "backup", "copy the store, also while the server runs", backup)
    command.add_argument("file", help="the copy")
    command.add_argument("--force", action="store_true", help="replace a file that exists")

    command = _add(actions, "restore", "put a copy in the place of the store", restore)
    command.add_argument("file", help="the copy")

    _add(actions, "check", "check the store, also while the server runs", check)
    _add(actions, "compact", "make the file smaller; the server must be stopped", compact)


def _add(actions: Any, name: str, words: str, run: Any) -> Any:
    command = actions.add_parser(name, help=words)
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--store", metavar="PATH", help="the file of the store")
    where.add_argument(
        "--config", metavar="FILE", help="the configuration of the server, which has its path"
    )
    command.set_defaults(run=run)
    return command


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
    kept = put(options.file, path)
    if kept:
        _say(f"the store before: {kept}", out)
    _say(f"{path}: restored; the next start begins a new epoch", out)


def compact(options: Any, out: TextIO) -> None:
    """Give free space back; raises StoreError."""
    from pushserver.store.copying import compact as shrink

    path = _path(options)
    before, after = shrink(path)
    _say(f"{path}: {before:,} bytes before, {after:,} now", out)


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
            " (docs/delivery.md)"
        )
    _say(
        f"{path}: good; {found.publications:,} publications in {found.channels:,} channels,"
        f" {found.bytes:,} bytes, {found.free_bytes:,} of them free",
        out,
    )


def _progress() -> Any:
    """Shows the progress in a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return lambda done, pages: None

    def show(done: int, pages: int) -> None:
        end = "\n" if done == pages else ""
        print(f"\r{100 * done // max(pages, 1)} %", end=end, file=sys.stderr, flush=True)

    return show
