"""Run twistd as its console script does in a terminal, but measured to its end.

A twistd that gets SIGTERM or SIGINT ends itself by that signal, so nothing that was
registered with atexit runs and coverage would lose what it measured. And one that is
started in the background of a script is deaf to SIGINT, which tests do not depend on.
"""

import signal
import sys

from coverage import Coverage
from twisted.application import app
from twisted.scripts.twistd import run

_exit_with_signal = app._exitWithSignal


def _save_coverage_and_exit(number: int) -> None:
    coverage = Coverage.current()
    if coverage is not None:
        coverage.stop()
        coverage.save()
    _exit_with_signal(number)


if __name__ == "__main__":
    app._exitWithSignal = _save_coverage_and_exit
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[0] = "twistd"
    run()
