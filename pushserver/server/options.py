"""`twistd pushserver`: its options, and the service that they describe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast

from twisted.application.service import IService
from twisted.python import usage

from pushserver.config.loader import read
from pushserver.config.settings import Config, Types
from pushserver.errors import InvalidConfig, StartFailed
from pushserver.resources.root import pages_folder
from pushserver.server import signals
from pushserver.server.build import build, with_app
from pushserver.server.exit_status import ExitStatus
from pushserver.server.loading import load
from pushserver.server.logging import escape_output
from pushserver.server.reloading import Reloader, Retrier, history_file, inherit
from pushserver.server.service import PushService
from pushserver.sources.registry import SourceTypes
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.steady import steady


class Options(usage.Options):
    """The command line of `twistd pushserver`."""

    synopsis = "[--listen ENDPOINT]... [--config FILE.toml] [--app MODULE:NAME]"
    longdesc = (
        "Runs the push server; the log has the URL of its live page. ENDPOINT is any Twisted "
        "server endpoint, such as tcp:8080, ssl:..., unix:... or systemd:name=http. "
        "MODULE:NAME is a PushServer object in a module that is installed or in the current folder."
    )
    optParameters: ClassVar = [
        ["config", "c", "", "Configuration file (TOML)."],
        ["app", "a", "", "Application to run, such as ticker:app."],
    ]
    optFlags: ClassVar = [
        ["debug", None, "Also log connects and disconnects."],
        ["reload", None, "Restart when a Python file or the configuration changes (development)."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen; repeatable. [default: tcp:8080:interface=127.0.0.1]"""
        self["listen"].append(endpoint)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            # twistd would print its whole help before the message.
            raise StartFailed(f"{error}; see twistd pushserver --help") from None

    def parseArgs(self, *rest: str) -> None:
        if rest:
            raise usage.UsageError(f"unexpected argument {rest[0]!r}")


def makeService(options: Options) -> IService:
    """The service that `twistd pushserver` runs; raises StartFailed."""
    from twisted.internet import reactor as installed

    escape_output()
    reactor = cast(Reactor, installed)
    # Before the first timer, and before a failed start waits for files to change.
    monotonic = steady(reactor)
    # Before the application is imported, whose own handlers replace these.
    signals.install(reactor, monotonic)
    if not options["reload"]:
        status = ExitStatus(reactor)
        service = make(options, os.environ, reactor)
        status.watch(lambda: service.failed)
        return service
    signals.release()
    inherit()
    # Python compares the size and the second of a source with its bytecode, and would run the old
    # code of a file that is changed twice in a second.
    sys.dont_write_bytecode = True
    watched = (Path(options["config"]),) if options["config"] else ()
    reloader = Reloader(reactor, Path.cwd(), watched)
    try:
        service = make(options, os.environ, reactor)
    except StartFailed as error:
        return Retrier(reloader, error)
    reloader.setServiceParent(service)
    return service


def make(options: Options, environment: Mapping[str, str], reactor: Reactor) -> PushService:
    """The service of these options; raises StartFailed."""
    types = SourceTypes()
    app = load(options["app"]) if options["app"] else None
    config = configure(options, environment, types)
    if app is not None:
        config = with_app(config, app)
    config = with_pages(config, options["config"], file_of(options["app"]))
    if options["reload"] and not config.store.path:
        config = replace(config, store=replace(config.store, path=history_file()))
    on = shortcuts(environment)
    return build(config, reactor, options["debug"], types, app, shortcuts=on)


def shortcuts(environment: Mapping[str, str]) -> bool:
    """Whether PUSHSERVER_SHORTCUTS is `on`, which is the default; raises StartFailed."""
    value = environment.get("PUSHSERVER_SHORTCUTS", "on")
    if value not in ("on", "off"):
        raise StartFailed(f"PUSHSERVER_SHORTCUTS: {value!r:.60}, expected on or off")
    return value == "on"


def with_pages(config: Config, *private: str) -> Config:
    """The configuration with the absolute folder of the user's pages, if there is one.

    Raises StartFailed, also if one of the `private` files, the store or a secret is in it.
    """
    if not config.server.pages:
        return config
    secrets = [source.options.get("secret_file", "") for source in config.sources.values()]
    folder = pages_folder(config.server.pages, (config.store.path, *secrets, *private))
    return replace(config, server=replace(config.server, pages=folder))


def file_of(app: str) -> str:
    """The file of an application's module, or of `__main__`; empty if there is none."""
    module = sys.modules.get(app.partition(":")[0])
    return getattr(module, "__file__", None) or ""


def configure(
    options: Options, environment: Mapping[str, str], types: Types | None = None
) -> Config:
    """The configuration: the file, then the environment, then the options; the last one counts."""
    try:
        config = read(options["config"], environment, SourceTypes() if types is None else types)
    except InvalidConfig as error:
        raise StartFailed(str(error)) from None
    if options["listen"]:
        config = replace(config, server=replace(config.server, listen=options["listen"]))
    return config
