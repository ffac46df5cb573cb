"""The server's own pages: Jinja2 templates, and the location of their files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pushserver import __version__
from pushserver.resources.assets import STYLES, Assets
from pushserver.web.document import Document

LIST_SIZE = 10
CLIENT = "vendor/centrifuge-5.8.0/centrifuge.js"
"""The client of the Centrifuge protocol, below `static`."""
SOCKET_IO = "vendor/socket.io-client-4.8.4"
"""The folder of the client of Socket.IO, below `static`."""


def asset_folder(name: str) -> Path:
    """The folder `templates` or `static`: in the package, or beside it in a checkout."""
    package = Path(str(files("pushserver")))
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no {name} folder in {package} or beside it")


class Pages:
    """Renders the templates, with the URLs of these assets."""

    def __init__(self, assets: Assets | None = None) -> None:
        self._assets = Assets(asset_folder("static")) if assets is None else assets
        self._templates = Environment(
            loader=FileSystemLoader(asset_folder("templates")),
            autoescape=True,
            undefined=StrictUndefined,
        )
        self._templates.globals.update(
            asset=self._assets.url, bundled=self._assets.bundled, styles=STYLES
        )

    def channel(
        self,
        name: str,
        root: str,
        history_size: int,
        front: bool,
        operator: bool = False,
        login: bool = False,
    ) -> Document:
        """The live page of a channel; `root` is the relative path to the server's root.

        `operator`: whether the page shows failures of sources and handlers, and a form that
        publishes. `login`: whether it has a field for a token or key from the beginning.
        """
        html = self._render(
            "channel.html",
            channel=name,
            root=root,
            history_size=history_size,
            list_size=LIST_SIZE,
            front=front,
            operator=operator,
            login=login,
        )
        return Document(html, self._assets.preload(root, "live"))

    def channels(self, root: str, login: bool = False) -> Document:
        """The list of channels; `root` and `login` as for `channel`."""
        html = self._render("channels.html", root=root, operator=True, login=login)
        return Document(html, self._assets.preload(root, "channels"))

    def error(self, status: int, title: str, detail: str, root: str = ".") -> bytes:
        """The page for an error; `root` is the relative path to the server's root."""
        return self._render("error.html", status=status, title=title, detail=detail, root=root)

    def _render(self, template: str, **values: object) -> bytes:
        return self._templates.get_template(template).render(version=__version__, **values).encode()
