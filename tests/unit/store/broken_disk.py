"""A program that commits rows while each sync or write of a file fails, and ends like a killed one.

    python -m tests.unit.store.broken_disk FILE DURABILITY sync|write ROWS...

It commits a row of channel `a` before, and then a batch of as many rows as each ROWS says. Linux
itself lets the calls fail (seccomp): SQLite has no hook for them, and needs no compiler this way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys
from pushserver.channels.publication import Draft
from pushserver.store.batch import Batch, state
from pushserver.store.opening import StoreError
from pushserver.store.source_memory import SourceMemory
from pushserver.store.sqlite import SqliteFile

NOW = 1_795_000_000.0
_CALLS = {
    "x86_64": {"sync": (74, 75), "write": (18,)},
    "aarch64": {"sync": (82, 83), "write": (68,)},
    "riscv64": {"sync": (82, 83), "write": (68,)},
}
"""The numbers of fsync and fdatasync, and of pwrite64."""
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def fail(calls: str) -> None:
    """From now on these calls fail in this thread (seccomp(2), filters in BPF)."""
    numbers = _CALLS[platform.machine()][calls]
    steps = [(_LOAD, 0, 0, 0)]
    for n, number in enumerate(numbers):
        steps.append((_JUMP_IF_EQUAL, len(numbers) - n, 0, number))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERROR | errno.EIO)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def main(path: str, durability: str, calls: str, *sizes: str) -> None:
    history = History(lambda name: ChannelOptions())
    file = SqliteFile(path, durability)
    file.load(history, Keys(9), SourceMemory(), NOW, NOW)
    for size in (1, *map(int, sizes)):
        draft = Draft("a", b"%d" % size + b"0" * 2_000)
        rows = [history.number(draft, NOW, n, n) for n in range(size)]
        numbers = state(history.channel("a"))
        numbers = type(numbers)("a", rows[-1].offset, numbers.floor, numbers.floor_seq)
        try:
            file.commit(Batch(seq=rows[-1].seq, rows=rows, states=[numbers]))
        except StoreError as error:
            sys.stdout.write(f"{error}\n")
        else:
            for row in rows:
                history.append(row, NOW)
            fail(calls)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
