"""The events of a worker's log, as events of the log of the main process."""

from __future__ import annotations

from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure

from pushserver.cluster.messages import Logged


class WorkerError(Exception):
    """An exception in a worker, of which there is only the text."""


class WorkerFailure(Failure):
    """The failure of a worker: the last line of its traceback, and all of it as text."""

    def __init__(self, traceback: str):
        super().__init__(WorkerError(traceback.rstrip().rpartition("\n")[2]))
        self._text = traceback

    def getTraceback(self, *_: object, **__: object) -> str:
        """The traceback of the worker."""
        return self._text


def event_of(message: Logged) -> LogEvent:
    """The event, with the worker as a field and at the end of the first line of its text.

    The line begins as that of a server with one process, for programs that read the log.
    """
    lines = message.text.splitlines()
    first = lines[0] if lines else ""
    number = f"(worker {message.worker})"
    text = f"{first} {number}{message.text[len(first) :]}" if first else number
    event: LogEvent = {
        **message.fields,
        "worker": message.worker,
        "text": text,
        "log_format": "{text}",
        "log_level": LogLevel.lookupByName(message.level),
        "log_namespace": message.namespace,
        "log_source": None,
        "log_time": message.time,
    }
    if message.event:
        event["event_name"] = message.event
    if message.traceback:
        event["log_failure"] = WorkerFailure(message.traceback)
    return event
