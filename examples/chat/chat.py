"""A chat: twistd -n pushserver --app chat:app (in this folder); open http://localhost:8080/."""

from pushserver import PushServer, Refused

app = PushServer(pages="pages")


# None of these handlers blocks, so they may run on the reactor's thread. There they run one at a
# time, so the list of people cannot change while it is built.
@app.on("connect", thread=False)
def come(client, data):
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 30:
        raise Refused("a name has 1 to 30 characters")
    client.state["name"] = name.strip()
    tell_people()


@app.on("disconnect", thread=False)
def go(client):
    tell_people()


@app.on("say", thread=False)
def say(client, text):
    if not isinstance(text, str) or not 0 < len(text.strip()) <= 500:
        raise Refused("say something, in 500 characters at most")
    app.publish("said", {"name": client.state["name"], "text": text.strip()})


def tell_people():
    app.publish("people", sorted(c.state["name"] for c in app.clients if "name" in c.state))
