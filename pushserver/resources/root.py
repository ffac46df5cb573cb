"""The root of all URLs, and the pages of the user beside the server's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.errors import StartFailed
from pushserver.resources.own_pages import OwnPages
from pushserver.resources.static import INDEX, StaticFiles, within
from pushserver.resources.variants import Variants
from pushserver.web.hosts import Hosts
from pushserver.web.resource import ContainerResource, NotFound, Refusing

HEALTH = b"health"
"""Answers under every Host: a load balancer may send any, and there is nothing to read."""
ICON = b"favicon.ico"
STATIC = b"static"


class UserPages(StaticFiles):
    """The pages of the user, with their scripts and pictures."""

    def _headers(self, request: Request, variants: Variants | None) -> Mapping[bytes, bytes]:
        # No policy for scripts and styles: unlike ours, these pages may load anything.
        return {
            b"cache-control": b"no-cache",
            b"content-security-policy": b"frame-ancestors 'self'",
        }

    def has(self, name: str) -> bool:
        """Whether a file or folder of this name exists."""
        return os.path.exists(os.path.join(self.path, name))


class IndexPage(UserPages):
    """The `index.html` in a folder, which need not exist yet, without the other files there."""

    def has(self, name: str) -> bool:
        return name == INDEX and super().has(name)

    def getChild(self, path: bytes, request: Request) -> Any:
        if path not in (b"", INDEX.encode()):
            return self.childNotFound
        return super().getChild(path, request)


class RootResource(ContainerResource):
    """All URLs of the server, and beside them the pages of the user.

    The server's URLs take precedence, except for the page at `/` and the icon, which are the
    user's if they exist. A page by a template, of `own`, precedes a file of `pages`. A request is
    refused if `hosts` does not allow its Host.

    With a WSGI application, all other URLs are the application's, also `/`, the icon, and names
    that `files`, the server's own files at `/static`, do not have.
    """

    _log = Logger()

    def __init__(
        self,
        children: Mapping[bytes, Resource],
        icon: Resource,
        hosts: Hosts,
        pages: UserPages | None = None,
        application: Resource | None = None,
        files: StaticFiles | None = None,
        own: OwnPages | None = None,
    ):
        super().__init__(children)
        self._own = own
        self._application = application
        self._files = files
        self._hosts = hosts
        self._icon = icon
        self._pages = pages
        for name in sorted(part.decode() for part in children if part):
            if pages is not None and pages.has(name):
                self._warn(name, pages.path, name)
        if own is not None:
            self._warn_of_collisions(own)

    def _warn_of_collisions(self, own: OwnPages) -> None:
        files = self._pages
        for name, file in own.names():
            if name and name.encode() in self.children:
                self._warn(file, own.folder, name)
            elif files is not None and files.has(name or INDEX):
                self._warn(name or INDEX, files.path, name, f"{own.folder}/{file}")

    def _warn(self, name: str, pages: str, url: str, owner: str = "the server's own") -> None:
        self._log.warn(
            "{name} in {pages} is not served: /{url} is {owner}",
            name=name,
            pages=pages,
            url=url,
            owner=owner,
            event_name="page_not_served",
        )

    def getChildWithDefault(self, path: bytes, request: Request) -> Any:
        if path == HEALTH:
            return super().getChildWithDefault(path, request)
        refusal = self._hosts.refusal(request)
        if refusal is not None:
            return Refusing(refusal)
        if self._own is not None and (not path or path not in self.children):
            page = self._own.find([path, *(request.postpath or ())])
            if page is not None:
                return page
        if not path and request.postpath:
            return self._application or NotFound()
        if not path and self._pages is not None and self._pages.has(INDEX):
            return self._pages.getChild(path, request)
        if self._application is not None and self._is_applications(path, request):
            return self._application
        return super().getChildWithDefault(path, request)

    def _is_applications(self, path: bytes, request: Request) -> bool:
        """Whether the application has this URL, though the server has a resource of that name."""
        if path == STATIC and self._files is not None:
            return not self._files.finds(request.postpath or [])
        return not path

    def getChild(self, path: bytes, request: Request) -> Any:
        pages = self._pages
        page = None if pages is None else pages.getChild(path, request)
        if pages is not None and page is not pages.childNotFound:
            return page
        if self._application is not None:
            return self._application
        if path == ICON:
            return self._icon
        plural = path + b"s"
        return NotFound(f"/{plural.decode()}" if plural in self.children else "")


class WorkerRootResource(ContainerResource):
    """The URLs that a worker answers itself; `main` answers all others.

    It also decides about the Host of those, and about names that `files` does not have.
    """

    def __init__(
        self,
        children: Mapping[bytes, Resource],
        hosts: Hosts,
        files: StaticFiles,
        main: Resource,
    ):
        super().__init__({**children, STATIC: files})
        self._files = files
        self._hosts = hosts
        self._main = main

    def getChildWithDefault(self, path: bytes, request: Request) -> Any:
        is_file = path != STATIC or self._files.finds(request.postpath or [])
        if path not in self.children or not is_file:
            return self._main
        refusal = self._hosts.refusal(request)
        return super().getChildWithDefault(path, request) if refusal is None else Refusing(refusal)


def warn_of_hidden_files(files: StaticFiles, application: object) -> None:
    """Log the static files of a Flask application that the server's own files at `/static` hide."""
    folder, prefix = (
        getattr(application, f"static_{name}", None) for name in ("folder", "url_path")
    )
    if not isinstance(folder, str) or prefix != f"/{STATIC.decode()}":
        return
    own = Path(files.path)
    names = (str(path.relative_to(own)) for path in own.rglob("*") if path.is_file())
    for name in sorted({*names, *map(bytes.decode, files.children)}):
        if os.path.isfile(os.path.join(folder, name)):
            RootResource._log.warn(
                "{name} in {folder} is not served: {prefix}/{name} is the server's own",
                name=name,
                folder=folder,
                prefix=prefix,
                event_name="static_file_not_served",
            )


def existing_folder(setting: str, path: str) -> str:
    """Return the absolute path of the folder of this setting; raises StartFailed without it."""
    folder = os.path.abspath(path)
    if not os.path.isdir(folder):
        raise StartFailed(f"{setting} = {path!r}: there is no folder {folder}", Path(folder))
    return folder


def public_folder(setting: str, path: str, private: Iterable[str]) -> str:
    """Return the absolute path of a folder whose files everybody can read.

    Raises StartFailed if the folder does not exist, or if it contains one of the `private` files;
    empty paths of those are ignored.
    """
    folder = existing_folder(setting, path)
    for file in filter(None, private):
        if within(file, folder):
            problem = f"everybody could read {os.path.abspath(file)}"
            raise StartFailed(
                f"{setting} = {path!r}: {problem}; take a folder with public files only"
            )
    return folder
