"""A library with a thread of its own: twistd -n pushserver --app thread:app (in this folder).

What it measures is on http://localhost:8080/channels/temperature.
"""

import random
import threading

from pushserver import PushServer

app = PushServer()


class Thermometer:
    """In place of any library that calls when it has something: MQTT, GPIO, a serial port."""

    def __init__(self, callback):
        self._callback = callback
        self._stopped = threading.Event()

    def start(self):
        threading.Thread(target=self._measure, daemon=True).start()

    def stop(self):
        self._stopped.set()

    def _measure(self):
        degrees = 20.0
        while not self._stopped.wait(1.0):
            degrees += random.uniform(-0.3, 0.3)
            self._callback(round(degrees, 2))


def measured(degrees):
    """Called in the library's thread; when publish returns, every open page has been sent it."""
    app.publish("temperature", {"degrees": degrees}, event="measured")


library = Thermometer(measured)


@app.on("start")
def start():
    """The server runs: from now on there may be publications."""
    library.start()


@app.on("stop")
def stop():
    """The server stops, and publishes no more after this."""
    library.stop()
