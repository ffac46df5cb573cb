"""A library with its own thread. Run twistd -n pushserver --app thread:app (in this folder).

Its measurements are on http://localhost:8080/channels/temperature.
"""

import random
import threading

from pushserver import PushServer

app = PushServer()


class Thermometer:
    """Stands for any library with callbacks: MQTT, GPIO, a serial port."""

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
    """Publish a measurement: called in the library's thread, and any thread may publish."""
    app.publish("temperature", {"degrees": degrees}, event="measured")


library = Thermometer(measured)


@app.on("start")
def start():
    """Start the library: the server runs and accepts publications."""
    library.start()


@app.on("stop")
def stop():
    """Stop the library: after this, publishing fails."""
    library.stop()
