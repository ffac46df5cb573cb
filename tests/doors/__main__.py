"""Runs scripts on each kind of servers: `python -m tests.doors [--seconds 600] [KIND ...]`.

Each script mixes the ways to read and to publish with restarts and kills. The seconds are shared
among the kinds. A script that fails is printed with what was wrong, and is in FOLDER; `python -m
tests.doors --again FILE` runs it again on new servers. Where it fails depends on the moment of each
kill, so that it may need several attempts (`--times 20`).
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.doors.servers import KINDS, serving
from tests.doors.soak import Soak, Step, scripts


class Failed(Exception):
    """A script has found something."""


FAILURES = (Failed, AssertionError, TimeoutError)


class _Over(BaseException):
    """Ends Hypothesis: the time is over, or a script has failed.

    It would run a script that fails again, which has other moments then.
    """


def main() -> int:
    options = _parser().parse_args()
    unknown = sorted(set(options.kinds) - KINDS.keys())
    if unknown:
        sys.exit(f"there is no kind {unknown[0]!r}, expected some of {', '.join(KINDS)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.again:
        name, script = ast.literal_eval(options.again.read_text())
        return _attempt(name, lambda soak: [_check(soak, script) for _ in range(options.times)])
    names = options.kinds or list(KINDS)
    number = random.randrange(2**32) if options.seed is None else options.seed
    print(f"seed {number}", flush=True)
    seconds = options.seconds / len(names)
    return max([_soak(name, seconds, number, options.folder) for name in names])


def _soak(name: str, seconds: float, number: int, folder: Path) -> int:
    end = time.monotonic() + seconds
    done, publications = 0, 0
    failure: Exception | None = None

    def run(soak: Soak) -> None:
        @seed(number)
        @settings(
            max_examples=1_000_000,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(scripts(KINDS[name]))
        def check(script: list[Step]) -> None:
            nonlocal done, publications, failure
            if time.monotonic() > end:
                raise _Over
            try:
                publications += _check(soak, script)
            except FAILURES as error:
                file = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{number}-{done}.py"
                file.write_text(repr((name, script)))
                print(f"python -m tests.doors --again {file}:", flush=True)
                failure = error
                raise _Over from None
            done += 1

        with suppress(_Over):
            check()
        if failure is not None:
            raise failure
        print(f"{name}: {done} scripts, {publications} publications", flush=True)

    return _attempt(name, run)


def _check(soak: Soak, script: list[Step]) -> int:
    problems, publications = soak.run(script)
    if problems:
        raise Failed("\n".join([*map(str, script), *problems]))
    return publications


def _attempt(name: str, run: object) -> int:
    """Run something on new servers."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            with serving(KINDS[name], Path(folder), lasting=True) as servers:
                run(Soak(KINDS[name], servers))  # type: ignore[operator]
        except FAILURES:
            print(f"{name}: FAILED\n{traceback.format_exc(limit=-1)}", flush=True)
            for log in sorted(Path(folder).rglob("log")):
                print(f"--- {log}\n{log.read_text()[-20_000:]}", flush=True)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tests.doors", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="kinds of servers; all without")
    parser.add_argument("--seconds", type=float, default=600, help="in all (600)")
    parser.add_argument("--seed", type=int, help="of the scripts; a random one without")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    parser.add_argument("--again", type=Path, metavar="FILE", help="run this script again")
    parser.add_argument("--times", type=int, default=1, help="how often, with --again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
