"""The scripts that change the log in Redis, each in one step.

All keys are declared. Times are those of Redis. The first argument of all but `attach` and
`alive` is the run id of the Redis server to which the connection was attached; if another one is
stored, the answer is an error that begins with FENCED, and nothing was changed.

Redis checks before the first write of a script whether it may write at all, and if that takes
memory, whether it has any. Nothing stops a script after it. So each script reads first, which
fails if a key is of another type; and scripts that free memory begin with a write that takes none.
Numbers are doubles in Lua: exact up to 2^53.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

from msgspec import Struct

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.forgotten import bucket
from pushserver.channels.idempotency import REMEMBERED_SECONDS
from pushserver.channels.publication import Draft, content_bytes
from pushserver.hub.follower import Image, Point
from pushserver.redis import rows
from pushserver.redis.keys import Keys
from pushserver.redis.rows import NotOurs

LAYOUT = 1
"""The version of the keys and of their contents."""

EMPTY_MS = 120_000
"""A channel without rows is kept for as long after its last publication, clear or `touch`."""

FENCED, CHANNELS, KEYS, LEASE = "FENCED", "CHANNELS", "KEYS", "LEASE"
"""The first words of errors."""


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


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of the whole log, of `[limits]`."""

    log_length: int = 10_000
    channels: int = 100_000
    keys_per_publisher: int = 100_000


_COMMON = (
    f"local EMPTY_MS = {EMPTY_MS}"
    """
-- '%d' is faster than '%.0f', and neither writes an exponent.
local function text(number) return string.format('%d', number) end
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- A number that we have written; nothing else is expected in its field.
local function number(key, field, value)
    return tonumber(value)
        or error(key .. ' has ' .. field .. ' = "' .. tostring(value) .. '", expected a number', 0)
end
-- The text of an error: a table since Redis 7.
local function message(found)
    return type(found) == 'table' and found.err or tostring(found)
end
local function fenced(run)
    return run ~= ARGV[1] and redis.error_reply('FENCED another run of Redis has the log')
end
-- The fields of a row of a channel, or nothing if the row is not ours.
local function row(entry)
    local f = entry[2]
    if f[1] ~= 'q' or f[3] ~= 't' or f[5] ~= 'n' or f[7] ~= 'd' then return end
    return tonumber(f[2]), tonumber(f[4]), tonumber(f[6]), f[8]
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

_NEXT = """
-- The number of the next entry of the log that is no publication, after the seq.
local function following(log_key, seq)
    local newest = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
    if not newest then return 1 end
    local major, minor = string.match(newest[1], '^(%d+)-(%d+)$')
    return tonumber(major) == seq and tonumber(minor) + 1 or 1
end
"""

ATTACH = Script(
    "attach",
    _COMMON
    + """
local meta, log, nodes = unpack(KEYS)
local run, new_epoch, keep, layout, node = unpack(ARGV)
local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq', 'layout')
if m[4] and m[4] ~= layout then return redis.error_reply('LAYOUT ' .. m[4]) end
local epoch, seq = m[2], m[3] and tonumber(m[3])
local same = m[1] and epoch and seq and (m[1] == run or keep == '1')
seq = seq or 0
local counter = redis.call('HGET', nodes, node)
local last = 0
if redis.call('EXISTS', log) == 1 then
    local info = redis.call('XINFO', 'STREAM', log)
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            last = tonumber(string.match(info[i + 1], '^%d+'))
        end
    end
end
-- Before the first write that takes memory: the nodes must be able to free some.
if not same or m[1] ~= run or last > seq then redis.call('HDEL', meta, 'run') end
if last > 1e15 then
    redis.call('DEL', log)
    same = false
elseif last > seq then
    seq = last
    same = false
end
if not same then
    epoch = new_epoch
    redis.call('HSET', meta, 'run', run, 'epoch', epoch, 'seq', text(seq), 'layout', layout)
elseif m[1] ~= run then
    redis.call('HSET', meta, 'run', run)
end
-- Each process is a node of its own: those that were silent for a day are gone.
if redis.call('HLEN', nodes) > 1000 then
    local all, past = redis.call('HGETALL', nodes), now() - 86400000
    for i = 1, #all, 2 do
        local time = tonumber(string.match(all[i + 1], ':(%d+)$'))
        if all[i] ~= node and (not time or time < past) then
            redis.call('HDEL', nodes, all[i])
        end
    end
end
return {epoch, seq, counter and string.match(counter, '^%d+') or '0'}
""",
)

PUBLISH = Script(
    "publish",
    _COMMON
    + """
local fence = ARGV[16]
local lease = fence ~= '' and #KEYS or nil
local meta, log_key, due, nodes, channel_key, rows_key, key, publisher =
    unpack(KEYS, 1, lease and lease - 1 or #KEYS)
local run, node, counter, channel, blob = unpack(ARGV, 1, 5)
local bytes, size, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local ttl, bucket, log_length, max_channels, key_ttl, max_keys, key_name = unpack(ARGV, 9, 15)

local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq', 'b' .. bucket)
local refused = fenced(m[1])
if refused then return refused end
local epoch = m[2]
if key then
    local known = redis.call('GET', key)
    local s, o, g, e, t = string.match(known or '', '^(%d+) (%d+) (%d+) (%S+) (%d+)$')
    if s then return {'key', tonumber(s), tonumber(o), tonumber(g), e, tonumber(t)} end
end
local last = redis.call('HGET', nodes, node)
last = last and tonumber(string.match(last, '^%d+'))
if last and tonumber(counter) <= last then return {'again', 0, 0, 0, epoch, 0} end
if lease and redis.call('GET', KEYS[lease]) ~= fence then
    return redis.error_reply('LEASE another node has ' .. KEYS[lease])
end
local time = now()
if publisher and redis.call('ZCOUNT', publisher, text(time + 1), '+inf') >= tonumber(max_keys) then
    return redis.error_reply('KEYS this publisher has ' .. max_keys .. ' idempotency keys')
end
local c = redis.call('HMGET', channel_key, 'top', 'floor', 'fq', 'g', 'b', 't', 'ttl')
local seq = number(meta, 'seq', m[3]) + 1
local generation = number(meta, 'b' .. bucket, m[4] or 0)
local top, floor, floor_seq, total = 0, 0, generation, 0
if c[1] then
    top, floor = number(channel_key, 'top', c[1]), number(channel_key, 'floor', c[2])
    floor_seq, generation = number(channel_key, 'fq', c[3]), number(channel_key, 'g', c[4])
    total, time = number(channel_key, 'b', c[5]), math.max(time, number(channel_key, 't', c[6]))
end
local retained = size > 0 and bytes <= max_bytes
-- Whether it has a row already with this ttl: then it is due early enough.
local is_due = retained and floor < top and c[7] == ttl
local kept = is_due or redis.call('ZCARD', due)
if not c[1] and kept >= tonumber(max_channels) then
    return redis.error_reply('CHANNELS there are ' .. text(kept) .. ' channels')
end

-- The rows to evict.
local before = floor
local lost = redis.call('XLEN', rows_key) ~= top - floor
top = top + 1
total = total + bytes
while retained and not lost and (top - floor > size or total > max_bytes) do
    local count = math.min(100, math.max(1, top - floor - size))
    local found = redis.call('XRANGE', rows_key, text(floor + 1), '+', 'COUNT', count)
    lost = #found == 0
    for _, entry in ipairs(found) do
        local q, _, n = row(entry)
        if not (q and n) or entry[1] ~= text(floor + 1) .. '-0' then
            lost = true
            break
        end
        floor, floor_seq, total = floor + 1, q, total - n
        if top - floor <= size and total <= max_bytes then break end
    end
end
if lost then floor, floor_seq, total = top - 1, seq - 1, bytes end
if not retained then floor, floor_seq, total = top, seq, 0 end

local id, seq_text, time_text = text(top), text(seq), text(time)
refused = log(
    log_key, 'MAXLEN', '~', log_length, seq_text, 'c', channel, 'o', id,
    'g', text(generation), 't', time_text, 'd', blob, 'w', node .. ':' .. counter
)
if refused then return refused end
redis.call('HSET', meta, 'seq', seq_text)
redis.call('HSET', nodes, node, counter .. ':' .. time_text)
if lost or not retained then redis.call('DEL', rows_key) end
if retained then
    local function append()
        return redis.pcall(
            'XADD', rows_key, 'MINID', text(floor + 1), id,
            'q', seq_text, 't', time_text, 'n', ARGV[6], 'd', blob
        )
    end
    if type(append()) == 'table' then
        -- It failed: another program has been here.
        floor, floor_seq, total = top - 1, seq - 1, bytes
        redis.call('DEL', rows_key)
        append()
    end
end
redis.call(
    'HSET', channel_key, 'top', id, 'floor', text(floor), 'fq', text(floor_seq),
    'g', text(generation), 'b', text(total), 't', time_text, 'ttl', ttl
)
if not retained then
    redis.call('ZADD', due, text(time + EMPTY_MS), channel)
elseif not is_due then
    redis.call('ZADD', due, 'LT', ttl == '0' and '+inf' or text(time + ttl), channel)
end
if key then
    local receipt = {seq_text, id, text(generation), epoch, time_text}
    redis.call('SET', key, table.concat(receipt, ' '), 'PX', key_ttl)
    if publisher then
        redis.call('ZREMRANGEBYSCORE', publisher, '-inf', time_text)
        redis.call('ZADD', publisher, text(time + key_ttl), channel .. '\\n' .. key_name)
        redis.call('PEXPIRE', publisher, key_ttl)
    end
end
return {'new', seq, top, generation, epoch, time}
""",
)

IMAGE = Script(
    "image",
    _COMMON
    + """
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'seq')
local refused = fenced(m[1])
if refused then return refused end
local epoch, seq = m[2], number(KEYS[1], 'seq', m[3])

local function image(key, rows_key, bucket, point, offset)
    local c = redis.call('HMGET', key, 'top', 'floor', 'fq', 'g')
    local length = redis.call('XLEN', rows_key)
    if not c[1] then
        local known = redis.call('HGET', KEYS[1], 'b' .. bucket)
        local generation = number(KEYS[1], 'b' .. bucket, known or 0)
        return {generation, 0, 0, generation, 0, {}}
    end
    local top, floor = number(key, 'top', c[1]), number(key, 'floor', c[2])
    local floor_seq, generation = number(key, 'fq', c[3]), number(key, 'g', c[4])
    local evicted, rows = floor, {}
    local own = generation > 0 and epoch .. '-' .. text(generation) or epoch
    local continues = point == own and floor < offset and offset <= top
    local from = continues and offset or floor + 1
    local whole = length == top - floor
    if whole and from <= top then
        for n, entry in ipairs(redis.call('XRANGE', rows_key, text(from), '+')) do
            local q, t, _, d = row(entry)
            if not (q and t) or entry[1] ~= text(from + n - 1) .. '-0' then
                whole = false
                break
            end
            rows[n] = {from + n - 1, q, t, d}
        end
    end
    if not whole then
        -- Another program has been here.
        floor, floor_seq, evicted, rows = top, seq, top, {}
    elseif continues then
        floor, floor_seq = offset, rows[1][2]
        table.remove(rows, 1)
    end
    return {generation, top, floor, floor_seq, evicted, rows}
end

local images = {}
for i = 2, #KEYS, 2 do
    local place = (i - 2) / 2 * 3 + 2
    local point, offset = ARGV[place + 1], tonumber(ARGV[place + 2])
    local done, found = pcall(image, KEYS[i], KEYS[i + 1], ARGV[place], point, offset)
    images[#images + 1] = done and found or message(found)
end
return {epoch, seq, now(), images}
""",
)

CLEAR = Script(
    "clear",
    _COMMON
    + _NEXT
    + """
local meta, log_key, due, channel_key, rows_key = unpack(KEYS)
local channel, log_length = ARGV[2], ARGV[3]
local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq')
local refused = fenced(m[1])
if refused then return refused end
local seq = number(meta, 'seq', m[3])
local c = redis.call('HMGET', channel_key, 'top', 'floor', 'fq')
if not c[1] then return {0, seq, 0} end
local top, floor = number(channel_key, 'top', c[1]), number(channel_key, 'floor', c[2])
local floor_seq = number(channel_key, 'fq', c[3])
redis.call('ZCARD', due)
if redis.call('XLEN', rows_key) > 0 or floor < top then
    local newest = redis.call('XREVRANGE', rows_key, '+', '-', 'COUNT', 1)[1]
    local q = newest and newest[1] == text(top) .. '-0' and row(newest)
    floor_seq = q or seq
end
local number = following(log_key, seq)
redis.call('DEL', rows_key)
refused = log(
    log_key, 'MAXLEN', '~', log_length, text(seq) .. '-' .. text(number), 'k', 'clear', 'c', channel
)
if refused then return refused end
redis.call('HSET', channel_key, 'floor', text(top), 'fq', text(floor_seq), 'b', '0')
redis.call('ZADD', due, text(now() + EMPTY_MS), channel)
return {top - floor, seq, number}
""",
)

ORDER = Script(
    "order",
    _COMMON
    + _NEXT
    + """
local meta, log_key = unpack(KEYS)
local m = redis.call('HMGET', meta, 'run', 'seq')
local refused = fenced(m[1])
if refused then return refused end
local seq = number(meta, 'seq', m[2])
local id = text(seq) .. '-' .. text(following(log_key, seq))
refused = log(log_key, 'MAXLEN', '~', ARGV[2], id, 'k', 'order', 'n', ARGV[3], 'd', ARGV[4])
return refused or 1
""",
)

DUE = Script(
    "due",
    _COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now()), 'LIMIT', 0, ARGV[2])
""",
)

SWEEP = Script(
    "sweep",
    _COMMON
    + """
local meta, due = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq')
local refused = fenced(m[1])
if refused then return refused end
local seq, time, evicted, forgotten, failed = number(meta, 'seq', m[3]), now(), 0, 0, {}

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
    _COMMON
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

ALIVE = Script(
    "alive",
    _COMMON
    + """
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'seq')
return {m[1] or '', m[2] or '', tonumber(m[3] or 0)}
""",
)

TAKE = Script(
    "take",
    _COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
local answers, ms = {}, ARGV[2]
redis.call('HLEN', KEYS[2])
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
    _COMMON
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
    _COMMON
    + """
local refused = fenced(redis.call('HGET', KEYS[1], 'run'))
if refused then return refused end
if redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 1
""",
)

BEAT = Script(
    "beat",
    _COMMON
    + """
local meta, ends, about, name = unpack(KEYS)
local run, node, ms, text_about = unpack(ARGV)
local refused = fenced(redis.call('HGET', meta, 'run'))
if refused then return refused end
local time = now()
redis.call('ZCARD', ends)
redis.call('HLEN', about)
if name then
    local holder = redis.call('GET', name)
    if holder and holder ~= node then return redis.call('HGET', about, holder) or '' end
    redis.call('SET', name, node, 'PX', ms)
end
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
    _COMMON
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
    _COMMON
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

SCRIPTS = (
    ATTACH,
    PUBLISH,
    IMAGE,
    CLEAR,
    ORDER,
    DUE,
    SWEEP,
    TOUCH,
    ALIVE,
    TAKE,
    RELEASE,
    REMEMBER,
    BEAT,
    LEAVE,
    NODES,
)


# --- the calls ---------------------------------------


def attach(keys: Keys, run: str, new_epoch: str, keep: bool, node: str) -> Call:
    """Begin a connection to the Redis server whose run id is `run`; before all other calls.

    `new_epoch` becomes the epoch unless the data set is the one that it was: that of the same run,
    or of an earlier one if `keep`. Answers `Attached`, or with an error `LAYOUT <n>`.
    """
    return _call(ATTACH, (keys.meta, keys.log, keys.nodes), run, new_epoch, int(keep), LAYOUT, node)


def publish(
    keys: Keys,
    run: str,
    node: str,
    counter: int,
    draft: Draft,
    options: ChannelOptions,
    bounds: Bounds,
    fence: str = "",
) -> Call:
    """Append a draft of this node, whose counter grows with each.

    `fence` is the tenure of the draft's lease, if it has one. Answers `Numbered`, or with an error
    FENCED, CHANNELS, KEYS or LEASE.
    """
    name = draft.channel
    own = [keys.meta, keys.log, keys.due, keys.nodes, keys.channel(name), keys.rows(name)]
    if draft.key:
        own.append(keys.key(name, draft.key))
        if draft.publisher:
            own.append(keys.publisher(draft.publisher))
    if fence:
        own.append(keys.lease(draft.lease))
    return _call(
        PUBLISH,
        own,
        run,
        node,
        counter,
        name,
        rows.encode(draft),
        content_bytes(draft),
        options.history_size,
        options.history_bytes,
        round(options.history_ttl * 1000),
        bucket(name),
        bounds.log_length,
        bounds.channels,
        round(REMEMBERED_SECONDS * 1000),
        bounds.keys_per_publisher,
        draft.key,
        fence,
    )


def image(keys: Keys, run: str, points: Sequence[Point]) -> Call:
    """Read channels from these points on. Answers what `images_of` decodes."""
    own: list[bytes] = [keys.meta]
    arguments: list[str | int] = []
    for point in points:
        own += (keys.channel(point.channel), keys.rows(point.channel))
        arguments += (bucket(point.channel), point.epoch, point.offset)
    return _call(IMAGE, own, run, *arguments)


def clear(keys: Keys, run: str, channel: str, bounds: Bounds) -> Call:
    """Drop the history of a channel. Answers its rows, and the id in the log as two numbers.

    The second is 0, and nothing is in the log, if there is no such channel.
    """
    own = (keys.meta, keys.log, keys.due, keys.channel(channel), keys.rows(channel))
    return _call(CLEAR, own, run, channel, bounds.log_length)


def order(keys: Keys, run: str, node: str, text: bytes, bounds: Bounds) -> Call:
    """Let the other nodes know of an order, in the order of the log."""
    return _call(ORDER, (keys.meta, keys.log), run, bounds.log_length, node, text)


def due(keys: Keys, run: str, most: int) -> Call:
    """Find the channels that `sweep` has to look at. Answers their names."""
    return _call(DUE, (keys.meta, keys.due), run, most)


def sweep(keys: Keys, run: str, channels: Sequence[tuple[str, float]]) -> Call:
    """Evict the rows older than the `history_ttl` of each, and forget those without rows.

    Answers what `swept_of` decodes.
    """
    own: list[bytes] = [keys.meta, keys.due]
    arguments: list[str | int] = []
    for name, ttl in channels:
        own += (keys.channel(name), keys.rows(name))
        arguments += (name, bucket(name), round(ttl * 1000))
    return _call(SWEEP, own, run, *arguments)


def touch(keys: Keys, run: str, channels: Sequence[str]) -> Call:
    """Keep these channels if they have no rows, for a node that follows them; for EMPTY_MS.

    Answers 1 for each, or 0 if there is no such channel.
    """
    own = (keys.meta, keys.due, *(keys.rows(name) for name in channels))
    return _call(TOUCH, own, run, *channels)


def lease(keys: Keys, run: str, ms: int, fences: Mapping[str, str]) -> Call:
    """Take or renew leases by their names, each for a tenure of this node.

    Answers a pair for each: whether the node has it, and what its holder remembers, if it is new.
    """
    own = (keys.meta, keys.memory, *map(keys.lease, fences))
    pairs = [part for name, fence in fences.items() for part in (fence, name)]
    return _call(TAKE, own, run, ms, *pairs)


def release(keys: Keys, run: str, fences: Mapping[str, str]) -> Call:
    """Release leases, those that the node still has."""
    return _call(RELEASE, (keys.meta, *map(keys.lease, fences)), run, *fences.values())


def remember(keys: Keys, run: str, name: str, fence: str, value: bytes) -> Call:
    """Keep a value for the next holder of a lease. Answers 0 if the node has lost it."""
    return _call(REMEMBER, (keys.meta, keys.memory, keys.lease(name)), run, fence, name, value)


def beat(keys: Keys, run: str, node: str, name: str, ms: int, about: bytes) -> Call:
    """Tell about this node, which is gone after `ms` unless it tells again.

    Answers None; or if another node has the name, what that one told about itself.
    """
    return _call(BEAT, _of_nodes(keys, name), run, node, ms, about)


def leave(keys: Keys, run: str, node: str, name: str) -> Call:
    """The node is gone."""
    return _call(LEAVE, _of_nodes(keys, name), run, node)


def nodes(keys: Keys, run: str) -> Call:
    """Read what all present nodes told about themselves."""
    return _call(NODES, _of_nodes(keys, ""), run)


def _of_nodes(keys: Keys, name: str) -> list[bytes]:
    return [keys.meta, keys.ends, keys.about, *([keys.name(name)] if name else [])]


def alive(keys: Keys) -> Call:
    """Read the run, the epoch and the seq: the answer of a server without them is `["", "", 0]`."""
    return _call(ALIVE, (keys.meta,))


def _call(script: Script, keys: Sequence[bytes], *arguments: str | bytes | int) -> Call:
    return Call(script, tuple(keys), tuple(map(_argument, arguments)))


def _argument(value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    return value.encode() if isinstance(value, str) else value


# --- the answers ---------------------------------------


class Attached(Struct, frozen=True):
    """The numbering of the log, and the last counter of the node."""

    epoch: str
    seq: int
    counter: int


class Numbered(Struct, frozen=True):
    """The numbers of a publication; `time` in milliseconds.

    `kind` is `new`, `key` (it was published before with this key), or `again`: this counter, or a
    later one of the node, has been published; the entry of the log has its numbers.
    """

    kind: str
    seq: int
    offset: int
    generation: int
    epoch: str
    time: int


class Images(Struct, frozen=True):
    """The images of channels, taken when `seq` was the last one of the log.

    A channel of whose keys another program has made something else has an error in its place.
    """

    epoch: str
    seq: int
    images: tuple[Image, ...]
    errors: tuple[str, ...]


class Swept(Struct, frozen=True):
    """The numbers of evicted rows and of forgotten channels, and the errors as in `Images`."""

    evicted: int
    forgotten: int
    errors: tuple[str, ...]


def attached_of(answer: Any) -> Attached:
    """Decode the answer to `attach`."""
    epoch, seq, counter = answer
    return Attached(epoch.decode(), seq, int(counter))


def numbered_of(answer: Any) -> Numbered:
    """Decode the answer to `publish`."""
    kind, seq, offset, generation, epoch, time = answer
    return Numbered(kind.decode(), seq, offset, generation, epoch.decode(), time)


def images_of(points: Sequence[Point], answer: Any) -> Images:
    """Decode the answer to `image` of these points."""
    epoch, seq, now, found = answer
    run = epoch.decode()
    images, errors = [], []
    for point, image in zip(points, found, strict=True):
        if isinstance(image, bytes):
            errors.append(image.decode(errors="replace"))
            continue
        try:
            images.append(rows.image_of(run, now, point.channel, image))
        except NotOurs as error:
            errors.append(str(error))
    return Images(run, seq, tuple(images), tuple(errors))


def swept_of(answer: Any) -> Swept:
    """Decode the answer to `sweep`."""
    evicted, forgotten, errors = answer
    return Swept(evicted, forgotten, tuple(text.decode(errors="replace") for text in errors))
