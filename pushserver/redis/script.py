"""A script of Redis, and its calls.

All keys are declared. Times are those of Redis. The first argument of all scripts but `attach` and
`alive` is the run id of the Redis server to which the connection was attached; if another one is
stored, or a damaged `seq`, the answer is an error that begins with FENCED, and nothing was changed.

Redis checks before the first write of a script whether it may write at all, and if that takes
memory, whether it has any. Nothing stops a script after it. So each script reads first, which
fails if a key is of another type. Scripts that free memory, or by which a node shows that it works,
begin with a write that takes none: so a full memory does not stop them.
Numbers are doubles in Lua: exact up to 2^53.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1

from msgspec import Struct

EMPTY_MS = 120_000
"""A channel without rows is kept for as long after its last publication, clear or `touch`."""


class Script:
    """A script by its name; `sha` is the name that Redis gives it."""

    def __init__(self, name: str, text: str):
        self.name = name
        self.text = text.encode()
        self.sha = sha1(self.text).hexdigest().encode()


class Call(Struct, frozen=True):
    """A script with its keys and arguments."""

    script: Script
    keys: tuple[bytes, ...]
    arguments: tuple[bytes, ...]

    @property
    def evalsha(self) -> tuple[bytes, ...]:
        """The command. If Redis answers NOSCRIPT, nothing was done: send `eval` then."""
        count = b"%d" % len(self.keys)
        return (b"EVALSHA", self.script.sha, count, *self.keys, *self.arguments)

    @property
    def eval(self) -> tuple[bytes, ...]:
        """The command with the whole text, after which Redis knows it."""
        count = b"%d" % len(self.keys)
        return (b"EVAL", self.script.text, count, *self.keys, *self.arguments)


def call_of(script: Script, keys: Sequence[bytes], *arguments: str | bytes | int) -> Call:
    """The call of a script; numbers and texts become bytes."""
    return Call(script, tuple(keys), tuple(map(_argument, arguments)))


def _argument(value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    return value.encode() if isinstance(value, str) else value


COMMON = (
    f"local EMPTY_MS = {EMPTY_MS}"
    """
-- '%d' is faster than '%.0f', and neither writes an exponent.
local function text(number) return string.format('%d', number) end
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- A number that we may have written, or nothing: doubles are exact up to 2^53, about 9e15.
local function whole(value)
    local found = tonumber(value)
    return found and found >= 0 and found <= 1e15 and found % 1 == 0 and found
end
local function not_whole(key, field, value)
    local has = value and ' has ' .. field .. ' = "' .. value .. '"' or ' has no ' .. field
    return key .. has .. ', expected a whole number up to 10^15'
end
-- The number of a field, in which nothing else is expected.
local function number(key, field, value)
    return whole(value) or error(not_whole(key, field, value), 0)
end
-- The text of an error: a table since Redis 7.
local function message(found)
    return type(found) == 'table' and found.err or tostring(found)
end
-- The error if this is not the log to which the node was attached; or, when the seq is given, if
-- that is damaged: `attach` begins another epoch then.
local function fenced(run, seq)
    if run ~= ARGV[1] then return redis.error_reply('FENCED another run of Redis has the log') end
    if seq ~= nil and not whole(seq) then
        return redis.error_reply('FENCED ' .. not_whole(KEYS[1], 'seq', seq))
    end
end
-- The fields of a row of a channel, or nothing if the row is not ours.
local function row(entry)
    local f = entry[2]
    if f[1] ~= 'q' or f[3] ~= 't' or f[5] ~= 'n' or f[7] ~= 'd' then return end
    return whole(f[2]), whole(f[4]), whole(f[6]), f[8]
end
-- Add an entry to the log. An id above that of the numbering is another program's.
local function log(...)
    local added = redis.pcall('XADD', ...)
    if type(added) == 'table' and added.err then
        if string.find(added.err, 'equal or smaller', 1, true) then
            return redis.error_reply('FENCED the log has an entry of another program')
        end
        return added
    end
end
"""
)
"""The functions that the scripts share, before the text of each."""
