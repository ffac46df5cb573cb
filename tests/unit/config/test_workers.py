"""The setting `[server] workers`, in each place where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pushserver import PushServer
from pushserver.cli import main
from pushserver.config.loader import load
from pushserver.errors import InvalidConfig, StartFailed
from pushserver.server.options import Options, complete, configure
from pushserver.sources.registry import SourceTypes
from tests.unit.fakes.web import Trouble, memory_reactor

EXPECTED = "expected a whole number from 1 to 128, or auto, got"


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(arguments)
    return options


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("128", 128), ('"auto"', "auto")])
def test_a_number_or_auto_is_valid_everywhere(text: str, value: object) -> None:
    types, word = SourceTypes(), text.strip('"')
    assert load(f"[server]\nworkers = {text}", "f", {}, types).server.workers == value
    environment = {"PUSHSERVER_SERVER_WORKERS": word}
    assert load("", "f", environment, types).server.workers == value
    assert configure(parsed("--workers", word), {}).server.workers == value


def test_the_option_takes_precedence() -> None:
    environment = {"PUSHSERVER_SERVER_WORKERS": "3"}
    assert configure(parsed(), environment).server.workers == 3
    assert configure(parsed("--workers", "1"), environment).server.workers == 1
    assert configure(parsed(), {}).server.workers == 1


@pytest.mark.parametrize("value", ["0", "-1", "1000", "1.5", "two", "", "true", "Auto", "٣"])
def test_another_text_is_refused_by_its_name(value: str) -> None:
    with pytest.raises(InvalidConfig) as failed:
        load("", "f", {"PUSHSERVER_SERVER_WORKERS": value}, SourceTypes())
    assert str(failed.value) == f"PUSHSERVER_SERVER_WORKERS: {EXPECTED} {value!r}"
    with pytest.raises(StartFailed) as refused:
        configure(parsed(f"--workers={value}"), {})
    assert str(refused.value).endswith(f"workers: {EXPECTED} {value!r}")


@pytest.mark.parametrize("value", ["0", "-1", "1000", "1.5", "'two'", "''", "true", "'2'", "nan"])
def test_another_value_of_the_file_is_reported_by_check_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[server]\nworkers = {value}")
    assert main(["check-config", str(path)]) == 1
    assert f"{path}: server.workers: {EXPECTED} {value}\n" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, -1, 1000, 1.5, "two", "", True, False, [2], b"2"])
def test_another_argument_of_run_is_refused(value: Any) -> None:
    with pytest.raises(StartFailed, match=f"workers: {EXPECTED}"):
        PushServer().run(port=0, workers=value)


@pytest.mark.parametrize(("workers", "lines"), [("4", 1), ("1", 0)])
def test_with_reload_the_server_is_one_process(trouble: Trouble, workers: str, lines: int) -> None:
    options = parsed("--reload", "--workers", workers)
    assert complete(options, {}, SourceTypes(), None).server.workers == 1
    expected = ["workers (4) has no effect with --reload: the server is one process"]
    assert trouble.take() == expected[:lines]


def test_in_another_program_the_server_is_one_process(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    monkeypatch.setenv("PUSHSERVER_SERVER_WORKERS", "4")
    PushServer().service(reactor=memory_reactor())
    (line,) = trouble.take()
    assert line == (
        "workers (4) has no effect in a program that contains the server: the server is one process"
    )
