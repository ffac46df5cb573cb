"""The author's end of the links to its followers: it sends them the channels that they follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from twisted.logger import Logger, globalLogPublisher

from pushserver import __version__
from pushserver.channels.publication import Publication
from pushserver.cluster.asks import Asked, Asks
from pushserver.cluster.calls import Calls, Run, Send
from pushserver.cluster.image_parts import split
from pushserver.cluster.log_events import event_of
from pushserver.cluster.measures import Measure, Measures, ProcessLink
from pushserver.cluster.messages import (
    Acknowledged,
    Answered,
    Attach,
    Clear,
    Cleared,
    Counted,
    Done,
    Ended,
    Entered,
    Failed,
    Follow,
    Forgotten,
    FromFollower,
    Gone,
    Handled,
    Hello,
    Images,
    Installed,
    Joined,
    Leave,
    Logged,
    Measured,
    Message,
    Observes,
    Outdated,
    Parted,
    Present,
    Publish,
    Published,
    Row,
    error_of,
    failed,
    frame,
)
from pushserver.cluster.remote import RemotePeers
from pushserver.cluster.shared_bounds import SharedBounds
from pushserver.errors import LimitExceeded, PushServerError, Unavailable
from pushserver.hub.follower import Point, image_of
from pushserver.sessions.node import Node
from pushserver.usercode.pause import pause

LOAD_SECONDS, AGAIN_SECONDS = 15.0, 0.1
"""A main process that was started again waits for so long for a log that is elsewhere."""


class Author:
    """Passes each publication of a node to the links that follow its channel, encoded once.

    `events` are those that the application handles, by namespace. `measures` gets the numbers of
    the followers.
    """

    def __init__(
        self,
        node: Node,
        events: Iterable[tuple[str, str]] = (),
        measures: Measures | None = None,
    ):
        self.node = node
        self.measures = measures or Measures(Measure)
        self.events = frozenset(events)
        self.bounds = SharedBounds(node)
        self._links: dict[str, dict[FollowerLink, None]] = {}
        node.tap(self._published, self.has_room)
        node.history.on_clear = self._cleared
        node.history.room.on_forget = self._forgotten

    def follow(self, link: FollowerLink, channel: str) -> None:
        """Send the publications of a channel to this link; `room.make` comes before."""
        links = self._links.get(channel)
        if links is None:
            self.node.history.hold(channel)
            links = self._links[channel] = {}
        links[link] = None

    def leave(self, link: FollowerLink, channel: str) -> None:
        """Send them no longer; the link follows the channel."""
        links = self._links[channel]
        del links[link]
        if not links:
            del self._links[channel]
            self.node.history.unhold(channel, self.node.hub.is_watched(channel))

    def has_room(self, channel: str) -> bool:
        """Whether all links that follow the channel can take another publication."""
        return all(link.has_room() for link in self._links.get(channel, ()))

    def _published(self, publication: Publication, skip: Sequence[str]) -> None:
        self._send(publication.channel, lambda: Row(publication, tuple(skip)))

    def _cleared(self, channel: str) -> None:
        self._send(channel, lambda: Cleared(channel))

    def _forgotten(self, channel: str) -> None:
        """Let the followers forget a channel that nobody watched, and that made room for others."""
        self._drop(channel, watched=False)

    def replaced(self, channel: str) -> None:
        """Let followers forget a channel that does not continue here; their readers are told."""
        self._drop(channel, self.node.hub.is_watched(channel))

    def _drop(self, channel: str, watched: bool) -> None:
        links = self._links.pop(channel, None)
        if links:
            self.node.history.unhold(channel, watched)
            text = frame(Forgotten(channel))
            for link in links:
                link.forget(channel, text)

    def _send(self, channel: str, make: Callable[[], Message]) -> None:
        links = self._links.get(channel)
        if links:
            text = frame(make())
            for link in tuple(links):
                link.send(text)


class FollowerLink:
    """The author's end of the link to one follower.

    `send` and `answer` take frames and raise nothing; `answer` gets those that the follower asked
    for, which may be long.
    `run` runs a coroutine that nothing awaits. `has_room` tells whether the link can take another
    publication. `ignore` drops whatever the follower sends from now on, undecoded.
    """

    _log = Logger()

    def __init__(
        self,
        author: Author,
        send: Send,
        answer: Send,
        run: Run,
        has_room: Callable[[], bool] = lambda: True,
        ignore: Callable[[], None] = lambda: None,
    ):
        self.send = send
        self.has_room = has_room
        self._answer = answer
        self._author = author
        self._node = author.node
        self._run = run
        self._ignore = ignore
        self._calls = Calls()
        self._calls.connected(send)
        self._peers = RemotePeers(author.node, self._calls)
        self._asks = Asks(author.node, self._peers, answer)
        self._bounds = author.bounds.link()
        self._channels: set[str] = set()
        # By call: the channels that readers of the follower may be about to join.
        self._expected: dict[int, list[str]] = {}
        self._process: ProcessLink | None = None
        self._is_lost = False
        # The messages about channels that wait until the follower is attached; None otherwise.
        self._behind: list[Follow | Leave] | None = None

    def received(self, message: FromFollower) -> None:
        """Carry out a message of the follower."""
        if isinstance(message, Publish):
            self._run(self._publish(message))
        elif isinstance(message, Follow | Leave):
            self._change_channels(message)
        elif isinstance(message, Installed):
            self._expect_no_more(message.call)
        elif isinstance(message, Counted):
            self._bounds.received(message)
        elif isinstance(message, Joined):
            self._peers.joined(message)
        elif isinstance(message, Parted):
            self._peers.parted(message)
        elif isinstance(message, Entered):
            peer = self._peers.entered(message)
            if peer.connected and not peer.asked:
                self._run(self._asks.adopt(peer))
        elif isinstance(message, Gone):
            self._peers.gone(message)
        elif isinstance(message, Observes):
            self._peers.observes(message)
        elif isinstance(message, Ended):
            self._peers.ended(message)
        elif isinstance(message, Asked):
            self._run(self._asks.answer(message))
        elif isinstance(message, Acknowledged):
            self._calls.answer(message.call, message.arguments)
        elif isinstance(message, Present):
            self._run(self._present(message))
        elif isinstance(message, Logged):
            globalLogPublisher(event_of(message))
        elif isinstance(message, Clear):
            self._run(self._clear(message))
        elif isinstance(message, Done):
            self._calls.answer(message.call, None)
        elif isinstance(message, Failed):
            self._calls.fail(message.call, error_of(message))
        elif isinstance(message, Measured):
            if self._process is not None:
                self._process.told(message.measure)
        elif isinstance(message, Hello):
            self._greet(message.version)
        elif isinstance(message, Attach):
            self._process = self._author.measures.link(
                message.process, message.worker, message.again, self._peers.users
            )
            self._run(self._attach(message.points))

    def _change_channels(self, message: Follow | Leave) -> None:
        if self._behind is not None:
            self._behind.append(message)
        elif isinstance(message, Follow):
            self._run(self._follow(message.call, message.points, message.names))
        else:
            for channel in message.channels:
                self._leave(channel)

    def lost(self) -> None:
        """The link is gone."""
        self._is_lost = True
        self._behind = None
        self._calls.lost()
        self._peers.lost()
        self._bounds.remove()
        if self._process is not None:
            self._process.lost()
        for channel in tuple(self._channels):
            self._leave(channel)
        for call in tuple(self._expected):
            self._expect_no_more(call)

    def forget(self, channel: str, text: bytes) -> None:
        """Follow this channel no longer; `text` is the frame that says so."""
        self._channels.discard(channel)
        self.send(text)

    def _leave(self, channel: str) -> None:
        if channel in self._channels:
            self._channels.discard(channel)
            self._author.leave(self, channel)

    def _greet(self, version: str) -> None:
        """Begin with a follower of the same version; another one is told, and ignored."""
        if version == __version__:
            # Before the rest, after which the follower may admit clients.
            self._bounds.connected(self.send)
            self.send(frame(Handled(sorted(self._author.events))))
            return
        self._log.warn(
            "a worker of version {version} is ignored by the main process of version {own}",
            version=version,
            own=__version__,
            event_name="worker_outdated",
        )
        self.send(frame(Outdated(__version__)))
        self._ignore()

    async def _attach(self, points: Sequence[Point]) -> None:
        """Follow the channels that the follower has, as far as it can continue with them.

        What it says meanwhile about channels waits: the follower takes these images for all that
        this process has for it.
        """
        self._behind = []
        await self._load([point.channel for point in points])
        if self._is_lost:
            return
        history = self._node.history
        kept, empty = [], []
        for point in points:
            if point.channel in history.channels:
                kept.append(point.channel)
            elif not point.offset and point.epoch == history.peek(point.channel).epoch:
                empty.append(point.channel)
        # Those that need room come last, so that they do not take it from the others.
        for channel in (*kept, *empty):
            with suppress(LimitExceeded):
                self._add([channel])
        self._send_images(0, [point for point in points if point.channel in self._channels])
        behind, self._behind = self._behind or [], None
        for message in behind:
            self._change_channels(message)

    async def _load(self, channels: Sequence[str]) -> None:
        """Have these channels here, if that is possible soon: they may be in another log."""
        until = self._node.monotonic() + LOAD_SECONDS
        while channels and not self._is_lost:
            try:
                await self._node.load(channels)
            except LimitExceeded:
                return
            except Unavailable:
                if self._node.monotonic() >= until:
                    return
                await pause(self._node.timer.callLater, AGAIN_SECONDS)
            else:
                return

    async def _follow(self, call: int, points: Sequence[Point], names: Sequence[str]) -> None:
        channels = [point.channel for point in points]
        try:
            # The follower may know more than this process, if the log is elsewhere.
            await self._node.load([*channels, *names], fresh=True)
            if self._is_lost:
                return
            self._add(channels)
        except Unavailable as error:
            self._answer(frame(failed(call, error)))
        else:
            self._send_images(call, points)
            self._node.history.room.shrink()

    def _add(self, channels: Sequence[str]) -> None:
        self._node.history.room.make(channels)
        for channel in channels:
            self._author.follow(self, channel)
            self._channels.add(channel)

    def _send_images(self, call: int, points: Sequence[Point]) -> None:
        history, now = self._node.history, self._node.monotonic()
        self._expected[call] = [point.channel for point in points]
        for channel in self._expected[call]:
            history.expect(channel)
        *parts, last = split(image_of(history, point, now) for point in points)
        for part in parts:
            self._answer(frame(Images(call, history.ends(), part, more=True)))
        self._answer(frame(Images(call, history.ends(), last)))

    def _expect_no_more(self, call: int) -> None:
        for channel in self._expected.pop(call, ()):
            self._node.history.expect_no_more(channel)

    async def _publish(self, message: Publish) -> None:
        try:
            receipt = await self._node.append(message.draft)
        except PushServerError as error:
            self._answer(frame(failed(message.call, error)))
        except Exception:
            self._fail(message.call, "a publication")
        else:
            self._answer(frame(Published(message.call, receipt)))

    async def _present(self, message: Present) -> None:
        presence, channel = self._node.presence, message.channel
        found: object
        try:
            if message.numbers:
                found = await presence.stats(channel)
            else:
                found = await presence.clients(channel)
        except PushServerError as error:
            self._answer(frame(failed(message.call, error)))
        else:
            self._answer(frame(Answered(message.call, found)))

    async def _clear(self, message: Clear) -> None:
        try:
            await self._node.clear(message.channel)
        except PushServerError as error:
            self._answer(frame(failed(message.call, error)))
        except Exception:
            self._fail(message.call, "a removal")
        else:
            self._answer(frame(Done(message.call)))

    def _fail(self, call: int, what: str) -> None:
        self._log.failure(
            "{what} of a worker failed", what=what, event_name="call_of_worker_failed"
        )
        error = Unavailable("an error in the server, which the log has", "worker")
        self._answer(frame(failed(call, error)))
