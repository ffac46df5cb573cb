"""The pages: Jinja2 templates and the files that they load."""

from __future__ import annotations

import warnings
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from pushserver import __version__
from pushserver.answers import NotHere, Refusal, refuse

with warnings.catch_warnings():
    # Twisted 26.10's static module calls what it deprecates itself, when it is imported.
    warnings.filterwarnings("ignore", "twisted.web.resource._Unsafe", DeprecationWarning)
    from twisted.web.static import File

LIST_SIZE = 10


def asset_folder(name: str) -> Path:
    """Where `templates` or `static` lies: installed in the package, in a checkout beside it."""
    package = Path(str(files("pushserver")))
    for place in (package / name, package.parent / name):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no {name} folder in {package} or beside it")


class Pages:
    """Renders the templates."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(asset_folder("templates")),
            autoescape=True,
            undefined=StrictUndefined,
        )

    def channel(
        self, name: str, root: str, history_size: int, front: bool, operator: bool = False
    ) -> bytes:
        """The live page of a channel; `root` is the way from its URL to the server's root.

        `operator`: whether it is for somebody who is told what fails.
        """
        return self._render(
            "channel.html",
            channel=name,
            root=root,
            history_size=history_size,
            list_size=LIST_SIZE,
            front=front,
            operator=operator,
        )

    def error(self, status: int, title: str, detail: str, root: str = ".") -> bytes:
        """The page that says no; `root` is the way from its URL to the server's root."""
        return self._render("error.html", status=status, title=title, detail=detail, root=root)

    def _render(self, template: str, **values: object) -> bytes:
        return self._templates.get_template(template).render(version=__version__, **values).encode()


class StaticFiles(File):
    """The files below `static/`, and nothing else: no listing, no way out."""

    def __init__(self, path: str, root: Path | None = None):
        super().__init__(path)
        self._root = Path(path).resolve() if root is None else root
        self.childNotFound = NotHere()  # type: ignore[assignment]

    def createSimilarFile(self, path: str) -> StaticFiles:
        return StaticFiles(path, self._root)

    def getChild(self, path: bytes, request: Request) -> IResource:
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError:
            return self.childNotFound
        if "\0" in name:
            return self.childNotFound
        child: IResource = super().getChild(path, request)
        return child

    def directoryListing(self) -> Resource:
        return self.childNotFound

    def render(self, request: Request) -> bytes | int:
        if request.method not in (b"GET", b"HEAD"):
            return refuse(request, Refusal(405, "files are only read", {"allow": "GET, HEAD"}))
        answer: bytes | int = super().render(request)
        return answer

    def render_GET(self, request: Request) -> bytes | int:
        if not Path(self.path).resolve().is_relative_to(self._root) or not self.isfile():
            return NotHere().render(request)
        # A vendored file's URL has its version in it; ours are asked for again each time,
        # and answered 304.
        vendored = b"vendor" in (request.prepath or ())
        cache = b"max-age=31536000, immutable" if vendored else b"no-cache"
        request.setHeader(b"cache-control", cache)
        # twisted.web logs a range that it does not understand, as the ASCII that it takes it for.
        if not (request.getHeader(b"range") or b"").isascii():
            request.requestHeaders.removeHeader(b"range")
        answer: bytes | int = super().render_GET(request)
        return answer

    render_HEAD = render_GET
