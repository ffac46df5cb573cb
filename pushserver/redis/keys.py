"""The names of everything that a server has in Redis."""

from __future__ import annotations


class Keys:
    """The keys under a prefix, whose braces keep them in one slot of a Redis Cluster.

    `meta` is a hash with the numbering: `run` (the run id of the Redis server that it
    belongs to, with a `+` if that writes each answer to its file, and of several servers with a
    hash of the place before it),
    `epoch`, `seq`, `layout`, and `b<bucket>` for each bucket of `channels.forgotten.Forgotten`.
    `place` is a hash with the place of this server among several, as `shards`
    (`Placement.layout`). Its name has the prefix of the first one in each of them. `agreed` is a
    hash: the epoch of each shard, and the time (ms) until which a node has said so.
    `log` is the stream of all publications, `<seq>-0`, and of all clears, `<seq>-<number>`.
    `due` is a sorted set of all channels: the time (ms) at which `sweep` has to look at each.
    `nodes` is a hash: the last counter of each node, and its time. `memory` is a hash: what each
    source remembers. `ends` is a sorted set: the time (ms) at which each node is gone, unless it
    tells about itself again; `about` is a hash of what they told.

    The subscribers of all nodes: `terms` is a hash of the terms in which nodes tell about theirs,
    with the number of the last tell; `dead` are those that are over and not cleaned up. `counts` is
    a hash: the number of subscribers of each channel that has any. `observed` is a sorted set: the
    time (ms) until which the log has the joins and leaves of a channel.
    """

    def __init__(self, prefix: str = "{ps0}", first: str = ""):
        self._prefix = prefix.encode() + b":"
        self.meta = self._prefix + b"m"
        self.place = (first or prefix).encode() + b":m"
        self.agreed = self._prefix + b"e"
        self.log = self._prefix + b"log"
        self.due = self._prefix + b"x"
        self.nodes = self._prefix + b"w"
        self.memory = self._prefix + b"r"
        self.ends = self._prefix + b"n"
        self.about = self._prefix + b"ni"
        self.terms = self._prefix + b"pt"
        self.dead = self._prefix + b"pd"
        self.counts = self._prefix + b"pc"
        self.observed = self._prefix + b"po"

    def channel(self, name: str) -> bytes:
        """A hash: `top`, `floor`, `fq` (`floor_seq`), `g` (generation), `b` (bytes), `t`, `ttl`.

        `t` (ms) and `ttl` are those of the newest publication.
        """
        return self._prefix + b"c:" + name.encode()

    def rows(self, name: str) -> bytes:
        """The stream of the channel's retained publications, `<offset>-0`; none if it is empty."""
        return self._prefix + b"s:" + name.encode()

    def key(self, channel: str, key: str) -> bytes:
        """The receipt of an idempotency key, a text that expires."""
        # No key has a line break, and both may have colons.
        return self._prefix + b"k:" + f"{channel}\n{key}".encode()

    def lease(self, name: str) -> bytes:
        """The tenure of the node that has this lease, a text that expires."""
        return self._prefix + b"l:" + name.encode("utf-8", "surrogatepass")

    def name(self, name: str) -> bytes:
        """The node that has this name, a text that expires."""
        return self._prefix + b"nn:" + name.encode()

    def members(self, term: str, channel: str) -> bytes:
        """A hash of the subscribers that a node told of in a term, by client."""
        return self._prefix + b"p:" + f"{term}:{channel}".encode()

    def own_channels(self, term: str) -> bytes:
        """The set of the channels with `members` of a term."""
        return self._prefix + b"pn:" + term.encode()

    def users(self, channel: str) -> bytes:
        """A hash: the number of subscriptions of each user."""
        return self._prefix + b"pu:" + channel.encode()

    def publisher(self, name: str) -> bytes:
        """A sorted set of the idempotency keys of a publisher: the time (ms) of the end of each."""
        return self._prefix + b"kp:" + name.encode("utf-8", "surrogatepass")
