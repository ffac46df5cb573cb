"""The environment of a process that a source starts: the server's, without its secrets.

The server's variables may contain keys (PUSHSERVER_AUTH_API_KEYS, those of the application), and
sockets of systemd that are for the server alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

INHERITED = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "PATH",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONUSERBASE",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    }
)
"""The variables that each process gets, and those that begin with LC_."""

_NEVER = ("CREDENTIALS_DIRECTORY", "LISTEN_", "NOTIFY_SOCKET", "PUSHSERVER_", "WATCHDOG_")


def for_server_only(name: str) -> bool:
    """Whether no other process may have this variable."""
    return name.startswith(_NEVER)


def child_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Return the variables of INHERITED and those that `more` names."""
    return {
        name: value
        for name, value in environment.items()
        if name in INHERITED or name.startswith("LC_") or name in more
    }
