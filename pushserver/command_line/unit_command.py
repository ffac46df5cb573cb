"""The commands `pushserver install-unit` and `uninstall-unit`: units of systemd."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from pushserver.command_line.console import complain
from pushserver.errors import CommandFailed

SYSTEM = "/etc/systemd/system"
ETC = "/etc"
CONFIG = "pushserver/pushserver.toml"
HOMES = ("/home", "/root", "/run/user")
"""Folders that ProtectHome= hides."""
HIDDEN = ("/tmp", "/var/tmp")
"""Folders that PrivateTmp= hides."""
_PORT = re.compile(r"(?:tcp6?|ssl):(?:(?:.*:)?port=)?([0-9]+)(?::|\Z)")


def add_unit_commands(commands: Any) -> None:
    """Add `install-unit` and `uninstall-unit` to the commands of a parser."""
    command = commands.add_parser(
        "install-unit", help="write the units of systemd for this installation"
    )
    command.add_argument(
        "--app",
        default="",
        metavar="MODULE:NAME | FILE.py",
        help="the application, which runs in the current folder",
    )
    command.add_argument(
        "--config",
        default="",
        metavar="FILE",
        help=f"the configuration [default: /etc/{CONFIG}, or with --user ~/.config/{CONFIG}, if"
        " there is one]",
    )
    command.add_argument(
        "--socket",
        action="store_true",
        help="let systemd hold the port, which then stays open during a restart",
    )
    command.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a port or HOST:PORT, repeatable [default: that of the configuration, or 8080; with"
        " --socket 8080]",
    )
    command.add_argument(
        "--workers",
        metavar="N | auto",
        help="the processes for the connections [default: that of the configuration, or 1]",
    )
    _add_common(command, "replace units that somebody has changed")
    command.set_defaults(run=install)

    command = commands.add_parser("uninstall-unit", help="remove the units of install-unit")
    _add_common(command, "remove units that somebody has changed")
    command.set_defaults(run=uninstall)


def _add_common(command: Any, force: str) -> None:
    command.add_argument(
        "--user", action="store_true", help="for your own `systemctl --user`, without root"
    )
    command.add_argument(
        "--folder",
        default="",
        metavar="PATH",
        help=f"that of the units [default: {SYSTEM}, or with --user ~/.config/systemd/user]",
    )
    command.add_argument("--force", action="store_true", help=force)


def install(options: Any, out: TextIO) -> None:
    """Write the units; raises CommandFailed, and StartFailed for an application without a file."""
    # Imported here, as in cli.
    from pushserver.resources.pages import asset_folder
    from pushserver.server import units

    try:
        made = _installation(options)
        templates = asset_folder("systemd")
        workers = _read(templates / units.WORKERS) if _has_workers(made) else ""
        texts = {units.SERVICE: units.service(_read(templates / units.SERVICE), made, workers)}
        if made.socket:
            texts[units.SOCKET] = units.socket_unit(_read(templates / units.SOCKET), made)
    except ValueError as error:
        raise CommandFailed(str(error)) from None
    folder = _folder(options)
    other = folder / units.SOCKET
    if not made.socket and other.exists():
        raise CommandFailed(f"{other} would hold the port: use --socket, or first uninstall-unit")
    new = {}
    for name, text in texts.items():
        old = _old(folder / name)
        if old is not None and old != text and not (options.force or units.is_unchanged(old)):
            raise CommandFailed(f"{folder / name} was changed: --force replaces it")
        new[folder / name] = text
    for path, text in new.items():
        _write(path, text)
        print(path, file=out)
    units.write_plugin_cache()
    if made.account:
        complain(f"the service runs as {made.account}, because others cannot read its files")
    if made.socket and not made.listen and _names_addresses(made.config):
        complain(
            f"systemd opens 127.0.0.1:8080, and not server.listen of {made.config}: --listen"
            " ADDRESS sets another address"
        )
    if made.credential:
        complain(f"systemd passes {made.config}, which the service cannot read by itself")
    _print_next(options, list(texts), out)


def uninstall(options: Any, out: TextIO) -> None:
    """Remove the units; raises CommandFailed."""
    from pushserver.server import units

    folder = _folder(options)
    paths = [folder / name for name in (units.SOCKET, units.SERVICE)]
    old = {path: text for path in paths if (text := _old(path)) is not None}
    if not old:
        raise CommandFailed(f"{folder} has no unit of pushserver")
    for path, text in old.items():
        if not (options.force or units.is_unchanged(text)):
            raise CommandFailed(f"{path} was changed: --force removes it")
    try:
        for path in old:
            # The links of `systemctl enable`.
            for link in [*folder.glob(f"*.wants/{path.name}"), path]:
                link.unlink(missing_ok=True)
                print(f"removed {link}", file=out)
    except OSError as error:
        raise _failed(error) from None
    control = _control(options)
    names = " ".join(path.name for path in old)
    _print_commands([f"{control} stop {names}", f"{control} daemon-reload"], out)
    print("The configuration and the store are still there.", file=out)


def _installation(options: Any) -> Any:
    """The values of the units; raises CommandFailed, StartFailed and ValueError."""
    from pushserver.server.address import endpoint_text
    from pushserver.server.loading import parse
    from pushserver.server.ports import check_endpoints
    from pushserver.server.units import Installation
    from pushserver.server.workers.number import parse_workers

    twistd = os.path.join(os.path.dirname(sys.executable), "twistd")
    if not os.access(twistd, os.X_OK):
        raise CommandFailed(f"there is no {twistd}: expected pushserver installed by pip")
    app, folder = options.app, ""
    if app:
        folder, reference = os.getcwd(), parse(app)
        if reference.file is not None:
            name = f":{reference.name}" if reference.name else ""
            app = f"{os.path.abspath(reference.file)}{name}"
    for text in () if options.socket else options.listen:
        port = _PORT.match(endpoint_text(text))
        if port is not None and 0 < int(port[1]) < 1024:
            raise CommandFailed(
                f"--listen {text}: ports below 1024 need --socket, which opens them"
            )
    check_endpoints([] if options.socket else options.listen, option="--listen")
    workers = "" if options.workers is None else str(parse_workers(options.workers))
    config = _config(options)
    needed = [sys.prefix, *([folder] if folder else [])]
    made = {"twistd": twistd, "app": app, "folder": folder, "config": config}
    made |= {"socket": options.socket, "listen": options.listen, "by_user": options.user}
    made |= {"workers": workers}
    if options.user:
        return Installation(**made)
    for path in needed:
        if _is_below(path, HIDDEN):
            raise CommandFailed(
                f"{path}: a service does not see {' and '.join(HIDDEN)}: install"
                " it into a folder such as /opt/pushserver"
            )
    account = _account(needed)
    return Installation(
        **made,
        account=account,
        in_home=any(_is_below(path, HOMES) for path in [*needed, config]),
        credential=bool(config) and not _others_can_read(config),
    )


def _config(options: Any) -> str:
    """The absolute path of the configuration, or nothing; raises CommandFailed."""
    if options.config:
        if not os.path.isfile(options.config):
            raise CommandFailed(f"--config {options.config}: there is no such file")
        return os.path.abspath(str(options.config))
    usual = os.path.join(_user_folder() if options.user else ETC, CONFIG)
    return usual if os.path.isfile(usual) else ""


def _server_settings(config: str) -> dict[str, Any]:
    """The table `[server]` of a configuration; its errors are for check-config."""
    try:
        server = tomllib.loads(_read(Path(config))).get("server") if config else None
    except (OSError, ValueError):
        return {}
    return server if isinstance(server, dict) else {}


def _names_addresses(config: str) -> bool:
    """Whether a configuration has server.listen."""
    return "listen" in _server_settings(config)


def _has_workers(made: Any) -> bool:
    """Whether the server has several processes, by the option or by the configuration."""
    return (made.workers or _server_settings(made.config).get("workers", 1)) not in ("1", 1)


def _account(needed: Iterable[str]) -> str:
    """The user that can read these folders, if not every user can; raises CommandFailed."""
    for path in needed:
        if not _others_can_read(path):
            owner = os.stat(path).st_uid
            if owner == 0:
                raise CommandFailed(
                    f"{path}: only root can read it, and the service does not run as root:"
                    " install it into a folder such as /opt/pushserver"
                )
            try:
                return pwd.getpwuid(owner).pw_name
            except KeyError:
                raise CommandFailed(f"{path}: its owner {owner} is no user here") from None
    return ""


def _others_can_read(path: str) -> bool:
    """Whether every user can read a file, or enter a folder."""
    real = os.path.realpath(path)
    bit = stat.S_IXOTH if os.path.isdir(real) else stat.S_IROTH
    parents = Path(real).parents
    return bool(os.stat(real).st_mode & bit) and all(
        os.stat(parent).st_mode & stat.S_IXOTH for parent in parents
    )


def _is_below(path: str, folders: Iterable[str]) -> bool:
    real = Path(os.path.realpath(path))
    return bool(path) and any(real.is_relative_to(folder) for folder in folders)


def _user_folder() -> str:
    return os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")


def _folder(options: Any) -> Path:
    usual = os.path.join(_user_folder(), "systemd/user") if options.user else SYSTEM
    return Path(options.folder or usual)


def _read(path: Path) -> str:
    return path.read_text("utf-8")


def _old(path: Path) -> str | None:
    """The text of the unit that is there, if any; raises CommandFailed."""
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(error) from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        path.chmod(0o644)
    except OSError as error:
        raise _failed(error) from None


def _failed(error: OSError) -> CommandFailed:
    more = ": run it as root, or with --user" if isinstance(error, PermissionError) else ""
    return CommandFailed(f"{error.filename}: {error.strerror}{more}")


def _control(options: Any) -> str:
    return "systemctl --user" if options.user else "systemctl"


def _print_next(options: Any, names: list[str], out: TextIO) -> None:
    control = _control(options)
    listing = " ".join(sorted(names, reverse=True))
    commands = [
        f"{control} daemon-reload",
        f"{control} enable {listing}",
        f"{control} restart {listing}",
        f"{control} status {' '.join(names)}",
    ]
    if options.user:
        name = shlex.quote(pwd.getpwuid(os.getuid()).pw_name)
        commands.append(f"loginctl enable-linger {name}")
    _print_commands(commands, out)


def _print_commands(commands: list[str], out: TextIO) -> None:
    print("\nNow run:", file=out)
    for command in commands:
        print(f"  {command}", file=out)
