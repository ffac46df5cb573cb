"""A chat: twistd -n -y chat.py (in this folder), and open http://localhost:8080/.

One program serves the page, chat.html, and below /push the server that carries what is said.
"""

from pathlib import Path

from twisted.application.service import Application
from twisted.application.strports import service
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import File

from pushserver import PushServer, Refused

chat = PushServer()


# None of these handlers waits for anything. On the reactor's thread they run one at a time, so
# nobody comes or goes while the list of people is made.
@chat.on("connect", thread=False)
def come(client, data):
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 30:
        raise Refused("a name has 1 to 30 characters")
    client.state["name"] = name.strip()
    tell_people()


@chat.on("disconnect", thread=False)
def go(client):
    tell_people()


@chat.on("say", thread=False)
def say(client, text):
    if not isinstance(text, str) or not 0 < len(text.strip()) <= 500:
        raise Refused("say something, in 500 characters at most")
    chat.publish("said", {"name": client.state["name"], "text": text.strip()})


def tell_people():
    chat.publish("people", sorted(c.state["name"] for c in chat.clients if "name" in c.state))


root = Resource()
root.putChild(b"", File(str(Path(__file__).with_name("chat.html"))))
root.putChild(b"push", chat.resource())

application = Application("chat")
chat.service().setServiceParent(application)
service("tcp:8080:interface=127.0.0.1", Site(root)).setServiceParent(application)
