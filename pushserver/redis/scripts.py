"""The scripts that number and read the log in Redis, each in one step; `script` has their rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec import Struct

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.forgotten import bucket
from pushserver.channels.idempotency import REMEMBERED_SECONDS
from pushserver.channels.publication import Draft, content_bytes
from pushserver.hub.follower import Image, Point
from pushserver.redis import rows
from pushserver.redis.keys import Keys
from pushserver.redis.rows import NotOurs
from pushserver.redis.script import COMMON, Call, Script, call_of

LAYOUT = 1
"""The version of the keys and of their contents."""

FENCED, CHANNELS, KEYS, LEASE, SHARDS = "FENCED", "CHANNELS", "KEYS", "LEASE", "SHARDS"
"""The first words of errors."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of the whole log, of `[limits]`."""

    log_length: int = 10_000
    channels: int = 100_000
    keys_per_publisher: int = 100_000


NEXT = """
-- The number of the next entry of the log that is no publication, after the seq.
local function following(log_key, seq)
    local newest = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
    if not newest then return 1 end
    local major, minor = string.match(newest[1], '^(%d+)-(%d+)$')
    return tonumber(major) == seq and tonumber(minor) + 1 or 1
end
"""
"""The function that `clear` and others share."""

ATTACH = Script(
    "attach",
    COMMON
    + """
local meta, log, nodes, place = unpack(KEYS)
local run, new_epoch, keep, layout, node, shards = unpack(ARGV)
local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq', 'layout', 'runs', 'past')
local placed = redis.call('HGET', place, 'shards')
if m[4] and m[4] ~= layout then return redis.error_reply('LAYOUT ' .. m[4]) end
if placed and placed ~= shards then return redis.error_reply('SHARDS ' .. placed) end
local epoch, seq = m[2], whole(m[3])
local same = m[1] and epoch and seq and (m[1] == run or keep == '1')
-- Before there were other shards, their channels were here, or nowhere.
same = same and (placed or shards == '')
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
-- The runs of this epoch, each with the seq with which it began: `run:seq;`, the newest last.
local runs = m[5] or ''
-- The least seq with which a later run than this one began.
local function least(seen)
    local begun = m[1] == run and math.huge or seq
    local _, past = string.find(runs, seen .. ':', 1, true)
    for first in string.gmatch(string.sub(runs, past and past + 1 or 1), ':(%d+);') do
        begun = math.min(begun, tonumber(first))
    end
    return begun
end
-- The epochs before this one, as `epoch;`. If the node has seen one that is not among them, or more
-- of this one than a later run began with, these are older data, or were once.
local past = m[6] or ''
local function has_passed(one) return string.find(past, one .. ';', 1, true) end
for i = 7, #ARGV, 3 do
    local seen_run, seen_epoch, seen_seq = unpack(ARGV, i, i + 2)
    if seen_epoch == epoch then
        same = same and tonumber(seen_seq) <= least(seen_run)
    elseif seen_epoch ~= '' and not has_passed(seen_epoch) then
        same = false
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
    local seen = {epoch}
    for i = 8, #ARGV, 3 do seen[#seen + 1] = ARGV[i] end
    for _, one in ipairs(seen) do
        if one and one ~= '' and not has_passed(one) then past = past .. one .. ';' end
    end
    past = string.sub(past, -2000)
    epoch, runs = new_epoch, ''
    redis.call('HSET', meta, 'epoch', epoch, 'seq', text(seq), 'layout', layout, 'past', past)
    if shards ~= '' then redis.call('HSET', place, 'shards', shards) end
end
if not same or m[1] ~= run then
    runs = string.sub(runs .. run .. ':' .. text(seq) .. ';', -2000)
    redis.call('HSET', meta, 'run', run, 'runs', runs)
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
    COMMON
    + """
local fence = ARGV[16]
local lease = fence ~= '' and #KEYS or nil
local meta, log_key, due, nodes, channel_key, rows_key, key, publisher =
    unpack(KEYS, 1, lease and lease - 1 or #KEYS)
local run, node, counter, channel, blob = unpack(ARGV, 1, 5)
local bytes, size, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local ttl, bucket, log_length, max_channels, key_ttl, max_keys, key_name = unpack(ARGV, 9, 15)

local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq', 'b' .. bucket)
local refused = fenced(m[1], m[3])
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
local seq = tonumber(m[3]) + 1
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
    COMMON
    + """
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'seq')
local refused = fenced(m[1], m[3])
if refused then return refused end
local epoch, seq = m[2], tonumber(m[3])

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
    COMMON
    + NEXT
    + """
local meta, log_key, due, channel_key, rows_key = unpack(KEYS)
local channel, log_length = ARGV[2], ARGV[3]
local m = redis.call('HMGET', meta, 'run', 'epoch', 'seq')
local refused = fenced(m[1], m[3])
if refused then return refused end
local seq = tonumber(m[3])
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
    COMMON
    + NEXT
    + """
local meta, log_key = unpack(KEYS)
local m = redis.call('HMGET', meta, 'run', 'seq')
local refused = fenced(m[1], m[2])
if refused then return refused end
local seq = tonumber(m[2])
local id = text(seq) .. '-' .. text(following(log_key, seq))
refused = log(log_key, 'MAXLEN', '~', ARGV[2], id, 'k', 'order', 'n', ARGV[3], 'd', ARGV[4])
return refused or 1
""",
)

ALIVE = Script(
    "alive",
    COMMON
    + """
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'seq')
local seq = whole(m[3])
return {seq and m[1] or '', m[2] or '', seq or 0}
""",
)

SCRIPTS = (ATTACH, PUBLISH, IMAGE, CLEAR, ORDER, ALIVE)


# --- the calls ---------------------------------------


class Known(NamedTuple):
    """The last `seq` of an epoch that a node has seen, and the run in which it was."""

    run: str
    epoch: str
    seq: int


def attach(
    keys: Keys,
    run: str,
    new_epoch: str,
    keep: bool,
    node: str,
    known: Sequence[Known] = (),
    shards: str = "",
) -> Call:
    """Begin a connection to the Redis server whose run id is `run`; before all other calls.

    `new_epoch` becomes the epoch unless the data set is the one that it was: that of the same run,
    or of an earlier one if `keep`, with all that is `known`. `shards`: the place of this log among
    several, see `Placement.layout`. Answers `Attached`, or with an error `LAYOUT <n>`, or `SHARDS
    <place>` for another place.
    """
    own = (keys.meta, keys.log, keys.nodes, keys.place)
    seen = [part for each in known for part in each]
    return call_of(ATTACH, own, run, new_epoch, int(keep), LAYOUT, node, shards, *seen)


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
    return call_of(
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
    return call_of(IMAGE, own, run, *arguments)


def clear(keys: Keys, run: str, channel: str, bounds: Bounds) -> Call:
    """Drop the history of a channel. Answers its rows, and the id in the log as two numbers.

    The second is 0, and nothing is in the log, if there is no such channel.
    """
    own = (keys.meta, keys.log, keys.due, keys.channel(channel), keys.rows(channel))
    return call_of(CLEAR, own, run, channel, bounds.log_length)


def order(keys: Keys, run: str, node: str, text: bytes, bounds: Bounds) -> Call:
    """Let the other nodes know of an order, in the order of the log."""
    return call_of(ORDER, (keys.meta, keys.log), run, bounds.log_length, node, text)


def alive(keys: Keys) -> Call:
    """Read the run, the epoch and the seq: the answer of a server without them is `["", "", 0]`."""
    return call_of(ALIVE, (keys.meta,))


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
