"""Why a node is not attached to Redis: in full for the log, and in short for everybody."""

from __future__ import annotations

from dataclasses import dataclass

from pushserver.redis.commands import ErrorReply

AWAY = "Redis is away"
SILENT = "Redis does not answer"
UNFIT = "this Redis cannot have the log"
MISPLACED = "other servers have another list of Redis servers"
WAITS = "waits for the other shards"
TAKEN = "another server has the name of this one"
BROKEN = "the connection to Redis is made again"
UNKNOWN = "no Sentinel names a Redis"
STARTING = "not attached to Redis yet"

_OF_ERRORS = {
    "SHARDS": (MISPLACED, "that is its place in a list; give all servers the same broker.url"),
    "LAYOUT": (UNFIT, "its keys are those of another version; set another broker.prefix"),
    "LOADING": ("Redis reads its file", ""),
    "MISCONF": (UNFIT, ""),
    "NOAUTH": ("Redis wants a password", "broker.url has none"),
    "NOPERM": ("Redis does not permit what a node needs", ""),
    "NOREPLICAS": ("Redis has too few replicas", "min-replicas-to-write"),
    "OOM": ("the memory of Redis is full", ""),
    "READONLY": (UNFIT, "it is a replica"),
    "WRONGPASS": ("Redis refuses the password", "broker.url has another one"),
    "WRONGTYPE": (UNFIT, "another program has keys there; set another broker.prefix"),
}

_SHOWN_KEYS = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """`text` may have names, addresses and what Redis wrote; `short` has none of these."""

    text: str
    short: str = AWAY


def of_reply(error: ErrorReply) -> Problem:
    """The problem of a connection that Redis has refused with this error."""
    short, hint = _OF_ERRORS.get(error.word, ("Redis refuses the node", ""))
    text = f"{error!s:.300}"
    if error.keys:
        # Redis does not say which.
        names = [f"{key.decode('utf-8', 'replace')!r:.80}" for key in error.keys[:_SHOWN_KEYS]]
        more = ", ..." if len(error.keys) > _SHOWN_KEYS else ""
        hint = f"one of {', '.join(names)}{more}; {hint}" if hint else hint
    return Problem(f"{text} ({hint})" if hint else text, short)
