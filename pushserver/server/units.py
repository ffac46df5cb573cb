"""Units of systemd for an installation: those of the package, with its paths and user."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from twisted.plugin import IPlugin, getPlugins

from pushserver import __version__
from pushserver.server.address import LOOPBACK, is_address

SERVICE, SOCKET = "pushserver.service", "pushserver.socket"
WORKERS = "workers.conf"
"""The settings of a service with workers, which replace those of the unit."""
_PLAIN = re.compile(r"[\w@+=:,./-]+")
_DIGEST = "# sha256 "
_OF_USERS = frozenset(
    [
        *("Description", "StartLimitIntervalSec", "StartLimitBurst", "Type", "NotifyAccess"),
        *("ExecStart", "ExecReload", "WatchdogSec", "Restart", "RestartSec", "TimeoutStartSec"),
        *("TimeoutStopSec", "KillMode", "MemoryHigh", "MemoryMax", "TasksMax", "OOMPolicy"),
        *("UMask", "NoNewPrivileges", "StateDirectory", "StateDirectoryMode", "WantedBy"),
        *("ConfigurationDirectory", "RestrictAddressFamilies", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute"),
        *("RuntimeDirectory", "RuntimeDirectoryPreserve"),
        *("SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber"),
    ]
)
"""The settings that a manager of a user can apply; it refuses the start with some others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The values of a unit; all paths are absolute.

    `folder`: the current folder of an application. `credential`: only root can read `config`, so
    systemd passes it. `account`: the user of the service, by default one that exists only while it
    runs. `in_home`: a path is below a home directory. `by_user`: for `systemctl --user`. `listen`:
    as `--listen` of the server, or the values of ListenStream= with `socket`. `workers`: as
    `--workers` of the server.
    """

    twistd: str
    app: str = ""
    folder: str = ""
    config: str = ""
    credential: bool = False
    account: str = ""
    in_home: bool = False
    by_user: bool = False
    socket: bool = False
    listen: Sequence[str] = ()
    workers: str = ""


def service(template: str, made: Installation, more: str = "") -> str:
    """The text of the service unit; raises ValueError for a path that no unit can have.

    `more`: settings that replace those of the template, such as those of WORKERS.
    """
    lines = (line.partition("=") for line in more.splitlines() if not line.startswith("#"))
    changes: dict[str, Sequence[str]] = {key: [value] for key, mark, value in lines if mark}
    changes["ExecStart"] = [_command(made)]
    if made.folder:
        changes["WorkingDirectory"] = [_path(made.folder)]
    if made.config and made.credential:
        changes["LoadCredential"] = [f"config:{_path(made.config)}"]
    if made.account:
        changes["DynamicUser"] = []
        changes["User"] = [made.account]
    if made.in_home:
        changes["ProtectHome"] = ["read-only"]
    if not made.socket:
        changes["Wants"] = changes["PrivateNetwork"] = changes["IPAddressDeny"] = []
        changes["RestrictAddressFamilies"] = ["AF_UNIX AF_INET AF_INET6"]
        changes["After"] = ["network.target"]
    if made.by_user:
        changes["After"] = [SOCKET] if made.socket else []
        changes["WantedBy"] = ["default.target"]
    kept = _OF_USERS | {"WorkingDirectory", "Wants", "After"} if made.by_user else None
    return _signed(_changed(template, changes, kept), SERVICE, made.by_user)


def socket_unit(template: str, made: Installation) -> str:
    """The text of the socket unit; raises ValueError for an address that it cannot have."""
    listen = [_stream(text) for text in made.listen]
    changes = {"ListenStream": listen} if listen else {}
    return _signed(_changed(template, changes, None), SOCKET, made.by_user)


def is_unchanged(text: str) -> bool:
    """Whether a unit is as it was written here."""
    _, _, rest = text.partition("\n")
    digest, _, body = rest.partition("\n")
    return digest == _DIGEST + _hash(body)


def write_plugin_cache() -> None:
    """Let Twisted write its cache of plugins, which the service may not write."""
    with suppress(Exception):
        list(getPlugins(IPlugin))


def quoted(word: str) -> str:
    """A word of a command line (systemd.service(5)); raises ValueError for control characters."""
    escaped = _path(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return escaped if _PLAIN.fullmatch(escaped) else f'"{escaped}"'


def _command(made: Installation) -> str:
    # Variables are not expanded in the path of the program.
    words = [quoted(made.twistd).replace("$$", "$"), "--nodaemon", "--pidfile=", "pushserver"]
    if made.app:
        words += ["--app", quoted(made.app)]
    if made.config:
        words += ["--config", "%d/config" if made.credential else quoted(made.config)]
    for text in ["systemd:name=http"] if made.socket else made.listen:
        words += ["--listen", quoted(text)]
    if made.workers:
        words += ["--workers", made.workers]
    return " ".join(words)


def _path(path: str) -> str:
    """A path as a value: systemd replaces % and a letter, and strips spaces at the ends."""
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise ValueError(f"{path!r}: a unit cannot have control characters")
    if path != path.strip() or path.endswith("\\"):
        raise ValueError(f"{path!r}: a unit cannot have a path with this end")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path!r}: a unit is UTF-8, and the path is not") from None
    return path.replace("%", "%%")


def _stream(text: str) -> str:
    """The value of ListenStream=: a port alone is on loopback, as in `--listen`."""
    if text.isascii() and text.isdigit():
        text = f"{LOOPBACK}:{text}"
    host, _, port = text.rpartition(":")
    if text.startswith("/"):
        return _path(text)
    host = LOOPBACK if host == "localhost" else host
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65_535
    # systemd looks up no names.
    if is_port and is_address(host.strip("[]")):
        return _path(f"{host}:{port}")
    raise ValueError(f"{text!r:.80}, expected a port, ADDRESS:PORT or the path of a Unix socket")


def _changed(
    template: str, changes: Mapping[str, Sequence[str]], kept: frozenset[str] | None
) -> str:
    """The template with other values, without comments, and only with the `kept` settings."""
    new = dict(changes)
    lines: list[str] = []
    for line in template.splitlines():
        key, equals, _ = line.partition("=")
        if line.startswith("#") or (equals and kept is not None and key not in kept):
            continue
        if not equals or key not in changes:
            lines.append(line)
        else:
            lines += [f"{key}={value}" for value in new.pop(key, ())]
    # Settings that the template does not have.
    at = lines.index("[Service]") + 1 if "[Service]" in lines else len(lines)
    lines[at:at] = [f"{key}={value}" for key, values in new.items() for value in values]
    text = "\n".join(lines).strip() + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def _signed(body: str, name: str, by_user: bool) -> str:
    """The text with a head by which `is_unchanged` knows it."""
    edit = f"systemctl {'--user ' if by_user else ''}edit {name}"
    head = f"# Written by pushserver {__version__} (install-unit). To change it: {edit}"
    return f"{head}\n{_DIGEST}{_hash(body)}\n{body}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
