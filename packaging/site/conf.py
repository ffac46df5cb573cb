"""The site of the documents: `make docs` builds it in build/site, with Sphinx.

The documents are plain Markdown, which the repository and the server show too. Two pages are
completed here: index.md gets the navigation from its own lists of links, and api.md gets the
docstrings of the names that it lists.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from pkgutil import resolve_name

from sphinx.application import Sphinx

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

import pushserver  # noqa: E402

project = "pushserver"
version = release = pushserver.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["monitoring"]

html_theme = "furo"
html_title = f"pushserver {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_heading_anchors = 4

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# Templates in HTML, and configurations of HAProxy, are shown without colours.
suppress_warnings = ["misc.highlighting_failure"]

LINK = re.compile(r"^- \[([^\]]+)\]\(([\w-]+)\.md\)", re.MULTILINE)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([\w./-]+?)(?:#[\w-]+)?\)")
NAME = re.compile(r"^    (pushserver[\w.]+)$", re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def complete(_: Sphinx, document: str, source: list[str]) -> None:
    """Make a document a page of the site."""
    source[0] = OUTSIDE.sub(in_the_repository, source[0])
    if document == "index":
        source[0] += navigation(source[0])
    elif document == "api":
        source[0] = NAME.sub(described, source[0])


def in_the_repository(link: re.Match[str]) -> str:
    """A link to a file that is not in the site: Sphinx copies files, but no folders or pages."""
    words, path = link.groups()
    target = CHECKOUT / path
    if not target.exists():
        raise ValueError(f"no {path} for the link {link[0]}")
    if target.is_file() and target.suffix != ".md":
        return link[0]
    return words if words.strip("`") in path else f"{words} (`{path}` in the repository)"


def navigation(index: str) -> str:
    """A hidden table of contents for each part of the front page."""
    parts = re.split(r"^## ", index, flags=re.MULTILINE)[1:]
    return "".join(tree(part) for part in parts)


def tree(part: str) -> str:
    """The directive for the pages of one part."""
    title, _, text = part.partition("\n")
    pages = "\n".join(f"{words} <{page}>" for words, page in LINK.findall(text))
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


def described(found: re.Match[str]) -> str:
    """The directive for a name on the page of the API."""
    name = found[1]
    kind = "autoclass" if isinstance(resolve_name(name), type) else "autofunction"
    options = "\n   :members:" if kind == "autoclass" else ""
    return f"```{{eval-rst}}\n.. {kind}:: {name}{options}\n```"


def as_restructured(
    _app: Sphinx, _kind: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Our docstrings mark code as Markdown does."""
    lines[:] = [CODE.sub(r"``\1``", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", as_restructured)
