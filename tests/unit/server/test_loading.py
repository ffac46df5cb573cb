from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushserver import PushServer
from pushserver.errors import StartFailed
from pushserver.server.loading import EXPECTED, file_of, load

APP = "from pushserver import PushServer\napp = PushServer()\nother = 7\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; modules from it are removed afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def failure(text: str) -> str:
    """The message of the failure."""
    with pytest.raises(StartFailed) as failed:
        load(text)
    return str(failed.value).removeprefix("pushserver: ")


def test_module_in_the_current_folder_is_loaded(here: Path) -> None:
    (here / "pushtest_a.py").write_text(APP)
    app = load("pushtest_a:app")
    assert isinstance(app, PushServer)
    assert load("pushtest_a:app") is app
    assert sys.path.count(str(here)) == 1


def test_module_in_a_package_may_import_its_neighbours(here: Path) -> None:
    (here / "pushtest_p").mkdir()
    (here / "pushtest_p" / "__init__.py").write_text("")
    (here / "pushtest_p" / "app.py").write_text("from .more import shop as app\n")
    (here / "pushtest_p" / "more.py").write_text(APP.replace("app", "shop"))
    assert isinstance(load("pushtest_p.app:app"), PushServer)


@pytest.mark.parametrize("text", ["ticker:", ":app", "", ":"])
def test_text_without_a_module_or_file_is_refused(text: str) -> None:
    assert failure(text) == f"{text!r} names no application, {EXPECTED}"


@pytest.mark.parametrize("text", ["pushtest_x:app", "pushtest_x.y:app"])
def test_message_of_a_missing_module_names_the_folder(here: Path, text: str) -> None:
    module = text.partition(":")[0].partition(".")[0]
    place = f"neither in {here} nor installed"
    assert failure(text) == f"{text}: there is no module {module}, {place}"


@pytest.mark.parametrize("text", ["./good:app", "part/good:app", ".good:app", "a b:app", "é/ü:app"])
def test_text_that_is_no_module_is_refused(text: str) -> None:
    module = text.partition(":")[0]
    assert failure(text) == f"{text}: {module} is no module, {EXPECTED}"


def test_configuration_in_place_of_an_application_has_an_option() -> None:
    assert failure("push.toml").endswith("; a configuration is given by --config push.toml")


@pytest.mark.parametrize(
    ("text", "module"), [("./pushtest_n:app", "./pushtest_n"), ("pushtest_n.", "")]
)
def test_message_names_a_file_that_is_near(here: Path, text: str, module: str) -> None:
    (here / "pushtest_n.py").write_text(APP)
    hint = f"; there is the file {module}.py" if module else ""
    assert failure(text).endswith(f"{EXPECTED}{hint}")


def test_another_file_than_of_python_is_named(here: Path) -> None:
    for text in ("pushtest_w.json", "pushtest_w.json:app"):
        (here / "pushtest_w.json").write_text("{}")
        assert failure(text) == f"{text}: the file pushtest_w.json is no Python file, {EXPECTED}"


class TestAFile:
    def test_is_loaded_with_its_neighbours(self, here: Path) -> None:
        (here / "deep").mkdir()
        (here / "deep" / "pushtest_f.py").write_text("from pushtest_g import app\n")
        (here / "deep" / "pushtest_g.py").write_text(APP)
        app = load("deep/pushtest_f.py")
        assert isinstance(app, PushServer)
        assert load(f"{here}/deep/pushtest_f.py:app") is app
        assert file_of("deep/pushtest_f.py") == str(here / "deep" / "pushtest_f.py")

    @pytest.mark.parametrize("name", ["queue", "my-app", "2nd", "pushserver"])
    def test_may_have_a_name_that_cannot_be_imported(self, here: Path, name: str) -> None:
        before = sys.modules.get(name)
        (here / f"{name}.py").write_text(APP)
        assert isinstance(load(f"{name}.py"), PushServer)
        assert sys.modules.get(name) is before

    def test_in_a_package_may_use_relative_imports(self, here: Path) -> None:
        package = here / "pushtest_p" / "inner"
        package.mkdir(parents=True)
        for folder in (package, package.parent):
            (folder / "__init__.py").write_text("")
        (package.parent / "base.py").write_text(APP)
        (package / "dash.py").write_text("from ..base import app as site\n")
        assert isinstance(load("pushtest_p/inner/dash.py"), PushServer)
        assert isinstance(load("pushtest_p/inner/dash.py:site"), PushServer)

    def test_that_is_missing_is_named(self, here: Path) -> None:
        assert failure("no.py") == f"no.py: the file {here}/no.py does not exist"
        (here / "folder.py").mkdir()
        assert failure("folder.py:app") == f"folder.py:app: the file {here}/folder.py is a folder"

    def test_without_an_application_is_told_the_line_that_makes_one(self, here: Path) -> None:
        (here / "pushtest_h.py").write_text("other = 7\n")
        message = failure("pushtest_h.py")
        assert message.startswith("pushtest_h.py defines no application at its top level; ")
        assert message.endswith("app = PushServer()")

    def test_of_flask_is_told_its_option(self, here: Path) -> None:
        (here / "pushtest_w.py").write_text(
            "class Web:\n    def wsgi_app(self): ...\nweb = Web()\n"
        )
        assert failure("pushtest_w.py").endswith(
            "; its web is a WSGI application: pushserver serve --wsgi pushtest_w.py:web"
        )

    def test_with_two_applications_needs_a_name(self, here: Path) -> None:
        (here / "pushtest_i.py").write_text(f"{APP}more = PushServer()\nsame = app\n")
        message = failure("pushtest_i.py")
        assert "name one of them: pushtest_i.py:app or pushtest_i.py:more" in message
        assert isinstance(load("pushtest_i.py:more"), PushServer)

    def test_with_two_names_of_one_application_needs_none(self, here: Path) -> None:
        (here / "pushtest_j.py").write_text(f"{APP}same = app\n")
        assert load("pushtest_j.py") is load("pushtest_j:same") is load("pushtest_j")

    def test_that_fails_is_imported_again(self, here: Path) -> None:
        (here / "pushtest_k.py").write_text("1 / 0\n")
        assert "ZeroDivisionError" in failure("pushtest_k.py")
        (here / "pushtest_k.py").write_text(APP)
        assert isinstance(load("pushtest_k.py"), PushServer)

    def test_that_runs_its_application_is_only_imported(self, here: Path) -> None:
        (here / "pushtest_l.py").write_text(f"{APP}app.run()\n")
        assert isinstance(load("pushtest_l.py"), PushServer)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ap", "pushtest_c has no ap, expected a PushServer; there is pushtest_c:app"),
        ("other", "pushtest_c:other is 7, expected a PushServer; there is pushtest_c:app"),
        (
            "PushServer",
            "PushServer is <class 'pushserver.server.embedding.PushServer'>, expected a PushServer",
        ),
        ("app.source", "has no app.source, expected a PushServer"),
    ],
)
def test_message_of_a_wrong_name_proposes_an_application(here: Path, name: str, words: str) -> None:
    (here / "pushtest_c.py").write_text(APP)
    text = f"pushtest_c:{name}"
    message = failure(text)
    assert message.startswith(f"{text}: ")
    assert words in message
    assert "\n" not in message


def test_message_proposes_nothing_without_an_application(here: Path) -> None:
    (here / "pushtest_d.py").write_text("")
    assert failure("pushtest_d:app").endswith("pushtest_d has no app, expected a PushServer")


class TestTracebackOfAnImport:
    """It has the lines of the user, and none of the package or of Python's import."""

    def lines(self, here: Path, code: str, *more: str) -> list[str]:
        (here / "pushtest_e.py").write_text(code)
        for number, text in enumerate(more):
            (here / f"pushtest_e{number}.py").write_text(text)
        first, *lines = failure("pushtest_e:app").splitlines()
        assert first == "pushtest_e:app cannot be imported:"
        shown = [line for line in lines if line.startswith("  File ")]
        assert all(f'File "{here}/pushtest_e' in line for line in shown), lines
        return lines

    def test_shows_a_syntax_error(self, here: Path) -> None:
        lines = self.lines(here, "def f(:\n")
        assert lines[-1].startswith("SyntaxError: ")
        assert f'File "{here}/pushtest_e.py", line 1' in lines[-4]
        assert "def f(:" in lines[-3]

    def test_shows_an_exception(self, here: Path) -> None:
        lines = self.lines(here, "import pushtest_e0\n", "def f():\n    1 / 0\n\n\nf()\n")
        assert lines[0] == "Traceback (most recent call last):"
        assert [line.split(", ")[1] for line in lines if "File" in line] == [
            "line 1",
            "line 5",
            "line 2",
        ]
        assert lines[-1] == "ZeroDivisionError: division by zero"

    def test_shows_the_import_of_a_missing_module(self, here: Path) -> None:
        lines = self.lines(here, "\nimport pushtest_nothing\n")
        assert 'pushtest_e.py", line 2' in lines[1]
        assert lines[-1] == "ModuleNotFoundError: No module named 'pushtest_nothing'"

    def test_shows_the_import_of_a_missing_name(self, here: Path) -> None:
        lines = self.lines(here, "from pushserver import PushSever\n")
        assert lines[-1].startswith("ImportError: cannot import name 'PushSever'")

    def test_shows_an_exit(self, here: Path) -> None:
        assert self.lines(here, "import sys\n\nsys.exit(3)\n")[-1] == "SystemExit: 3"

    def test_shows_an_invalid_source(self, here: Path) -> None:
        code = f"{APP}\n@app.source('a')\ndef tick():\n    return 1\n"
        lines = self.lines(here, code)
        assert 'pushtest_e.py", line 5' in lines[1]
        problem = "tick needs every=SECONDS; without it, expected a generator"
        assert lines[-1] == f"ValueError: {problem}"

    def test_is_gone_when_the_module_is_corrected(self, here: Path) -> None:
        self.lines(here, "1 / 0\n")
        (here / "pushtest_e.py").write_text(APP)
        assert isinstance(load("pushtest_e:app"), PushServer)
