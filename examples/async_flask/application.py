"""Random numbers on a page of Flask: python application.py; open http://localhost:5000/.

Or without this file's last lines: twistd -n pushserver --app application:socketio --port 5000
(in this folder).
"""

from random import random
from threading import Lock

from flask import Flask, render_template

from pushserver.flask import SocketIO

app = Flask(__name__)
# A page that opens later begins with the last ten numbers.
socketio = SocketIO(app, initial=10)

lock = Lock()
thread = None


def send_numbers():
    while True:
        number = round(random() * 10, 3)
        socketio.emit("newnumber", {"number": number}, namespace="/test")
        socketio.sleep(1)


@app.route("/")
def index():
    return render_template("index.html")


@socketio.on("connect", namespace="/test")
def connect():
    global thread
    with lock:
        if thread is None:
            thread = socketio.start_background_task(send_numbers)


if __name__ == "__main__":
    socketio.run(app)
