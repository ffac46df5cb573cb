"""A connection to Redis that is made again whenever it is lost, and attached before any use."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from zlib import crc32

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels.history import new_epoch
from pushserver.config.redis_url import SENTINEL_RULE, Address
from pushserver.errors import PushServerError
from pushserver.redis import (
    agreement_scripts,
    lease_scripts,
    node_scripts,
    presence_scripts,
    scripts,
    upkeep_scripts,
)
from pushserver.redis.commands import ErrorReply, Gone, Send
from pushserver.redis.dial import ANSWER_SECONDS, CANNOT_CONNECT, authenticate, dial, reason_of
from pushserver.redis.keys import Keys
from pushserver.redis.problems import AWAY, BROKEN, SILENT, TAKEN, UNFIT, UNKNOWN, Problem, of_reply
from pushserver.redis.scripts import Attached, Known
from pushserver.redis.sentinel import NoMaster, Sentinels
from pushserver.usercode.rate import LogLimiter

SCRIPTS = tuple(
    script
    for module in (
        scripts,
        upkeep_scripts,
        lease_scripts,
        node_scripts,
        presence_scripts,
        agreement_scripts,
    )
    for script in module.SCRIPTS
)
TEXTS = tuple(script.text for script in SCRIPTS)
LEAST_VERSION = (6, 2)
POLICY = "noeviction"
KEEPS = "+"
"""The end of the name of a run that writes each answer to its file."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts; each pause is twice as long as the last one, with a jitter."""
LONGEST_WITH_SENTINELS = 1.0
"""The longest pause if Sentinels may name another server at any time."""
FIT_SECONDS = 5.0
"""The interval in which an attached server is asked again whether it can have the log."""
STEADY_SECONDS = 2.0
"""After a connection of this length, the pauses begin with the first one again."""


class Unfit(PushServerError):
    """The server cannot have the log; the text says what was found and what is expected."""

    short = UNFIT


class Place(Protocol):
    """The place of a log among several; see `shards`."""

    @property
    def layout(self) -> str:
        """What the server has as its place, and what all must agree on."""

    def check(self, found: str) -> None:
        """Raise Unfit if the node must not use a server with this place; empty for none."""

    async def enter(self, session: Session) -> None:
        """Raise Unfit if the node must not use this server."""

    async def work(self) -> None:
        """Do what is due; called again and again."""


class NameTaken(Unfit):
    """Another node has the name of this one."""

    short = TAKEN


@dataclass(frozen=True, slots=True)
class Server:
    """A server as it described itself. `keeps`: its data set outlives a kill with all answers."""

    run: str
    keeps: bool


def server_of(info: bytes, fsync: str) -> Server:
    """The server of an answer to INFO, if it can have the log; raises Unfit.

    Raises ErrorReply while it reads its file: until it has, it says that it writes none. `fsync`
    is its setting `appendfsync`; empty if it is not known.
    """
    facts = dict(
        line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line
    )
    if facts.get("loading", "0") != "0":
        raise ErrorReply("LOADING Redis is loading the dataset in memory")
    if facts.get("redis_mode") == "sentinel":
        raise Unfit(f"this is a Sentinel: expected a Redis, or broker.url {SENTINEL_RULE}")
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < LEAST_VERSION:
        raise Unfit(f"its version is {version[:40]!r}: expected 6.2 or later")
    run = facts.get("run_id", "")
    if not run:
        raise Unfit("INFO has no run_id: expected that of Redis or Valkey")
    if facts.get("role") != "master":
        raise Unfit(f"its role is {facts.get('role', '')[:40]!r}: expected 'master', not a replica")
    policy = facts.get("maxmemory_policy", "")
    if policy != POLICY:
        raise Unfit(
            f"its maxmemory-policy is {policy[:40]!r}, with which it may drop any part of the log: "
            f"expected {POLICY!r} (CONFIG SET maxmemory-policy {POLICY}, and in redis.conf)"
        )
    # A replica that was promoted has the data set of another server, and may lack its last part.
    never_replica = set(facts.get("master_replid2", "0")) <= {"0"}
    keeps = facts.get("aof_enabled") == "1" and fsync == "always" and never_replica
    return Server(run, keeps)


async def _ask(send: Send) -> Server:
    """The server at the other end, if it can have the log; raises Unfit, ErrorReply and Gone."""
    info = await send([b"INFO"])
    if not isinstance(info, bytes):
        raise Unfit(f"its answer to INFO is {info!r:.80}: expected a text, as of Redis or Valkey")
    try:
        setting = await send([b"CONFIG", b"GET", b"appendfsync"])
    except ErrorReply:
        setting = None
    match setting:
        case [_, bytes(value)]:
            fsync = value.decode("utf-8", "replace")
        case _:
            # Not permitted: then nobody knows.
            fsync = ""
    return server_of(info, fsync)


@dataclass(frozen=True, slots=True)
class Session:
    """An attached connection: `send` sends commands, and `run` is the first argument of scripts.

    `server` is the address of the server, for the log.
    """

    send: Send
    run: str
    attached: Attached
    server: str = ""


Enter = Callable[[Session], Coroutine[Any, Any, None]]
"""Called with a session that is not used yet."""


Refused = Callable[[ErrorReply, Session], None]
"""Called with an error of Redis, and the session in which it refused a call."""


async def _enter_nothing(session: Session) -> None:
    """No-op."""


class Connection:
    """Connects to a server, attaches this node, and does both again when the connection is lost.

    With Sentinels, these are asked for the server each time. `made` is called with each session,
    `lost` when it is over, and `failed` with the problem of each attempt without success. `enter`
    is called with each connection before it is `made`, and raises Unfit if this node must not take
    part.
    """

    _log = Logger()

    def __init__(
        self,
        address: Address,
        reactor: Any,
        seconds: Callable[[], float],
        keys: Keys,
        node: str,
        made: Callable[[Session], None],
        lost: Callable[[], None],
        failed: Callable[[Problem], None],
        enter: Enter = _enter_nothing,
        known: Callable[[], Sequence[Known]] = tuple,
        place: Place | None = None,
    ):
        self._reactor = reactor
        self._seconds = seconds
        self._keys = keys
        self._node = node
        self._made = made
        self._lost = lost
        self._failed = failed
        self._enter = enter
        self._known = known
        self._place = place
        self._sentinels = Sentinels(address, reactor) if address.sentinels else None
        self._address = address
        self._running = False
        self._attempt: Deferred[None] | None = None
        self._dials = False
        self._later: IDelayedCall | None = None
        self._wire: Any = None
        self._session: Session | None = None
        self._asked = 0.0
        self._since = 0.0
        self._failures = 0
        self._broken = LogLimiter()

    def start(self) -> None:
        """Connect now."""
        self._running = True
        self._connect()

    def stop(self) -> None:
        """End the connection, and make no other one."""
        self._running = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._attempt is not None:
            self._attempt.cancel()
        self.drop()

    def again(self, reason: str, short: str = BROKEN) -> None:
        """End the connection, and make another one: something is wrong with this one."""
        if self._session is not None:
            self._failed(Problem(reason, short))
            self.drop()

    async def check(self) -> None:
        """Leave a server that cannot have the log any more; called again and again.

        It may have become a replica, or have been told to drop keys.
        """
        session, now = self._session, self._seconds()
        if session is None or now - self._asked < FIT_SECONDS:
            return
        self._asked = now
        try:
            await _ask(session.send)
        except Unfit as error:
            if session is self._session:
                problem = self._of_place(str(error), error.short)
                self.again(problem.text, problem.short)
        except (Gone, ErrorReply):
            # It is lost, or about to be.
            pass

    def leave_for(self, named: Address) -> None:
        """Leave the server, or end an attempt at it, if the Sentinels name another one."""
        if named == self._address:
            return
        if self._session is not None:
            self.again(f"the Sentinels name another master: {named}")
        elif self._dials and self._attempt is not None:
            # It may wait for an answer of the old one for long.
            self._attempt.cancel()
            self._try_again()

    def drop(self) -> None:
        """End the present connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.drop()
        if self._session is not None:
            self._session = None
            self._lost()
            self._try_again()

    # --- one attempt ---------------------------------------

    def _connect(self) -> None:
        self._later = None
        attempt = self._attempt = Deferred.fromCoroutine(self._try())
        attempt.addErrback(self._broke)

    def _broke(self, failure: Failure) -> None:
        more = self._broken.suffix(self._seconds())
        if more is not None:
            line = "the connection to Redis failed{more}"
            self._log.failure(line, failure, more=more, event_name="redis_failed")
        self._fail(Problem(f"an error in the server: {failure.getErrorMessage()}"))

    async def _try(self) -> None:
        wire: Any = None
        timer: IDelayedCall | None = None
        try:
            if self._sentinels is not None:
                self._address = await self._sentinels.master()
            self._dials = True
            wire = await dial(self._address, self._reactor, self._ended, TEXTS)
            timer = self._reactor.callLater(ANSWER_SECONDS, wire.drop)
            session = await self._attach(wire.send)
        except (CancelledError, ConnectingCancelledError):
            if wire is not None:
                wire.drop()
        except NoMaster as error:
            self._fail(Problem(str(error), UNKNOWN))
        except CANNOT_CONNECT as error:
            self._fail(self._of_place(str(error) or type(error).__name__))
        except Gone:
            short = AWAY if wire.ended else SILENT
            self._fail(self._of_place(reason_of(wire, self._address), short))
        except ErrorReply as error:
            wire.drop()
            problem = of_reply(error)
            self._fail(self._of_place(problem.text, problem.short))
        except Unfit as error:
            wire.drop()
            self._fail(self._of_place(str(error), error.short))
        except Exception:
            # An answer with another shape than that of our scripts: see `_broke`.
            if wire is not None:
                wire.drop()
            raise
        else:
            self._wire = wire
            self._session = session
            self._since = self._asked = self._seconds()
            try:
                self._made(session)
            except Exception:
                self._log.failure("the beginning of a session failed", event_name="redis_failed")
                self.again("the beginning of a session failed")
        finally:
            self._attempt, self._dials = None, False
            if timer is not None and timer.active():
                timer.cancel()

    async def _attach(self, send: Send) -> Session:
        await authenticate(send, self._address)
        server = await _ask(send)
        if self._address.database:
            await send([b"SELECT", b"%d" % self._address.database])
        for script in SCRIPTS:
            await send([b"SCRIPT", b"LOAD", script.text])
        layout = ""
        if self._place is not None:
            found = await send([b"HGET", self._keys.place, b"shards"]) or b""
            self._place.check(found.decode("utf-8", "replace"))
            layout = self._place.layout
        before = await send([b"HGET", self._keys.meta, b"run"]) or b""
        # A server may write each answer to its file now, and not have done so in its last run.
        keep = server.keeps and before.endswith(KEEPS.encode())
        run = server.run + KEEPS if server.keeps else server.run
        if layout:
            # So nodes that are attached with another layout are fenced in the same step.
            run = f"{crc32(layout.encode()):x}/{run}"
        call = scripts.attach(self._keys, run, new_epoch(), keep, self._node, self._known(), layout)
        attached = scripts.attached_of(await send(call.evalsha))
        session = Session(send, run, attached, str(self._address))
        await self._enter(session)
        return session

    def _of_place(self, text: str, short: str = AWAY) -> Problem:
        """A problem of the server; with its address, if the configuration does not have it."""
        if self._sentinels is not None:
            text = f"{self._address}, which the Sentinels name: {text}"
        return Problem(text, short)

    def _fail(self, problem: Problem) -> None:
        if self._running:
            self._failed(problem)
            self._try_again()

    def _ended(self, wire: Any) -> None:
        if wire is self._wire:
            self._failed(Problem("the connection was lost"))
            self.drop()

    def _try_again(self) -> None:
        if not self._running:
            return
        if self._since and self._seconds() - self._since > STEADY_SECONDS:
            self._failures = 0
        self._since = 0.0
        longest = LONGEST_PAUSE if self._sentinels is None else LONGEST_WITH_SENTINELS
        pause = min(FIRST_PAUSE * 2 ** min(self._failures, 10), longest)
        self._failures += 1
        self._later = self._reactor.callLater(pause * random.uniform(0.5, 1.0), self._connect)


def new_node() -> str:
    """A name for this process among the nodes of a log; no other one, nor a successor, has it."""
    return secrets.token_hex(8)
