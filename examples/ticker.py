"""Random numbers, live. Run twistd -n pushserver --app ticker:app (in this folder)."""

from random import random

from pushserver import PushServer

app = PushServer()


@app.source("numbers", every=2.0, event="newnumber")
def random_number():
    return {"number": round(random() * 10, 3)}
