"""The scripts and styles of the server's pages: the bundle, or the files that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from pushserver.resources.variants import FileVersion, digest_of, version_of

BUNDLE = "bundle"
"""The folder below `static` that `tools/bundle` makes."""
SOURCES = "SOURCES"
"""The file there with the digest of the sources of the bundle."""
ENTRIES = ("channels", "live", "names")
"""The scripts of pages in `static/js`; each has a bundle of this name."""
STYLES = (
    "vendor/bootstrap-5.3.9/bootstrap.min.css",
    "vendor/uplot-1.6.32/uPlot.min.css",
    "parts.css",
    "app.css",
)
"""The styles of all pages, below `static`, in their order; Bootstrap is the first."""


class Assets:
    """The URLs of files below `static`, for the templates.

    With a current bundle they contain the digest of the file, so that browsers may keep it for
    ever. Without one (a source was changed, and `tools/bundle` did not run since) pages load the
    sources, and revalidate them.

    `own`: the folder of the user's files, which take the place of those in `static`. If they
    replace a source of the bundle, pages load the sources of its scripts or styles.
    """

    def __init__(self, static: Path, bundled: bool | None = None, own: str = ""):
        self._static = static
        self._own = Path(own) if own else None
        self._current = is_current(static) if bundled is None else bundled
        replaced = set(self._replaced_sources()) if own else set()
        styles = {name for name in replaced if name.endswith(".css")}
        self.scripts_bundled = self._current and replaced == styles
        self.styles = ("bundle/page.css",) if self._current and not styles else STYLES
        self._urls: dict[str, tuple[FileVersion, str]] = {}

    def _replaced_sources(self) -> Iterator[str]:
        for path in _sources(self._static):
            name = path.relative_to(self._static).as_posix()
            if self._own_file(name) is not None:
                yield name

    def _own_file(self, name: str) -> Path | None:
        path = None if self._own is None else self._own / name
        return path if path is not None and path.is_file() else None

    def url(self, name: str) -> str:
        """The path of this file below `static`, with its version; raises LookupError."""
        own = self._own_file(name)
        if own is None and not self._current:
            return name
        # The server's own files do not change while it runs.
        version = () if own is None else version_of(own.stat())
        known = self._urls.get(name)
        if known is None or known[0] != version:
            try:
                digest = digest_of((own or self._static / name).read_bytes())
            except OSError as error:
                raise LookupError(f"static file {name!r:.100}: {error.strerror}") from None
            known = self._urls[name] = version, f"{name}?v={digest}"
        return known[1]

    def preload(self, root: str, entry: str) -> str:
        """The Link header of the page with this entry; `root` as in the page."""
        if not self._current:
            return ""
        links = [(name, "preload; as=style") for name in self.styles]
        links.append(("js/theme.js", "preload; as=script"))
        if self.scripts_bundled:
            links.append((f"bundle/{entry}.js", "modulepreload"))
        return ", ".join(f"<{root}/static/{self.url(name)}>; rel={rel}" for name, rel in links)


def is_current(static: Path) -> bool:
    """Whether there is a bundle, made of the sources as they are."""
    made_of = static / BUNDLE / SOURCES
    return made_of.is_file() and made_of.read_text("utf-8").strip() == sources_digest(static)


def sources_digest(static: Path) -> str:
    """The digest of all files that the bundle is made of."""
    digest = blake2b(digest_size=16)
    for path in _sources(static):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(static).as_posix()} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def _sources(static: Path) -> Iterator[Path]:
    yield from sorted((static / "js").glob("*.js"))
    yield from sorted(static.glob("*.js"))
    yield from sorted(static.glob("*.css"))
    yield from sorted((static / "vendor").rglob("*.css"))
    yield from sorted((static / "vendor").rglob("centrifuge.js"))
