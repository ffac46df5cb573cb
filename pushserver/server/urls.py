"""The URLs of the server: which resource is at which."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from twisted.web.resource import Resource

from pushserver.auth.allowed_origins import Origins
from pushserver.auth.origin import host_name
from pushserver.config.colours import page_style
from pushserver.config.settings import Page, Server, SocketIO
from pushserver.errors import StartFailed
from pushserver.resources.api import ApiResource
from pushserver.resources.centrifuge import ConnectionContext, EmulationResource
from pushserver.resources.channels import ChannelContext, ChannelsResource, EventsResource
from pushserver.resources.hooks import HooksResource
from pushserver.resources.live_pages import FrontResource
from pushserver.resources.own_pages import OwnPages
from pushserver.resources.pages import CLIENT, COLOURS, SOCKET_IO, asset_folder
from pushserver.resources.root import (
    IndexPage,
    RootResource,
    UserPages,
    WorkerRootResource,
    warn_of_hidden_files,
)
from pushserver.resources.socketio import SocketIOResource
from pushserver.resources.static import (
    Documents,
    OverlaidFiles,
    OwnPublicFiles,
    PublicFiles,
    StaticFiles,
    StyleResource,
)
from pushserver.resources.status import StatusResource
from pushserver.resources.top import Load
from pushserver.server.inside import Relays
from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import IHook
from pushserver.transports.polling import Pollings
from pushserver.web.hosts import Hosts
from pushserver.web.resource import ContainerResource, NotFound
from pushserver.wsgi.gateway import Gateway


def names(server: Server) -> set[str]:
    """The names of the server beside those of loopback: configured, of origins, of the machine."""
    hosts = [*server.names, socket.gethostname(), "host.docker.internal"]
    hosts += [origin.partition("://")[2] for origin in Origins.of(server.allowed_origins).exact]
    return {name for name in map(host_name, hosts) if name}


def tree(
    channels: ChannelContext,
    connections: ConnectionContext,
    pollings: Pollings,
    runners: Sequence[Runner],
    status: StatusResource,
    load: Load,
    server: Server,
    pages: UserPages | None,
    monitoring: Mapping[bytes, Resource],
    socketio: SocketIO,
    application: Gateway | None,
    page: Page,
    own: OwnPages | None = None,
    lists: bool = False,
) -> Resource:
    """The resources by URL; raises StartFailed for a path of Socket.IO that is another's.

    `lists`: the page at `/` is the list of channels.
    """
    static, files = static_files(server.static, page)
    hooks = {
        runner.plan.name: runner.source.receive
        for runner in runners
        if IHook.providedBy(runner.source)
    }
    children: dict[bytes, Resource] = {
        b"": FrontResource(channels.pages, server.front_channel, lists),
        b"channels": ChannelsResource(channels),
        b"events": EventsResource(channels),
        b"api": ApiResource(
            channels.node, channels.gate, lambda: [runner.status() for runner in runners], load
        ),
        b"hooks": HooksResource(hooks),
        b"status": status,
        b"connection": ContainerResource(connections.children()),
        b"emulation": EmulationResource(connections),
        b"static": files,
        **monitoring,
    }
    if path := socketio.path.encode():
        if path in children:
            problem = "the server has something else at this URL"
            raise StartFailed(f"socketio.path: {problem}, value {socketio.path!r}")
        scripts = socket_io_scripts(static)
        children[path] = SocketIOResource(connections, pollings, scripts, socketio)
    if application is not None:
        warn_of_hidden_files(files, application.application)
    return RootResource(
        children,
        icon(server.static, static),
        Hosts(names(server)),
        pages,
        application,
        files,
        own,
    )


def worker_tree(
    channels: ChannelContext,
    connections: ConnectionContext,
    pollings: Pollings,
    server: Server,
    socketio: SocketIO,
    page: Page,
    relays: Relays,
) -> Resource:
    """The URLs of a worker; the main process has checked the path of Socket.IO."""
    static, files = static_files(server.static, page)
    children: dict[bytes, Resource] = {
        b"channels": ChannelsResource(channels),
        b"events": EventsResource(channels),
        b"connection": ContainerResource(connections.children()),
        b"emulation": EmulationResource(connections, relays.of_id),
    }
    if path := socketio.path.encode():
        scripts = socket_io_scripts(static)
        children[path] = SocketIOResource(connections, pollings, scripts, socketio, relays.of_id)
    return WorkerRootResource(children, Hosts(names(server)), files, relays.main)


def static_files(own: str, page: Page) -> tuple[str, StaticFiles]:
    """The folder of the server's own files, and the resource of those and of the user's."""
    static = str(asset_folder("static"))
    files = OverlaidFiles(static, own=OwnPublicFiles(own) if own else None)
    style = page_style(page).encode()
    if style:
        files.putChild(COLOURS.encode(), StyleResource(style))
    files.putChild(b"pushserver-docs", Documents(str(asset_folder("docs"))))
    # Pages of users use this name, without a version.
    files.putChild(b"centrifuge.js", PublicFiles(os.path.join(static, CLIENT)))
    return static, files


def icon(*folders: str) -> Resource:
    """The icon: that of the first of these folders which has one."""
    files = (os.path.join(folder, "favicon.svg") for folder in folders if folder)
    return PublicFiles(next(file for file in files if os.path.isfile(file)))


def socket_io_scripts(static: str) -> Mapping[bytes, Resource]:
    """The scripts of the Socket.IO client by name; pages know these names, without a version."""
    folder = os.path.join(static, SOCKET_IO)
    names = ("socket.io.js", "socket.io.min.js", "socket.io.esm.min.js")
    return {name.encode(): PublicFiles(os.path.join(folder, name)) for name in names}


def metrics_tree(monitoring: Mapping[bytes, Resource], server: Server) -> Resource:
    """The URLs of the port for metrics."""
    return RootResource(monitoring, NotFound(), Hosts(names(server)))


def user_pages(server: Server, beside: str) -> UserPages | None:
    """The pages of the user: of the configured folder, or the one beside the application."""
    if server.pages:
        return UserPages(server.pages)
    return IndexPage(beside) if beside else None
