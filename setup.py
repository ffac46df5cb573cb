"""Builds and installs pushserver.

The metadata is here rather than in pyproject.toml because the asset folders are beside the
package, not in it: see ``BuildWithAssets``.
"""

import re
from hashlib import blake2b
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

try:
    import brotli  # pyproject.toml requires it, but not all builds are isolated
except ImportError:
    brotli = None

ASSETS = ("templates", "static", "systemd", "docs")
"""Top-level folders that an installed package carries inside itself."""


class BuildWithAssets(build_py):
    """Copies the asset folders into the built package.

    Listing them in ``package_dir`` gives the same wheels. But for an editable install, setuptools
    then uses an import hook instead of a path, and twistd, which looks for plugins in the folders
    on sys.path, does not find ours (pypa/setuptools#3548).
    """

    def run(self) -> None:
        """Build the modules, then copy the assets."""
        super().run()
        if not self.editable_mode:
            for folder in ASSETS:
                self.copy_tree(folder, str(Path(self.build_lib, "pushserver", folder)))
            compress(Path(self.build_lib, "pushserver", "static"))


def compress(static: Path) -> None:
    """Add the brotli form of each script, style and SVG; without the library, none.

    The server finds it by the digest of the file in its name: `pushserver/resources/variants.py`.
    """
    for path in static.rglob("*") if brotli else ():
        if path.suffix in {".css", ".js", ".svg"}:
            content = path.read_bytes()
            digest = blake2b(content, digest_size=6).hexdigest()
            path.with_name(f"{path.name}.{digest}.br").write_bytes(brotli.compress(content))


def version() -> str:
    """The version of the package, read without importing it."""
    text = Path("pushserver/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('pushserver/__init__.py has no line like: __version__ = "1.2.3"')
    return found[1]


def readme() -> str:
    """The project description for a package index; empty without README.md."""
    path = Path("README.md")
    return path.read_text(encoding="utf-8") if path.exists() else ""


setup(
    name="pushserver",
    version=version(),
    description="Push events to browsers, live.",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Typing :: Typed",
    ],
    # `make lowest` tests these lower bounds. Twisted before 25.5 parses every body that is labelled
    # as a form; Autobahn before 26.10.1 has no close code for invalid and too long compressed ones.
    # PyJWT has its algorithms from cryptography, which twisted[tls] needs too.
    python_requires=">=3.11",
    install_requires=[
        "autobahn[twisted]>=26.10.1",
        "jinja2>=3.1.2",
        "msgspec>=0.21",
        "prometheus_client>=0.16.0",
        "pyjwt>=2.10.1",
        "twisted[tls]>=25.5",
    ],
    extras_require={
        "cron": ["cronsim>=2.6", "tzdata>=2024.1"],
        "feed": ["feedparser>=6.0.12"],
        "flask": ["flask>=3.0.0"],
        "redis": ["hiredis>=3.0.0", "txredisapi>=1.6.0"],
    },
    packages=[*find_packages(include=["pushserver", "pushserver.*"]), "twisted.plugins"],
    # This one key keeps the editable install a plain path: see BuildWithAssets.
    package_dir={"": "."},
    package_data={"pushserver": ["py.typed"]},
    entry_points={"console_scripts": ["pushserver = pushserver.cli:main"]},
    cmdclass={"build_py": BuildWithAssets},
    zip_safe=False,
)
