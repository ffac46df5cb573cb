"""`twistd pushserver`: its options, and the service that they describe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage

from pushserver.app.app import App
from pushserver.config.loader import read, warnings
from pushserver.config.redis_url import parse_url
from pushserver.config.settings import Config, Types
from pushserver.errors import InvalidConfig, StartFailed
from pushserver.resources.root import existing_folder, public_folder
from pushserver.server import signals
from pushserver.server.address import LOOPBACK, PORT, host_and_port
from pushserver.server.build import build, with_app, without_default_source
from pushserver.server.config_file import read_again
from pushserver.server.exit_status import ExitStatus
from pushserver.server.live import templates_folder
from pushserver.server.loading import file_of, load, load_wsgi
from pushserver.server.log_output import daemon_observer
from pushserver.server.logging import escape_output
from pushserver.server.reloading import Reloader, Retrier, Watched, history_file, inherit
from pushserver.server.service import PushService
from pushserver.server.watchdog import Watchdog
from pushserver.server.workers.crew import Crew
from pushserver.server.workers.folder import SocketFolder
from pushserver.server.workers.number import check_files, count, parse_workers
from pushserver.sources.registry import SourceTypes
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.steady import steady

_log = Logger()


class Options(usage.Options):
    """The options of a server: the command line of `twistd pushserver`.

    `pushserver serve` and `app.run` set the same keys.
    """

    synopsis = "[options] [MODULE:NAME | FILE.py]"
    longdesc = (
        "Runs the push server; the log has the URL of its live page. MODULE:NAME is a PushServer "
        "object in a module that is installed or in the current folder; FILE.py is a file with one "
        "such object. ENDPOINT is a port, HOST:PORT, or a server endpoint of Twisted, such as "
        "ssl:..., unix:... or systemd:name=http."
    )
    optParameters: ClassVar = [
        ["config", "c", None, "Configuration file (TOML)."],
        ["app", "a", None, "Application to run, such as ticker:app or ticker.py."],
        ["wsgi", None, None, "WSGI application to serve, such as web:app (of Flask or Django)."],
        ["templates", None, None, "Folder of templates, also in place of the server's own."],
        ["static", None, None, "Folder of files in place of the server's own at /static."],
        ["host", None, None, f"Address to listen on. [default: {LOOPBACK}]"],
        ["port", "p", None, f"Port to listen on. [default: {PORT}]"],
        ["workers", None, None, "Processes for the connections, or auto. [default: 1]"],
    ]
    optFlags: ClassVar = [
        ["debug", None, "Also log connects and disconnects."],
        ["reload", None, "Restart when a Python file or the configuration changes (development)."],
    ]

    def __init__(self) -> None:
        super().__init__()
        # In optParameters, the help would have "[default: ]" for each.
        self.update(
            config="", app="", wsgi="", templates="", static="", host="", listen=[], broker=None
        )

    def opt_listen(self, endpoint: str) -> None:
        """ENDPOINT to listen on, in place of --host and --port; repeatable."""
        self["listen"].append(endpoint)

    def opt_broker(self, url: str) -> None:
        """Redis of several servers, such as redis://10.0.0.7; repeatable. [default: none]"""
        self["broker"] = [*(self["broker"] or ()), url]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            # twistd would print its whole help before the message.
            raise StartFailed(f"{error}; see twistd pushserver --help") from None

    def parseArgs(self, *rest: str) -> None:
        for text in rest:
            if self["app"]:
                raise usage.UsageError(f"unexpected argument {text!r} after {self['app']!r}")
            self["app"] = text


def makeService(options: Options) -> IService:
    """The service that `twistd pushserver` runs; raises StartFailed."""
    from twisted.internet import reactor as installed

    reactor = cast(Reactor, installed)
    # Before the application is imported, whose own handlers of signals replace these.
    handlers = prepare(options, reactor)
    watched = watch(options)
    status = None if watched is not None else ExitStatus(reactor)
    try:
        service = make_service(options, reactor, load_app(options), watched, handlers)
    except StartFailed as error:
        return retry(error, reactor, watched)
    if status is not None:
        status.watch(lambda: service.failed)
    return service


def prepare(options: Options, reactor: Reactor) -> signals.SignalHandlers | None:
    """Prepare the process: its output, the clock of the reactor, and its signals."""
    escape_output()
    # Before the first timer, and before a failed start waits for files to change.
    handlers = signals.install(reactor, steady(reactor))
    if options["reload"]:
        signals.release()
    return handlers


def watch(options: Options) -> Watched | None:
    """With `--reload`, the files to watch; call it before the application is imported."""
    if not options["reload"]:
        return None
    again = inherit()
    # Python compares the size and the second of a source with its bytecode, and would run the old
    # code of a file that is changed twice in a second.
    sys.dont_write_bytecode = True
    folders = [Path.cwd()]
    for text in (options["app"], options["wsgi"]):
        file, suffix, _ = text.partition(".py")
        folder = Path(os.path.abspath(file)).parent
        if suffix and folder.is_dir() and not folder.is_relative_to(folders[0]):
            folders.append(folder)
    return Watched(folders, [Path(options["config"])] if options["config"] else (), again)


def watched_look(config: Config, beside: str) -> Watched:
    """The templates and static files of a configuration; for `beside` see `build`."""
    server = config.server
    folders = [Path(folder) for folder in (server.templates, server.static) if folder]
    of_channels = Path(templates_folder(config, beside))
    return Watched(folders, [of_channels / name for name in config.templates], suffix="")


def load_app(options: Options) -> App | None:
    """The application of the options, if they name one; raises StartFailed."""
    return load(options["app"]) if options["app"] else None


def make_service(
    options: Options,
    reactor: Reactor,
    app: App | None,
    watched: Watched | None,
    handlers: signals.SignalHandlers | None = None,
) -> PushService:
    """The service of these options, for this process; raises StartFailed.

    `handlers`: those of the signals of this process, one of which reloads the configuration.
    """
    service = make(options, os.environ, reactor, app)
    watchdog = Watchdog(service.node, service.measures, service.ports.closed, reactor, os.environ)
    watchdog.setServiceParent(service)
    if handlers is not None:
        handlers.reload = service.live.request
    if watched is not None:
        live = service.live
        look = watched_look(live.config, live.templates_beside)
        Reloader(reactor, watched, look, live.request).setServiceParent(service)
    return service


def retry(error: StartFailed, reactor: Reactor, watched: Watched | None) -> Retrier:
    """With `--reload`, wait for a change of a file; without it, raise the error."""
    if watched is None:
        raise error
    return Retrier(Reloader(reactor, watched), error)


def make(
    options: Options, environment: Mapping[str, str], reactor: Reactor, app: App | None = None
) -> PushService:
    """The service of these options; raises StartFailed."""
    types = SourceTypes()

    def load() -> Config:
        return complete(options, environment, types, app)

    config = load()
    if options["config"]:
        # For the next ones: twistd changes to the folder of --rundir later.
        options["config"] = os.path.abspath(options["config"])
    private = _private(options)
    on = shortcuts(environment)
    wsgi = None
    if config.server.wsgi:
        wsgi = load_wsgi(config.server.wsgi)
        # Its file is known now.
        with_look(with_pages(config, file_of(config.server.wsgi)), file_of(config.server.wsgi))
    beside = "" if app is None else folder_of(private)
    crew = make_crew(config, environment, reactor)
    service = build(
        config,
        reactor,
        types=types,
        app=app,
        shortcuts=on,
        beside=beside,
        templates_beside=beside,
        development=bool(options["reload"]),
        wsgi=wsgi,
        place=None if crew is None else crew.place,
        holding=None if crew is None else crew.holding,
    )
    if crew is not None:
        crew.attach(service, environment, bool(options["debug"]), on)
    service.live.allow(lambda: read_again(options["config"], load))
    if options.parent is not None:
        service.observer = daemon_observer(
            config.log, environment, options.parent, reactor, service.levels
        )
    return service


def make_crew(config: Config, environment: Mapping[str, str], reactor: Reactor) -> Crew | None:
    """The workers of a server, if it has several; raises StartFailed."""
    number = count(config.server.workers)
    if number == 1:
        return None
    check_files(number)
    return Crew(SocketFolder(environment), number, reactor)


def complete(
    options: Options, environment: Mapping[str, str], types: Types, app: App | None
) -> Config:
    """The configuration of a server with these options; raises StartFailed."""
    application = app is not None or bool(options["app"])
    config = configure(options, environment, types, application)
    given = {name: options[name] for name in ("wsgi", "templates", "static") if options[name]}
    config = replace(config, server=replace(config.server, **given))
    if app is not None:
        config = with_app(config, app)
    elif config.server.wsgi:
        config = without_default_source(config)
    if options["debug"]:
        levels = {**config.log.levels, "connections": "debug"}
        config = replace(config, log=replace(config.log, levels=levels))
    config = with_pages(config, options["config"], _private(options))
    config = with_look(config, options["config"], _private(options))
    if options["reload"]:
        config = with_one_process(config, "with --reload")
        if not config.store.path and not config.broker.urls:
            config = replace(config, store=replace(config.store, path=history_file()))
    return config


def with_one_process(config: Config, where: str) -> Config:
    """The configuration with one worker; logs a warning if it has more."""
    workers = config.server.workers
    if count(workers) > 1:
        line = f"workers ({workers}) has no effect {where}: the server is one process"
        _log.warn("{line}", line=line, event_name="setting_dubious")
    return replace(config, server=replace(config.server, workers=1))


def _private(options: Options) -> str:
    """The file of the application, or of the program that runs; empty if there is none."""
    return file_of(options["app"]) if options["app"] else main_file()


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
    return _with_public_folder(config, "pages", private)


def with_look(config: Config, *private: str) -> Config:
    """The configuration with the absolute folders of templates and static files, if there are any.

    Raises StartFailed if one does not exist, and for a private file in that of static files, as
    `with_pages`.
    """
    config = _with_public_folder(config, "static", private)
    given = config.server.templates
    if not given:
        return config
    path = existing_folder("templates", given)
    return replace(config, server=replace(config.server, templates=path))


def _with_public_folder(config: Config, setting: str, private: Sequence[str]) -> Config:
    given = getattr(config.server, setting)
    if not given:
        return config
    secrets = [source.options.get("secret_file", "") for source in config.sources.values()]
    secrets += [key.file for key in config.auth.keys.values()]
    secrets += [key.file for key in config.auth.token_keys]
    folder = public_folder(setting, given, (config.store.path, *secrets, *private))
    changed: dict[str, Any] = {setting: folder}
    return replace(config, server=replace(config.server, **changed))


def folder_of(file: str) -> str:
    """The absolute path of the folder of a file; empty for none."""
    return os.path.dirname(os.path.abspath(file)) if file else ""


def main_file() -> str:
    """The file of the program that runs; empty if there is none."""
    return getattr(sys.modules.get("__main__"), "__file__", None) or ""


def configure(
    options: Options,
    environment: Mapping[str, str],
    types: Types | None = None,
    application: bool = False,
) -> Config:
    """The configuration: the file, then the environment, then the options; the last one counts.

    Logs a warning for each dubious setting; raises StartFailed.
    """
    types = SourceTypes() if types is None else types
    try:
        config = read(options["config"], environment, types, broker(options))
    except InvalidConfig as error:
        raise StartFailed(str(error)) from None
    for line in warnings(environment, types, config, application):
        _log.warn("{line}", line=line, event_name="setting_dubious")
    given: dict[str, Any] = {"listen": listen_texts(options), "workers": workers(options)}
    server = replace(config.server, **{key: value for key, value in given.items() if value})
    return replace(config, server=server)


def broker(options: Options) -> list[str] | None:
    """The URLs of `--broker`; None without it. Raises StartFailed."""
    given: str | Sequence[str] | None = options["broker"]
    if given is None:
        return None
    urls = [given] if isinstance(given, str) else list(given)
    try:
        for url in filter(None, urls):
            parse_url(url)
    except InvalidConfig as error:
        raise StartFailed(f"--broker: {error}") from None
    return urls


def listen_texts(options: Options) -> list[str]:
    """The endpoints of `--listen`, or of `--host` and `--port`; none if none of them is given.

    Raises StartFailed.
    """
    listen, host, port = options["listen"], options["host"], options["port"]
    if not host and port is None:
        return list(listen)
    if listen:
        raise StartFailed("--listen excludes --host and --port; it may be repeated")
    try:
        return [host_and_port(host, None if port is None else _port(port))]
    except ValueError as error:
        raise StartFailed(str(error)) from None


def workers(options: Options) -> int | str | None:
    """The number of `--workers`, or `auto`; None without it. Raises StartFailed."""
    given = options["workers"]
    return None if given is None else parse_workers(given)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"port {text!r:.80}, expected a number from 0 to 65535")
    return int(text)
