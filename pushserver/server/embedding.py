"""`PushServer`: an application that runs its own server, alone or in another Twisted program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from twisted.internet.interfaces import IReactorCore
from twisted.web.resource import Resource

from pushserver.app.app import App
from pushserver.server.build import build, with_app
from pushserver.server.foreground import serve
from pushserver.server.loading import load_wsgi, loading
from pushserver.server.options import (
    Options,
    configure,
    folder_of,
    main_file,
    shortcuts,
    with_look,
    with_one_process,
    with_pages,
)
from pushserver.server.service import PushService
from pushserver.usercode.reactor import Reactor


class PushServer(App):
    """An application: `pushserver serve`, `twistd pushserver` or its own `run()` runs it.

    Creating one and decorating functions starts nothing. One server at a time runs it.

    `pages`: a folder of files to serve beside the server's own URLs, with `index.html` at `/`. A
    relative path is relative to the current folder. `[server] pages` of the configuration takes
    precedence.

    `templates`: the folder of templates: of channels, and in place of the server's own. Without it,
    those of channels are in the folder of the pages, or of the application's file. `static`: the
    folder of files in place of the server's own at `/static`, and beside them. `[server] templates`
    and `[server] static` take precedence.

    `wsgi`: a WSGI application, such as a Flask object, which answers all requests that are not for
    the server's own URLs. `--wsgi` and `[server] wsgi` take precedence.
    """

    _service: PushService | None

    def run(
        self,
        *,
        host: str = "",
        port: int | None = None,
        listen: Sequence[str] = (),
        config: str = "",
        workers: int | str | None = None,
        broker: str | Sequence[str] | None = None,
        reload: bool = False,
        open: bool = False,
        reactor: str = "",
        debug: bool = False,
    ) -> None:
        """Run the server in the foreground until it is stopped, as `pushserver serve` does.

        By default it listens on port 8080 of 127.0.0.1, or where the configuration says. `listen`:
        ports, HOST:PORT or endpoints, in place of `host` and `port`. `workers`: the number of
        processes for the connections, or `auto`; by default that of the configuration. `broker`:
        the URL of the Redis of several servers, or a list of them. `reload`: start again when a
        Python file has changed. `open`: open the page in a browser. `reactor`: asyncio, epoll, ...;
        by default asyncio if a source or handler is a coroutine function. It does nothing while a
        server imports the module. Raises pushserver.errors.StartFailed, which ends the program with
        one line, and RuntimeError for a second run in one process.
        """
        if loading.get():
            return
        options = Options()
        given = {"config": config, "host": host, "reload": reload, "debug": debug}
        given |= {"listen": list(listen), "port": None if port is None else str(port)}
        options.update(given | {"workers": workers, "broker": broker})
        serve(options, self, reactor, open)

    def service(
        self, *listen: str, config: str = "", reactor: IReactorCore | None = None
    ) -> PushService:
        """The server that runs this application, for a Twisted program that contains it.

        `listen`: endpoints such as tcp:8080; none for a program that mounts `resource()`.
        `config`: a TOML file; environment variables are read too. The first call makes the
        service, later calls return it. Raises pushserver.errors.StartFailed.
        """
        if self._service is None:
            self._service = self._make_service(listen, config, reactor)
        elif listen or config:
            raise RuntimeError("the service of this application was made already")
        return self._service

    def resource(self) -> Resource:
        """The server's URLs, to put into a site of the program; `service()` must run too."""
        return self.service().resource

    def _make_service(
        self, listen: Sequence[str], path: str, reactor: IReactorCore | None
    ) -> PushService:
        if reactor is None:
            from twisted.internet import reactor
        options = Options()
        options["config"] = path
        config = with_app(configure(options, os.environ, application=True), self)
        config = with_look(with_pages(config, path, main_file()), path, main_file())
        config = with_one_process(config, "in a program that contains the server")
        config = replace(config, server=replace(config.server, listen=list(listen)))
        on = shortcuts(os.environ)
        wsgi = load_wsgi(config.server.wsgi) if config.server.wsgi else None
        return build(
            config,
            cast(Reactor, reactor),
            app=self,
            shortcuts=on,
            wsgi=wsgi,
            templates_beside=folder_of(main_file()),
        )
