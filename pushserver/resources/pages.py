"""The server's own pages: Jinja2 templates, and the location of their files."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from twisted.logger import Logger

from pushserver import __version__
from pushserver.config.colours import page_style
from pushserver.config.settings import Page
from pushserver.errors import Unavailable
from pushserver.resources.assets import Assets, is_current
from pushserver.resources.template_failures import TemplateFailures
from pushserver.resources.templates import OWN_NAMES, Templates
from pushserver.resources.variants import digest_of
from pushserver.usercode.share import TOO_MUCH, Share
from pushserver.web.document import Document
from pushserver.web.resource import RETRY, Refusal

LIST_SIZE = 10
CLIENT = "vendor/centrifuge-5.8.0/centrifuge.js"
"""The client of the Centrifuge protocol, below `static`."""
SOCKET_IO = "vendor/socket.io-client-4.8.4"
"""The folder of the client of Socket.IO, below `static`."""


def asset_folder(name: str) -> Path:
    """The folder `templates`, `static` or `docs`: in the package, or beside it in a checkout."""
    package = Path(str(files("pushserver")))
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no {name} folder in {package} or beside it")


@cache
def is_bundled() -> bool:
    """Whether `static` has a current bundle: examined once, since it does not change meanwhile."""
    return is_current(asset_folder("static"))


COLOURS = "page-colours.css"
"""The style with the configured colours, below `static`."""
OWN_PAGES = "pages"
"""The folder of pages in the user's folder of templates."""


class Pending(Exception):
    """A rendering needs channels that `loading` waits for, and has to be repeated."""

    def __init__(self, loading: Awaitable[None]):
        super().__init__()
        self.loading = loading


class Pages:
    """Renders the templates, with the URLs of these assets.

    The user's templates take the place of the server's own, file by file; an error in one costs
    its page alone, and is in `failures`. `monotonic` is the steady clock. `development`: read
    templates anew after a change, and show their errors to readers.
    """

    _log = Logger()

    def __init__(
        self,
        monotonic: Callable[[], float],
        failures: TemplateFailures,
        assets: Assets | None = None,
        development: bool = False,
    ):
        self._monotonic = monotonic
        self._development = development
        self._assets = assets or Assets(asset_folder("static"), is_bundled())
        self._page = Page()
        self._own = self._templates = self._make("")
        self._shares: dict[str, Share] = {}
        self._failures = failures

    def use(self, templates: str, static: str, page: Page) -> None:
        """Use the templates and the static files of these folders from now on; "" for none.

        Logs the errors of the templates. No step may fail.
        """
        self._assets = Assets(asset_folder("static"), is_bundled(), static)
        self._page = page
        self._own = self._make("")
        self._templates = self._make(templates) if templates else self._own
        self._shares.clear()
        self._failures.clear()
        for name in names_of(templates):
            try:
                self._templates.check(name)
            except Exception as error:
                self._failed(name, self._templates.describe(name, error))

    def _make(self, folder: str) -> Templates:
        own, style = str(asset_folder("templates")), page_style(self._page).encode()
        names = {
            "site": self._page.title,
            "colours": f"{COLOURS}?v={digest_of(style)}" if style else "",
            "asset": self._assets.url,
            "bundled": self._assets.scripts_bundled,
            "styles": self._assets.styles,
        }
        return Templates(folder or own, own, names, self._development)

    def channel(
        self,
        names: Sequence[str],
        root: str,
        history_size: int,
        operator: bool = False,
        login: bool = False,
    ) -> Document:
        """The live page of channels; `root` is the relative path to the server's root.

        `operator`: whether the page shows failures of sources and handlers, and a form that
        publishes. `login`: whether it has a field for a token or key from the beginning. Raises
        Refusal if the user's template fails.
        """
        html = self._render(
            "channel.html",
            channel=", ".join(names),
            channels=names,
            root=root,
            history_size=history_size,
            list_size=LIST_SIZE,
            operator=operator,
            login=login,
        )
        return Document(html, self._assets.preload(root, "live"))

    def channels(self, root: str, login: bool = False, permitted: bool = True) -> Document:
        """The list of channels; `root`, `login` and errors as for `channel`.

        `permitted`: whether the page may ask for the list without the key of its login.
        """
        values = {"root": root, "operator": True, "login": login, "permitted": permitted}
        html = self._render("channels.html", **values)
        return Document(html, self._assets.preload(root, "channels"))

    def error(self, status: int, title: str, detail: str, root: str = ".") -> bytes:
        """The page for an error; `root` is the relative path to the server's root.

        If the user's template fails, it is the server's own, and where that cannot be read, bare.
        """
        values = {"status": status, "title": title, "detail": detail, "root": root}
        try:
            return self._render("error.html", **values)
        except Refusal:
            pass
        try:
            return _encoded(self._own.render("error.html", {"version": __version__, **values}))
        except OSError:
            heading, text = escape(f"{status} {title}"), escape(detail)
            return _encoded(f"<!doctype html><title>{heading}</title><h1>{heading}</h1><p>{text}")

    def own(self, name: str, values: Mapping[str, object]) -> bytes:
        """A page of the user; raises Refusal, and Pending and Unavailable as its functions do."""
        return self._render(name, **values)

    def _render(self, name: str, **values: object) -> bytes:
        """Render a template; raises Refusal if it fails, or takes too much time."""
        known: Mapping[str, object] = {"version": __version__, **values}
        if self._templates is self._own:
            try:
                return _encoded(self._own.render(name, known))
            except OSError as error:
                # There may be no file left for its first reading.
                problem = f"the page cannot be read now: {error.strerror}"
                raise Refusal(503, problem, RETRY) from None
        share, started = self._shares.setdefault(name, Share()), self._monotonic()
        if share.is_used_up(started):
            self._failures.count(name)
            self._failed(name, f"{name} {TOO_MUCH}, and is not rendered for all")
            raise Refusal(503, "the server has no time for this page now", RETRY)
        try:
            return _encoded(self._templates.render(name, known))
        except (Pending, Unavailable):
            raise
        except Exception as error:
            problem = self._templates.explain(name, error)
            self._failures.count(name)
            self._failed(name, self._templates.describe(name, error), problem)
            text = problem if self._development else "internal server error"
            raise Refusal(500, text) from None
        finally:
            share.add(self._monotonic() - started)

    def _failed(self, name: str, error: str, problem: str = "") -> None:
        """Keep and log a failure; `problem`: with the lines around its place."""
        more = self._failures.note(name, "", error)
        if more is not None:
            self._log.error(
                "the page {name} failed{more}: {problem}",
                name=name,
                problem=problem or error,
                more=more,
                event_name="page_failed",
            )


def names_of(folder: str) -> Iterator[str]:
    """The templates of pages in the user's folder; none for ""."""
    for name in OWN_NAMES if folder else ():
        if os.path.isfile(os.path.join(folder, name)):
            yield name
    if folder:
        files = sorted(Path(folder, OWN_PAGES).rglob("*.html"))
        yield from (file.relative_to(folder).as_posix() for file in files)


def look_problems(folder: str) -> Iterator[str]:
    """The errors of the user's templates of pages, a line for each."""
    templates = Templates(folder, str(asset_folder("templates")))
    for name in names_of(folder):
        try:
            templates.check(name)
        except Exception as error:
            yield f"templates: {templates.describe(name, error)}"


def _encoded(html: str) -> bytes:
    # Published texts may have lone surrogates.
    return html.encode("utf-8", "replace")
