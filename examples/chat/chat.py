"""A chat for one room. README.md in this folder has the command that runs it."""

from hashlib import sha256
from pathlib import Path
from unicodedata import normalize

from pushserver import PushServer, Refused

app = PushServer(pages=Path(__file__).parent / "pages")
put_out = set()  # (name, person); the channel of this name has them for the next start


@app.on("start")
def start():
    put_out.update(tuple(publication.data) for publication in app.last("put-out", 1000))


# None of these handlers blocks, so they may run on the reactor's thread, one at a time.
@app.on("connect", thread=False)
def enter(client, data):
    match data:
        case {"name": str(name), "secret": str(secret)} if 16 <= len(secret) <= 64:
            name = " ".join(normalize("NFKC", name[:100]).split())
        case _:
            raise Refused("expected a name and a secret")
    for character in name:
        if not character.isprintable():
            raise Refused(f"the name has a character that is not printable: U+{ord(character):04X}")
    if not 0 < len(name) <= 30:
        raise Refused("a name has 1 to 30 characters")
    person = person_of(name, secret)
    if any(is_browser_of(*other, client, secret) for other in put_out):
        raise Refused("a moderator has put you out")
    for other in app.clients:
        if other.user.casefold() == name.casefold() and other.state.get("person") != person:
            raise Refused(f"{other.user} is here already: take another name")
    client.user = name
    client.state.update(person=person, secret=secret)


# A person is a name in one browser: another one cannot come back as the same person.
def person_of(name, secret):
    return sha256(f"{name}\n{secret!a}".encode()).hexdigest()[:16]


# Whatever name the browser gives now. A moderator is not put out: another name may be a trial.
def is_browser_of(name, person, client, secret):
    return person_of(name, secret) == person and not is_moderator(client)


@app.on("subscribe")
def read():
    """Let everybody read who has entered, and nobody else."""


@app.on("me", thread=False)
def me(client):
    person = client.state["person"]
    return {"name": client.user, "person": person, "moderator": is_moderator(client)}


@app.on("say", thread=False)
def say(client, data):
    match data:
        # The same message twice, after a lost connection, has the same id and is published once.
        case {"text": str(text), "id": str(unique)} if 0 < len(text.strip()) <= 1000:
            said = {"name": client.user, "person": client.state["person"], "text": text.strip()}
        case _:
            raise Refused("a message has 1 to 1,000 characters")
    app.publish("said", said, key=sha256(ascii([said["person"], unique]).encode()).hexdigest())


@app.on("typing", thread=False)
def typing(client):
    app.publish("typing", client.user, skip=client)


@app.on("remove", thread=False)
def remove(client, offset):
    if not is_moderator(client) or not isinstance(offset, int):
        raise Refused("only moderators remove messages")
    app.publish("said", {"offset": offset}, event="removed")


@app.on("put out", thread=False)
def put_person_out(client, data):
    match data:
        case {"name": str(name), "person": str(person)} if len(name) <= 30 and len(person) <= 16:
            pass
        case _:
            raise Refused("expected the name and the person of a message")
    if not is_moderator(client):
        raise Refused("only moderators put people out")
    if (name, person) not in put_out:
        put_out.add((name, person))
        app.publish("put-out", [name, person])
    for other in app.clients:
        secret = other.state.get("secret")
        if secret and is_browser_of(name, person, other, secret):
            other.disconnect("a moderator has put you out")


def is_moderator(client):
    return client.key_allows("publish", "said")
