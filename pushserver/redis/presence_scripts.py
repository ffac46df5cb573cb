"""The scripts of the subscribers of all nodes; `script` has their rules.

A node tells of its subscribers in a term, `<node>:<number>`. The term is over when the node says
so, or is silent for too long (`node_scripts`); then it counts no more, and `clean` removes its
subscribers in small parts. What a node tells is numbered, so that a call of a lost connection
that arrives late does nothing; and each subscriber is told of as it is now, so a call may be
repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from pushserver.channels.publication import ClientInfo
from pushserver.redis import rows
from pushserver.redis.keys import Keys
from pushserver.redis.script import COMMON, Call, Script, call_of
from pushserver.redis.scripts import NEXT

TOLD, OLD, GONE, OVER = "told", "old", "gone", "over"
"""The answers to `tell`. Only after the first one something was told: the call was late, the node
is not in the list of nodes, or the term is over."""

Fact = tuple[str, str, ClientInfo | None]
"""A channel, a client, and the facts about it, or None if it has left the channel."""

_COUNT = """
local function user_of(value)
    local at = string.find(value, ':', 1, true)
    return string.sub(value, at + 1, at + tonumber(string.sub(value, 1, at - 1)))
end
-- Count a subscription, and return the number of all of the channel.
local function count(counts, channel, users, value, by)
    local total = redis.call('HINCRBY', counts, channel, by)
    if total < 1 then redis.call('HDEL', counts, channel) end
    local user = user_of(value)
    if redis.call('HINCRBY', users, user, by) < 1 then redis.call('HDEL', users, user) end
    return math.max(total, 0)
end
local function is_there(ends, node, time)
    local score = redis.call('ZSCORE', ends, node)
    return score and tonumber(score) > time
end
"""

BEGIN = Script(
    "begin",
    COMMON
    + _COUNT
    + """
local meta, ends, terms = unpack(KEYS)
local refused = fenced(redis.call('HGET', meta, 'run'))
if refused then return refused end
if not is_there(ends, ARGV[2], now()) then return 0 end
-- A call of a lost connection may come late, and does not begin it anew.
redis.call('HSETNX', terms, ARGV[3], 0)
return 1
""",
)

TELL = Script(
    "tell",
    COMMON
    + NEXT
    + _COUNT
    + f"local TOLD, OLD, GONE, OVER = '{TOLD}', '{OLD}', '{GONE}', '{OVER}'"
    + """
local meta, ends, terms, log_key, counts, observed, own = unpack(KEYS)
local node, term, version, most, length = unpack(ARGV, 2, 6)
local m = redis.call('HMGET', meta, 'run', 'seq')
local refused = fenced(m[1], m[2])
if refused then return refused end
local seq, time = tonumber(m[2]), now()
if not is_there(ends, node, time) then return GONE end
local last = redis.call('HGET', terms, term)
if not last then return OVER end
if tonumber(version) <= tonumber(last) then return OLD end
redis.call('HLEN', counts)
redis.call('SCARD', own)
local channels, wanted = {}, {}
for i = 8, #KEYS, 2 do
    local name = ARGV[7 + #channels]
    channels[#channels + 1] = name
    redis.call('HLEN', KEYS[i])
    redis.call('HLEN', KEYS[i + 1])
    local score = redis.call('ZSCORE', observed, name)
    wanted[#channels] = score and tonumber(score) > time
end
local id = text(seq) .. '-' .. text(following(log_key, seq))
redis.call('HSET', terms, term, version)
most = tonumber(most)
local entry = {log_key, 'MAXLEN', '~', length, id, 'k', 'presence', 'n', term}
local function note(sign, total, channel, client, value)
    entry[#entry + 1] = sign
    entry[#entry + 1] = text(total) .. '\\n' .. channel .. '\\n' .. client .. '\\n' .. value
end
for i = 7 + #channels, #ARGV, 3 do
    local n, client, value = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2]
    local channel, members, users = channels[n], KEYS[6 + 2 * n], KEYS[7 + 2 * n]
    local before = redis.call('HGET', members, client)
    if value == '' then
        if before then
            redis.call('HDEL', members, client)
            if redis.call('EXISTS', members) == 0 then redis.call('SREM', own, channel) end
            local total = count(counts, channel, users, before, -1)
            if wanted[n] and total <= most then note('-', total, channel, client, before) end
        end
    else
        redis.call('HSET', members, client, value)
        if not before then
            redis.call('SADD', own, channel)
            local total = count(counts, channel, users, value, 1)
            if wanted[n] and total <= most + 1 then note('+', total, channel, client, value) end
        elseif user_of(before) ~= user_of(value) then
            count(counts, channel, users, value, 1)
            count(counts, channel, users, before, -1)
        end
    end
end
if #entry > 9 then
    refused = log(unpack(entry))
    if refused then return refused end
end
return TOLD
""",
)

FINISH = Script(
    "finish",
    COMMON
    + NEXT
    + _COUNT
    + """
local meta, ends, terms, dead, log_key = unpack(KEYS)
local m = redis.call('HMGET', meta, 'run', 'seq')
local refused = fenced(m[1], m[2])
if refused then return refused end
local seq, time, ended = tonumber(m[2]), now(), 0
redis.call('SCARD', dead)
for _, term in ipairs(redis.call('HKEYS', terms)) do
    local node = string.match(term, '^(.*):')
    if node == ARGV[3] and term ~= ARGV[4] or not is_there(ends, node, time) then
        redis.call('HDEL', terms, term)
        redis.call('SADD', dead, term)
        local id = text(seq) .. '-' .. text(following(log_key, seq))
        refused = log(log_key, 'MAXLEN', '~', ARGV[2], id, 'k', 'presence', 'n', term)
        if refused then return refused end
        ended = ended + 1
    end
end
return {ended, redis.call('SRANDMEMBER', dead)}
""",
)

CLEAN = Script(
    "clean",
    COMMON
    + _COUNT
    + """
local meta, dead, counts, own = unpack(KEYS)
local term, left = ARGV[2], tonumber(ARGV[3])
local refused = fenced(redis.call('HGET', meta, 'run'))
if refused then return refused end
redis.call('SCARD', dead)
redis.call('HLEN', counts)
for i = 5, #KEYS, 2 do
    local channel = ARGV[4 + (i - 5) / 2]
    local found = redis.call('HRANDFIELD', KEYS[i], left, 'WITHVALUES')
    for n = 1, #found, 2 do
        redis.call('HDEL', KEYS[i], found[n])
        count(counts, channel, KEYS[i + 1], found[n + 1], -1)
    end
    left = left - #found / 2
    if redis.call('EXISTS', KEYS[i]) == 0 then redis.call('SREM', own, channel) end
    if left < 1 then break end
end
if redis.call('EXISTS', own) == 1 then return 1 end
redis.call('SREM', dead, term)
return 0
""",
)

READ = Script(
    "read",
    COMMON
    + """
local meta, terms, counts, users, observed, log_key = unpack(KEYS)
local run, channel, most, ms = unpack(ARGV)
local refused = fenced(redis.call('HGET', meta, 'run'))
if refused then return refused end
local known = redis.call('HKEYS', terms)
local newest = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
local total = tonumber(redis.call('HGET', counts, channel) or 0)
local number_of_users = redis.call('HLEN', users)
local found, is_known = {}, #known == #ARGV - 4
for i = 5, #ARGV do
    is_known = is_known and redis.call('HEXISTS', terms, ARGV[i]) == 1
    if total <= tonumber(most) then
        found[#found + 1] = redis.call('HGETALL', KEYS[i + 2])
    else
        found[#found + 1] = redis.call('HLEN', KEYS[i + 2])
    end
end
if tonumber(ms) > 0 then
    local time = now()
    redis.call('ZREMRANGEBYSCORE', observed, '-inf', text(time))
    redis.call('ZADD', observed, text(time + ms), channel)
end
local place = newest and newest[1] or '0-0'
if not is_known then return {0, known, place} end
return {1, place, total, number_of_users, found}
""",
)

OBSERVE = Script(
    "observe",
    COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
local time, ms = now(), ARGV[2]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(time))
for i = 3, #ARGV do redis.call('ZADD', KEYS[2], text(time + ms), ARGV[i]) end
return 1
""",
)

SCRIPTS = (BEGIN, TELL, FINISH, CLEAN, READ, OBSERVE)


def begin(keys: Keys, run: str, node: str, term: str) -> Call:
    """Begin a term. Answers 0 if the node is not in the list of nodes."""
    return call_of(BEGIN, (keys.meta, keys.ends, keys.terms), run, node, term)


def tell(
    keys: Keys,
    run: str,
    node: str,
    term: str,
    version: int,
    facts: Sequence[Fact],
    most: int,
    log_length: int,
) -> Call:
    """Tell of subscribers as they are now; `version` grows with each call of the term.

    Joins and leaves of observed channels come into the log, if these have no more than `most`
    subscribers, and the join with which there are more.
    """
    numbers: dict[str, int] = {}
    arguments: list[str | bytes | int] = []
    for channel, client, info in facts:
        number = numbers.setdefault(channel, len(numbers) + 1)
        arguments += (number, client, b"" if info is None else rows.member(info))
    own = [keys.meta, keys.ends, keys.terms, keys.log, keys.counts, keys.observed]
    own.append(keys.own_channels(term))
    for channel in numbers:
        own += (keys.members(term, channel), keys.users(channel))
    return call_of(TELL, own, run, node, term, version, most, log_length, *numbers, *arguments)


def finish(keys: Keys, run: str, node: str, term: str, log_length: int) -> Call:
    """End the terms of all nodes that are gone, and those of this node besides `term`.

    Without a node only the former. Answers how many have ended, and the name of one that must be
    cleaned up, or None.
    """
    own = (keys.meta, keys.ends, keys.terms, keys.dead, keys.log)
    return call_of(FINISH, own, run, log_length, node, term)


def clean(keys: Keys, run: str, term: str, channels: Sequence[str], most: int) -> Call:
    """Remove up to `most` subscribers of a term that is over. Answers whether there are more.

    `channels` are some of its `Keys.own_channels`.
    """
    own = [keys.meta, keys.dead, keys.counts, keys.own_channels(term)]
    for channel in channels:
        own += (keys.members(term, channel), keys.users(channel))
    return call_of(CLEAN, own, run, term, most, *channels)


def read(
    keys: Keys, run: str, channel: str, terms: Sequence[str], most: int, observed_ms: int = 0
) -> Call:
    """Read the subscribers of a channel, if there are no more than `most`, or their numbers.

    `terms` are all present ones, as far as is known. For `observed_ms` from now on the log has the
    joins and leaves. Answers what `read_of` decodes.
    """
    own = [keys.meta, keys.terms, keys.counts, keys.users(channel), keys.observed, keys.log]
    own += (keys.members(term, channel) for term in terms)
    return call_of(READ, own, run, channel, most, observed_ms, *terms)


def observe(keys: Keys, run: str, channels: Iterable[str], ms: int) -> Call:
    """Let the log have the joins and leaves of these channels, for as long."""
    return call_of(OBSERVE, (keys.meta, keys.observed), run, ms, *channels)


class OtherTerms(Struct, frozen=True):
    """The answer to `read` with other terms than those after the entry `place`, which are these."""

    terms: tuple[str, ...]
    place: tuple[int, int]


class Found(Struct, frozen=True):
    """What `read` found after the entry `place` of the log.

    `total` counts subscriptions, and `users` those with different users. `members` has the
    subscribers of each term by client; empty if there are too many. `sizes` has their numbers.
    """

    place: tuple[int, int]
    total: int
    users: int
    sizes: dict[str, int]
    members: dict[str, dict[str, ClientInfo]]


def read_of(terms: Sequence[str], answer: Any) -> Found | OtherTerms:
    """Decode the answer to `read`; raises ValueError if another program wrote there."""
    if not answer[0]:
        _, terms_now, place = answer
        return OtherTerms(tuple(term.decode() for term in terms_now), _id_of(place))
    _, place, total, users, found = answer
    sizes: dict[str, int] = {}
    members: dict[str, dict[str, ClientInfo]] = {}
    for term, each in zip(terms, found, strict=True):
        if isinstance(each, int):
            sizes[term] = each
            continue
        members[term] = members_of(each)
        sizes[term] = len(members[term])
    return Found(_id_of(place), total, users, sizes, members)


def _id_of(place: bytes) -> tuple[int, int]:
    seq, _, number = place.partition(b"-")
    return int(seq), int(number)


def members_of(found: Sequence[bytes]) -> dict[str, ClientInfo]:
    """Decode the subscribers of a term by client; raises ValueError."""
    infos = [rows.info_of(*pair) for pair in zip(found[::2], found[1::2], strict=True)]
    return {info.client: info for info in infos}
