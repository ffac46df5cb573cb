"""The scripts of leases, which one node at a time has; `script` has their rules."""

from __future__ import annotations

from collections.abc import Mapping

from pushserver.redis.keys import Keys
from pushserver.redis.script import COMMON, Call, Script, call_of

TAKE = Script(
    "take",
    COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
local answers, ms = {}, ARGV[2]
redis.call('HLEN', KEYS[2])
-- A write that takes no memory: with a full one, a node that works must not lose its sources.
redis.call('HDEL', KEYS[2], '')
for i = 3, #KEYS do
    local place = (i - 3) * 2 + 3
    local fence, name = ARGV[place], ARGV[place + 1]
    local held = redis.pcall('GET', KEYS[i])
    if held == fence then
        redis.call('PEXPIRE', KEYS[i], ms)
        answers[#answers + 1] = {1, false}
    elseif not held then
        redis.call('SET', KEYS[i], fence, 'PX', ms)
        answers[#answers + 1] = {1, redis.call('HGET', KEYS[2], name)}
    else
        answers[#answers + 1] = {0, false}
    end
end
return answers
""",
)

RELEASE = Script(
    "release",
    COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
for i = 2, #KEYS do
    if redis.pcall('GET', KEYS[i]) == ARGV[i] then redis.call('DEL', KEYS[i]) end
end
return 1
""",
)

REMEMBER = Script(
    "remember",
    COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
if redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 1
""",
)

SCRIPTS = (TAKE, RELEASE, REMEMBER)


def lease(keys: Keys, run: str, ms: int, fences: Mapping[str, str]) -> Call:
    """Take or renew leases by their names, each for a tenure of this node.

    Answers a pair for each: whether the node has it, and what its holder remembers, if it is new.
    """
    own = (keys.meta, keys.memory, *map(keys.lease, fences))
    pairs = [part for name, fence in fences.items() for part in (fence, name)]
    return call_of(TAKE, own, run, ms, *pairs)


def release(keys: Keys, run: str, fences: Mapping[str, str]) -> Call:
    """Release leases, those that the node still has."""
    return call_of(RELEASE, (keys.meta, *map(keys.lease, fences)), run, *fences.values())


def remember(keys: Keys, run: str, name: str, fence: str, value: bytes) -> Call:
    """Keep a value for the next holder of a lease. Answers 0 if the node has lost it."""
    return call_of(REMEMBER, (keys.meta, keys.memory, keys.lease(name)), run, fence, name, value)
