"""Runs twistd as its console script does in a terminal.

A process in the background of a script ignores SIGINT; the tests work there too.
"""

import signal
import sys

from twisted.scripts.twistd import run

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[0] = "twistd"
    run()
