"""Logs that a bound on all channels together was reached."""

from __future__ import annotations

from collections import Counter

from twisted.logger import Logger

from pushserver.channels.room import CHANNELS, HISTORIES
from pushserver.sessions.node import Node


class RoomLog:
    """One line for each setting that was reached since the last `write`, with its value."""

    _log = Logger()

    def __init__(self, node: Node):
        self._node = node
        self._written: Counter[tuple[str, str]] = Counter()

    def write(self) -> None:
        """Log what happened since the last call."""
        room = self._node.history.room
        for setting, most in ((HISTORIES, room.most_bytes), (CHANNELS, room.most_channels)):
            made = self._since("made_room", setting, self._node.metrics.made_room[setting])
            if made:
                self._log.warn(
                    "{n} histories were evicted for others: {setting} is {most}",
                    n=made,
                    setting=setting,
                    most=most,
                    event_name="histories_evicted",
                )
            refused = self._since("refusals", setting, self._node.metrics.refusals[setting])
            if refused:
                self._log.warn(
                    "{n} subscriptions or publications to new channels were refused: {setting} is"
                    " {most}, and no channel makes room",
                    n=refused,
                    setting=setting,
                    most=most,
                    event_name="channels_refused",
                )

    def _since(self, counter: str, setting: str, count: int) -> int:
        before = self._written[counter, setting]
        self._written[counter, setting] = count
        return count - before
