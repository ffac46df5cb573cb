"""Runs the targets with atheris: `python -m tests.fuzz [--seconds 600] [NAME ...]`.

The seconds are shared among the targets, two of which run at a time, each in a process of its own.
Inputs that reached new code stay in FOLDER/NAME for the next run; an input that made a target fail
is FOLDER/NAME.crash-..., and `python -m tests.fuzz --again NAME FILE` reads it once more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

IS_CHILD = "--child" in sys.argv

with atheris.instrument_imports(include=["pushserver" if IS_CHILD else "nothing"]):
    from tests.fuzz.targets import TARGETS, target

AT_A_TIME = 2
LONGEST_SECONDS = 20
"""For one input; a longer one counts as a fault."""
MEMORY_MIB = 2_048


def main() -> int:
    options = _parser().parse_args()
    unknown = sorted(set(options.names) - TARGETS.keys())
    if unknown:
        sys.exit(f"there is no target {unknown[0]!r}, expected some of {', '.join(TARGETS)}")
    if options.again:
        target(options.names[0])(options.again.read_bytes())
        return 0
    if options.child:
        _fuzz(options.names[0], options.folder, options.seconds)
    names = options.names or list(TARGETS)
    seconds = max(1, round(options.seconds * AT_A_TIME / len(names)))
    options.folder.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> bool:
        command = [sys.executable, "-m", "tests.fuzz", "--child", "--folder", str(options.folder)]
        ended = subprocess.run(
            [*command, "--seconds", str(seconds), name], capture_output=True, text=True
        )
        done = [line for line in ended.stderr.splitlines() if line.startswith("Done ")]
        print(f"{name}: {done[-1] if done else 'FAILED'}", flush=True)
        if ended.returncode:
            print(ended.stdout + ended.stderr, flush=True)
        return ended.returncode == 0

    with ThreadPoolExecutor(AT_A_TIME) as threads:
        results = list(threads.map(run, names))
    return 0 if all(results) else 1


def _fuzz(name: str, folder: Path, seconds: int) -> None:
    """Run one target; ends the process."""
    read = target(name)
    slug = name.replace(" ", "-")
    corpus = folder / slug
    corpus.mkdir(exist_ok=True)
    for number, example in enumerate(read.examples):
        (corpus / f"example-{number}").write_bytes(example)
    bounds = [
        f"-max_total_time={seconds}",
        f"-timeout={LONGEST_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        "-max_len=4096",
        f"-artifact_prefix={folder}/{slug}.",
        "-verbosity=1",
        "-print_final_stats=0",
    ]
    atheris.Setup([name, *bounds, str(corpus)], read)
    atheris.Fuzz()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets; all without one")
    parser.add_argument("--seconds", type=int, default=600, help="in all (600)")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--again", type=Path, metavar="FILE", help="read this input once")
    parser.add_argument("--child", action="store_true", help="run one target in this process")
    return parser


if __name__ == "__main__":
    sys.exit(main())
