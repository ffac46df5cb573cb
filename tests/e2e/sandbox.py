"""Runs a program within the bounds on system calls of a unit, as systemd does.

Usage: sandbox.py UNIT COMMAND...

It needs no privileges and no systemd as process 1, only libseccomp, which systemd's programs need
too. The bounds are those of SystemCallFilter=, RestrictAddressFamilies= and MemoryDenyWriteExecute=
(systemd.exec(5)). The program cannot leave them, and has no new privileges.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

ALLOW = 0x7FFF0000
NOT_EQUAL, MASKED_EQUAL = 1, 7
"""SCMP_CMP_NE, and SCMP_CMP_MASKED_EQ with the mask and the value (seccomp_rule_add(3))."""
WRITE, EXECUTE = 2, 4
"""PROT_WRITE and PROT_EXEC of mmap(2)."""


class Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`: an argument of a system call, and its comparison."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def refuse(number: int) -> int:
    """The action that fails a system call with this errno: SCMP_ACT_ERRNO."""
    return 0x00050000 | number


class Filter:
    """A filter of system calls; several together allow what each of them allows."""

    def __init__(self, default: int):
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(default))

    def add(self, action: int, call: str, *comparisons: Comparison) -> None:
        """Take this action for a system call; those of other processors have no number here."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        array = (Comparison * len(comparisons))(*comparisons)
        if number >= 0:
            self._check(
                self._library.seccomp_rule_add_array(
                    self._context, action, number, len(comparisons), array
                )
            )

    def load(self) -> None:
        """Apply it to this process and its later children."""
        self._check(self._library.seccomp_load(self._context))

    @staticmethod
    def _check(result: int) -> None:
        if result:
            raise OSError(-result, os.strerror(-result))


@cache
def calls_of(name: str) -> frozenset[str]:
    """The system calls of `@system-service`, ..., or the one of this name."""
    if not name.startswith("@"):
        return frozenset([name])
    command = ["systemd-analyze", "syscall-filter", name]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [line.strip() for line in lines[1:]]
    return frozenset().union(*(calls_of(each) for each in names if each and each[0] != "#"))


def allowed_calls(unit: str) -> frozenset[str]:
    """The system calls that SystemCallFilter= allows: lists to add, and with ~ to remove."""
    allowed = calls_of("@default")
    for line in re.findall(r"^SystemCallFilter=(.+)$", unit, re.MULTILINE):
        listed = frozenset().union(*(calls_of(each) for each in line.lstrip("~").split()))
        allowed = allowed - listed if line.startswith("~") else allowed | listed
    return allowed


def enter(unit: str) -> None:
    """Put this process into the bounds of a unit with this text."""
    bounds = Filter(ALLOW)
    [family] = re.findall(r"^RestrictAddressFamilies=(\w+)$", unit, re.MULTILINE)
    only = Comparison(0, NOT_EQUAL, int(getattr(socket, family)), 0)
    bounds.add(refuse(errno.EAFNOSUPPORT), "socket", only)
    if "\nMemoryDenyWriteExecute=yes\n" in unit:
        both = Comparison(2, MASKED_EQUAL, WRITE | EXECUTE, WRITE | EXECUTE)
        bounds.add(refuse(errno.EPERM), "mmap", both)
        bounds.add(refuse(errno.EPERM), "mprotect", Comparison(2, MASKED_EQUAL, EXECUTE, EXECUTE))
    calls = Filter(refuse(errno.EPERM))
    for call in allowed_calls(unit):
        calls.add(ALLOW, call)
    bounds.load()
    calls.load()


if __name__ == "__main__":
    enter(Path(sys.argv[1]).read_text("utf-8"))
    os.execvp(sys.argv[2], sys.argv[2:])
