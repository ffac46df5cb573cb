"""The scripts of the list of nodes; `script` has their rules."""

from __future__ import annotations

from pushserver.redis.keys import Keys
from pushserver.redis.script import COMMON, Call, Script, call_of

BEAT = Script(
    "beat",
    COMMON
    + """
local meta, ends, about, name = unpack(KEYS)
local run, node, ms, text_about = unpack(ARGV)
local refused = fenced(redis.call('HGET', meta, 'run'))
if refused then return refused end
local time = now()
redis.call('ZCARD', ends)
redis.call('HLEN', about)
local holder = name and redis.call('GET', name)
if holder and holder ~= node then return redis.call('HGET', about, holder) or '' end
-- A write that takes no memory: with a full one, a node that works must not look gone.
redis.call('HDEL', about, '')
if name then redis.call('SET', name, node, 'PX', ms) end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', text(time))) do
    redis.call('ZREM', ends, gone)
    redis.call('HDEL', about, gone)
end
redis.call('ZADD', ends, text(time + ms), node)
redis.call('HSET', about, node, text_about)
return false
""",
)

LEAVE = Script(
    "leave",
    COMMON
    + """
local meta, ends, about, name = unpack(KEYS)
local node = ARGV[2]
local refused = fenced(redis.call('HGET', meta, 'run'))
if refused then return refused end
if name and redis.call('GET', name) == node then redis.call('DEL', name) end
redis.call('ZREM', ends, node)
redis.call('HDEL', about, node)
return 1
""",
)

NODES = Script(
    "nodes",
    COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
local found = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], text(now() + 1), '+inf')) do
    found[#found + 1] = redis.call('HGET', KEYS[3], node) or ''
end
return found
""",
)

SCRIPTS = (BEAT, LEAVE, NODES)


def beat(keys: Keys, run: str, node: str, name: str, ms: int, about: bytes) -> Call:
    """Tell about this node, which is gone after `ms` unless it tells again.

    Answers None; or if another node has the name, what that one told about itself.
    """
    return call_of(BEAT, _of_nodes(keys, name), run, node, ms, about)


def leave(keys: Keys, run: str, node: str, name: str) -> Call:
    """The node is gone."""
    return call_of(LEAVE, _of_nodes(keys, name), run, node)


def nodes(keys: Keys, run: str) -> Call:
    """Read what all present nodes told about themselves."""
    return call_of(NODES, _of_nodes(keys, ""), run)


def _of_nodes(keys: Keys, name: str) -> list[bytes]:
    return [keys.meta, keys.ends, keys.about, *([keys.name(name)] if name else [])]
