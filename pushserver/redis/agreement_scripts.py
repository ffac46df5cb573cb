"""The script by which nodes notice that they use different servers; `script` has its rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pushserver.redis.keys import Keys
from pushserver.redis.script import COMMON, Call, Script, call_of

AGREE = Script(
    "agree",
    COMMON
    + """
local meta, agreed = unpack(KEYS)
local run, ms = unpack(ARGV)
local refused = fenced(redis.call('HGET', meta, 'run'))
if refused then return refused end
-- A write that takes no memory: a node has to attach, so that it can free some.
redis.call('HDEL', agreed, '')
local time, others = now(), {}
for i = 3, #ARGV, 3 do
    local shard, epoch, past = unpack(ARGV, i, i + 2)
    local known = redis.call('HGET', agreed, shard) or ''
    local other, ends = string.match(known, '^(%S+) (%d+)$')
    local is_over = not other or tonumber(ends) <= time
    if is_over or other == epoch or string.find(past, other .. ';', 1, true) then
        redis.call('HSET', agreed, shard, epoch .. ' ' .. text(time + ms))
    else
        others[#others + 1] = tonumber(shard)
    end
end
return others
""",
)

SCRIPTS = (AGREE,)


class Claim(NamedTuple):
    """The epoch of the log of a shard, as this node sees it, and the earlier ones (`epoch;...`)."""

    shard: int
    epoch: str
    past: str


def agree(keys: Keys, run: str, claims: Sequence[Claim], ms: int) -> Call:
    """Say which epoch each shard has, for `ms`. Answers what `others_of` decodes."""
    arguments = [str(part) for claim in claims for part in claim]
    return call_of(AGREE, (keys.meta, keys.agreed), run, ms, *arguments)


def others_of(answer: Any) -> list[int]:
    """The shards that have another epoch for other nodes, which is none of the earlier ones."""
    return list(answer)
