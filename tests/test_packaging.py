"""The package is built, installed into empty environments, and run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pushserver
from pushserver.resources.static import COMPRESSED
from pushserver.resources.variants import brotli_name, digest_of
from tests.e2e.server import CHECKOUT, Server, environment, running

pytestmark = pytest.mark.slow

ASSETS = ("templates", "static", "systemd", "docs")
COMMITTED = 1_700_000_000
"""The time of the commit that is built."""


ALONE = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
"""Variables of a program without the checkout on its path; it compiles its modules once."""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a program without the checkout on its path, and return its output."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**ALONE, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def files_of(*folders: str) -> set[str]:
    """The files in folders of the checkout, relative to it."""
    return {
        str(path.relative_to(CHECKOUT))
        for folder in folders
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout to build in, because builds leave files behind."""
    everywhere = shutil.ignore_patterns(
        ".*", "__pycache__", "node_modules", "*.egg-info", "dropin.cache"
    )

    def leave(folder: str, names: list[str]) -> set[str]:
        made = {"build", "dist"} if Path(folder) in (CHECKOUT, CHECKOUT / "benchmarks") else set()
        return made | everywhere(folder, names)

    return shutil.copytree(CHECKOUT, tmp_path_factory.mktemp("tree") / "pushserver", ignore=leave)


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("built")
    made = {"PYTHON": sys.executable, "SOURCE_DATE_EPOCH": str(COMMITTED)}
    run(tree / "tools" / "dist", folder, cwd=folder, **made)
    return folder


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is in the source distribution."""
    [path] = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("unpacked")
    # Not by Python: the filters of its archives came with 3.11.4, after Debian's Python.
    run("tar", "--extract", "--file", path, cwd=folder)
    [found] = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    """The names of all files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


class TestTheWheel:
    def test_has_every_asset(self, contents: set[str]) -> None:
        assert files_of(*ASSETS) - {name.removeprefix("pushserver/") for name in contents} == set()

    def test_has_every_module(self, contents: set[str]) -> None:
        assert files_of("pushserver") - contents == set()

    def test_has_the_brotli_form_of_each_file_that_browsers_load(self, wheel: Path) -> None:
        folder = "pushserver/static"
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if name.startswith(folder)}
            plain = {name for name in names if Path(name).suffix in COMPRESSED}
            for name in plain:
                content = archive.read(name)
                names.remove(form := brotli_name(name, digest_of(content)))
                assert 0 < archive.getinfo(form).file_size < len(content)
        assert len(plain) > 40
        assert not [name for name in names if name.endswith(".br")]

    def test_installs_only_the_package_and_the_plugins(self, contents: set[str]) -> None:
        metadata = f"pushserver-{pushserver.__version__}.dist-info/"
        others = {name for name in contents if not name.startswith(("pushserver/", metadata))}
        assert others == {
            "twisted/plugins/pushserver_plugin.py",
            "twisted/plugins/pushserver_sources.py",
        }

    def test_requires_exactly_the_planned_libraries(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            name = f"pushserver-{pushserver.__version__}.dist-info/METADATA"
            metadata = archive.read(name).decode()
        needed = re.findall(r"^Requires-Dist: ([\w\[\]]+)(.*)", metadata, re.MULTILINE)
        assert [name for name, condition in needed if "extra" not in condition] == [
            "autobahn[twisted]",
            "jinja2",
            "msgspec",
            "prometheus_client",
            "pyjwt",
            "twisted[tls]",
        ]
        assert {(name, condition.partition("extra == ")[2]) for name, condition in needed[6:]} == {
            ("cronsim", '"cron"'),
            ("tzdata", '"cron"'),
            ("feedparser", '"feed"'),
            ("flask", '"flask"'),
            ("hiredis", '"redis"'),
            ("txredisapi", '"redis"'),
        }
        assert "Requires-Python: >=3.11" in metadata


def test_the_source_distribution_has_all_files_of_the_repository(
    tree: Path, unpacked: Path
) -> None:
    wanted, found = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (tree, unpacked)
    )
    assert wanted - found == set()
    assert {name for name in found - wanted if not name.startswith("pushserver.egg-info/")} == {
        "PKG-INFO",
        "setup.cfg",
    }


def test_a_source_distribution_builds_the_same_packages(
    built: Path, unpacked: Path, tmp_path: Path
) -> None:
    for path in unpacked.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        if path.name != "PKG-INFO":
            os.utime(path, (COMMITTED + 5000, COMMITTED + 5000))
    shell = 'umask 077 && exec "$@"'
    here = {"PYTHON": sys.executable, "TZ": "Asia/Kathmandu", "LC_ALL": "C"}
    run("sh", "-c", shell, "sh", unpacked / "tools" / "dist", cwd=tmp_path, **here)
    made = sorted((unpacked / "dist").iterdir())
    assert len(made) == 2
    for package in made:
        assert package.read_bytes() == (built / package.name).read_bytes(), package.name


@pytest.fixture(scope="module", params=["wheel", "editable"])
def twistd(
    request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The twistd of an environment with an installation and nothing else."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    editable = request.param == "editable"
    target = ["--editable", str(tree)] if editable else [str(request.getfixturevalue("wheel"))]
    # The pip of the tests: to install another one, and to choose versions with it, takes longer.
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv"), "install", "--quiet"]
    run(
        *pip, "--no-compile", "--constraint", str(CHECKOUT / "constraints.txt"), *target, cwd=folder
    )
    return folder / "venv" / "bin" / "twistd"


def test_twistd_lists_the_plugin(twistd: Path, tmp_path: Path) -> None:
    assert re.search(r"^\s+pushserver\s+\S", run(twistd, "--help", cwd=tmp_path), re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "key"), [("cron", "expression = '@daily'"), ("feed", "url = 'http://localhost/'")]
)
def test_a_type_without_its_extra_says_how_to_install_it(
    twistd: Path, tmp_path: Path, kind: str, key: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[sources.s]\ntype = '{kind}'\nchannel = 'c'\n{key}\n")
    ended = subprocess.run(
        [twistd, "--nodaemon", "--pidfile=", "pushserver", "--config", config],
        cwd=tmp_path,
        env=environment(**ALONE),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(lines) == 1
    assert lines[0].startswith(f"pushserver: {config}: sources.s")
    assert f": {kind} needs the library " in lines[0]
    assert lines[0].endswith(f": pip install 'pushserver[{kind}]'")


@pytest.fixture(scope="module")
def installed(twistd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs from an installation, in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    with running(Server(folder, twistd=[str(twistd)], env=environment(**ALONE))) as server:
        yield server
    assert [path.name for path in folder.iterdir()] == ["log"]


class TestTheInstalledServer:
    def test_renders_the_page_from_its_template(self, installed: Server) -> None:
        page = installed.get("", accept="text/html")
        assert page.status == 200
        assert page.headers.get_content_type() == "text/html"
        assert 'id="list"' in page.text

    def test_serves_every_file_of_the_page(self, installed: Server) -> None:
        page = installed.get("", accept="text/html").text
        named = re.findall(r'(?:src|href)="((?:\./)?static/[^"]+)"', page)
        assert named
        for path in named:
            assert installed.get(path.removeprefix("./")).status == 200, path
