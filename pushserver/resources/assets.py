"""The scripts and styles of the server's pages: the bundle, or the files that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from pushserver.resources.variants import digest_of

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
    """

    def __init__(self, static: Path, bundled: bool | None = None):
        self._static = static
        self.bundled = is_current(static) if bundled is None else bundled
        self._urls: dict[str, str] = {}

    def url(self, name: str) -> str:
        """The path of this file below `static`, with its version."""
        if not self.bundled:
            return name
        if name not in self._urls:
            digest = digest_of((self._static / name).read_bytes())
            self._urls[name] = f"{name}?v={digest}"
        return self._urls[name]

    def preload(self, root: str, entry: str) -> str:
        """The Link header of the page with this entry; `root` as in the page."""
        if not self.bundled:
            return ""
        links = (
            ("bundle/page.css", "preload; as=style"),
            ("js/theme.js", "preload; as=script"),
            (f"bundle/{entry}.js", "modulepreload"),
        )
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
