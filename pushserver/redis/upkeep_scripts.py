"""The scripts that keep the log in Redis small; `script` has their rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from pushserver.channels.forgotten import bucket
from pushserver.redis.keys import Keys
from pushserver.redis.script import COMMON, Call, Script, call_of

DUE = Script(
    "due",
    COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now()), 'LIMIT', 0, ARGV[2])
""",
)

SWEEP = Script(
    "sweep",
    COMMON
    + """
local meta, due = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq')
local refused = fenced(m[1], m[3])
if refused then return refused end
local seq, time, evicted, forgotten, failed = tonumber(m[3]), now(), 0, 0, {}

local function sweep(channel_key, rows_key, name, bucket, ttl)
    local score = redis.call('ZSCORE', due, name)
    if not score or tonumber(score) > time then return end
    local c = redis.call('HMGET', channel_key, 'top', 'floor', 'fq', 'b')
    local length = redis.call('XLEN', rows_key)
    local generation = number(meta, 'b' .. bucket, redis.call('HGET', meta, 'b' .. bucket) or 0)
    local top, floor, floor_seq, total
    if c[1] then
        top, floor = number(channel_key, 'top', c[1]), number(channel_key, 'floor', c[2])
        floor_seq, total = number(channel_key, 'fq', c[3]), number(channel_key, 'b', c[4])
    end
    -- First a write that takes no memory.
    redis.call('ZREM', due, name)
    if not top then
        redis.call('DEL', rows_key)
        return
    end
    local next_time, before = nil, floor
    local lost = length ~= top - floor
    local past = ttl > 0 and time - ttl or -1
    while not lost and not next_time and floor < top do
        local found = redis.call('XRANGE', rows_key, text(floor + 1), '+', 'COUNT', 100)
        lost = #found == 0
        for _, entry in ipairs(found) do
            local q, t, n = row(entry)
            if not (q and t and n) or entry[1] ~= text(floor + 1) .. '-0' then
                lost = true
                break
            end
            if t > past then
                next_time = ttl > 0 and text(t + ttl) or '+inf'
                break
            end
            floor, floor_seq, total = floor + 1, q, total - n
        end
    end
    if lost then floor, floor_seq, total = top, seq, 0 end
    evicted = evicted + floor - before
    if floor < top then
        if floor > before then redis.call('XTRIM', rows_key, 'MINID', text(floor + 1)) end
    else
        redis.call('DEL', rows_key)
        if before == top then
            redis.call('DEL', channel_key)
            redis.call('HSET', meta, 'b' .. bucket, text(math.max(floor_seq, generation)))
            forgotten = forgotten + 1
            return
        end
        next_time = text(time + EMPTY_MS)
    end
    if floor > before then
        redis.call(
            'HSET', channel_key, 'floor', text(floor), 'fq', text(floor_seq), 'b', text(total)
        )
    end
    redis.call('ZADD', due, next_time, name)
end

for i = 3, #KEYS, 2 do
    local place = (i - 3) / 2 * 3 + 2
    local name, ttl = ARGV[place], tonumber(ARGV[place + 2])
    local done, found = pcall(sweep, KEYS[i], KEYS[i + 1], name, ARGV[place + 1], ttl)
    if not done then
        redis.call('ZADD', due, text(time + EMPTY_MS), name)
        failed[#failed + 1] = message(found)
    end
end
return {evicted, forgotten, failed}
""",
)

TOUCH = Script(
    "touch",
    COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
local due, kept, until_time = KEYS[2], {}, text(now() + EMPTY_MS)
for i = 3, #KEYS do
    local name = ARGV[i - 1]
    local is_kept = redis.call('ZSCORE', due, name)
    if is_kept and redis.call('EXISTS', KEYS[i]) == 0 then
        redis.call('ZADD', due, 'XX', 'GT', until_time, name)
    end
    kept[#kept + 1] = is_kept and 1 or 0
end
return kept
""",
)

SCRIPTS = (DUE, SWEEP, TOUCH)


def due(keys: Keys, run: str, most: int) -> Call:
    """Find the channels that `sweep` has to look at. Answers their names."""
    return call_of(DUE, (keys.meta, keys.due), run, most)


def sweep(keys: Keys, run: str, channels: Sequence[tuple[str, float]]) -> Call:
    """Evict the rows older than the `history_ttl` of each, and forget those without rows.

    Answers what `swept_of` decodes.
    """
    own: list[bytes] = [keys.meta, keys.due]
    arguments: list[str | int] = []
    for name, ttl in channels:
        own += (keys.channel(name), keys.rows(name))
        arguments += (name, bucket(name), round(ttl * 1000))
    return call_of(SWEEP, own, run, *arguments)


def touch(keys: Keys, run: str, channels: Sequence[str]) -> Call:
    """Keep these channels if they have no rows, for a node that follows them; for EMPTY_MS.

    Answers 1 for each, or 0 if there is no such channel.
    """
    own = (keys.meta, keys.due, *(keys.rows(name) for name in channels))
    return call_of(TOUCH, own, run, *channels)


class Swept(Struct, frozen=True):
    """The numbers of evicted rows and of forgotten channels, with errors as in `scripts.Images`."""

    evicted: int
    forgotten: int
    errors: tuple[str, ...]


def swept_of(answer: Any) -> Swept:
    """Decode the answer to `sweep`."""
    evicted, forgotten, errors = answer
    return Swept(evicted, forgotten, tuple(text.decode(errors="replace") for text in errors))
