"""Run twistd as its console script does in a terminal.

One that is started in the background of a script is deaf to SIGINT, which tests do not depend on.
"""

import signal
import sys

from twisted.scripts.twistd import run

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[0] = "twistd"
    run()
