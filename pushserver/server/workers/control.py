"""The messages between the main process and a worker about the worker itself.

They have a connection of their own, so that no publication is before them in a queue. A worker gets
its end of it at its start. If that connection ends, the main process is gone: the worker waits for
another one on the socket `Place.control`, and tells it at once what it has (`Here`), with its
listening sockets.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from pushserver.cluster.messages import Message
from pushserver.config.settings import Config

ALONE_SECONDS = 10.0
"""The time for which a worker keeps its connections without a main process."""
SILENT_SECONDS = 30.0
"""A main process that has sent no ping for this time does not work: it sends one a second."""


class Start(Struct, frozen=True):
    """What a worker reads from its standard input, as JSON.

    `sockets`: the text of each endpoint, and the descriptors of its listening sockets. `control` is
    the descriptor of the connection to the main process. `workers` is the number of all workers.
    `templates`: the folder of the templates of channels if `config` has none.
    """

    version: str
    config: Config
    folder: str
    worker: int
    workers: int
    control: int
    sockets: list[tuple[str, list[int]]]
    debug: bool
    shortcuts: bool
    templates: str


# --- of the main process ---------------------------------------


class Ping(Message, frozen=True, tag=0):
    """Answer with `Pong`."""


class Configure(Message, frozen=True, tag=1):
    """Use these settings: the JSON of a `Config`."""

    config: bytes


class Drain(Message, frozen=True, tag=2):
    """Accept no more connections."""


class Stop(Message, frozen=True, tag=3):
    """End within these seconds, with all connections."""

    seconds: float


# --- of a worker ---------------------------------------


class Pong(Message, frozen=True, tag=0):
    """The worker works."""


class Ready(Message, frozen=True, tag=1):
    """The worker accepts connections."""


class Here(Message, frozen=True, tag=2):
    """The worker of an earlier main process, with the version of its package.

    The descriptors of its listening sockets come with it.
    """

    version: str
    worker: int
    pid: int


FromMain = Ping | Configure | Drain | Stop
FromWorker = Pong | Ready | Here


def encode_config(config: Config) -> bytes:
    """The settings for `Configure`."""
    return msgspec.json.encode(config)


def decode_config(text: bytes) -> Config:
    """The settings of `Configure`."""
    return msgspec.json.decode(text, type=Config)


def decode_start(text: bytes) -> Start:
    """What a worker was told; raises ValueError if the main process has another version."""
    from pushserver import __version__

    fields: Any = msgspec.json.decode(text)
    if fields.get("version") != __version__:
        raise ValueError(
            f"the main process has version {fields.get('version')!r:.40} of pushserver, and its"
            f" workers would have {__version__}: restart the server"
        )
    return msgspec.json.decode(text, type=Start)
