from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pushserver.cli import main
from pushserver.command_line import unit_command
from pushserver.errors import StartFailed
from pushserver.server import units

Capture = pytest.CaptureFixture[str]
UNITS = ("pushserver.service", "pushserver.socket")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that all users can read, in `opt`; the current folder is `srv`."""
    tmp_path.chmod(0o755)
    for name in ("opt/bin", "srv", "etc", "home"):
        (tmp_path / name).mkdir(parents=True)
    program = tmp_path / "opt" / "bin" / "twistd"
    program.touch(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "opt"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "opt" / "bin" / "python"))
    for name, value in {
        "ETC": str(tmp_path / "etc"),
        "SYSTEM": str(tmp_path / "units"),
        "HIDDEN": (),
        "HOMES": (str(tmp_path / "home"),),
        # Folders of pytest are private.
        "_others_can_read": lambda path: not os.path.exists(f"{path}.private"),
    }.items():
        monkeypatch.setattr(unit_command, name, value)
    monkeypatch.setattr(units, "write_plugin_cache", lambda: None)
    monkeypatch.chdir(tmp_path / "srv")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    return tmp_path


def private(path: Path) -> None:
    Path(f"{path}.private").touch()


def unit(folder: Path, name: str = UNITS[0]) -> str:
    return (folder / "units" / name).read_text("utf-8")


@pytest.mark.parametrize("text", ["foo:8081", "tcp:eighty", "ssl:8443:privateKey=/no:certKey=/no"])
def test_address_with_which_no_server_starts_is_refused(environment: Path, text: str) -> None:
    with pytest.raises(StartFailed, match=f"--listen {text}: "):
        main(["install-unit", "--listen", text])
    assert not (environment / "units").exists()


@pytest.mark.parametrize(
    ("config", "arguments", "is_told"),
    [
        ('[server]\nlisten = ["tcp:9000"]', [], True),
        ('[server]\nlisten = ["tcp:9000"]', ["--listen", "9000"], False),
        ("[server]\ncompress = true", [], False),
        ("[server", [], False),
    ],
)
def test_addresses_that_the_socket_unit_does_not_take_over_are_told(
    environment: Path, capsys: Capture, config: str, arguments: list[str], is_told: bool
) -> None:
    (environment / "c.toml").write_text(config)
    main(["install-unit", "--socket", "--config", str(environment / "c.toml"), *arguments])
    told = f"not server.listen of {environment}/c.toml: --listen ADDRESS"
    assert (told in capsys.readouterr().err) == is_told


def test_units_are_written_and_the_next_commands_named(environment: Path, capsys: Capture) -> None:
    (environment / "srv" / "ticker.py").touch()
    assert main(["install-unit", "--socket", "--app", "ticker.py"]) == 0
    text = unit(environment)
    assert f"ExecStart={environment}/opt/bin/twistd --nodaemon" in text
    assert f"--app {environment}/srv/ticker.py --listen systemd:name=http" in text
    assert f"WorkingDirectory={environment}/srv\n" in text
    assert "ListenStream=127.0.0.1:8080" in unit(environment, UNITS[1])
    assert capsys.readouterr().out.splitlines() == [
        *(f"{environment}/units/{name}" for name in UNITS),
        "",
        "Now run:",
        "  systemctl daemon-reload",
        "  systemctl enable pushserver.socket pushserver.service",
        "  systemctl restart pushserver.socket pushserver.service",
        "  systemctl status pushserver.service pushserver.socket",
    ]


def test_name_of_the_application_in_its_file_is_kept(environment: Path) -> None:
    (environment / "srv" / "ticker.py").touch()
    assert main(["install-unit", "--app", "ticker.py:app"]) == 0
    assert f"--app {environment}/srv/ticker.py:app" in unit(environment)


def test_application_may_be_a_module_without_a_file(environment: Path) -> None:
    assert main(["install-unit", "--app", "ticker:app"]) == 0
    assert "--app ticker:app" in unit(environment)


def test_units_of_a_user_are_in_the_home_folder(environment: Path, capsys: Capture) -> None:
    config = environment / "home" / "config" / "pushserver" / "pushserver.toml"
    config.parent.mkdir(parents=True)
    config.touch()
    assert main(["install-unit", "--user"]) == 0
    text = (environment / "home" / "config" / "systemd" / "user" / UNITS[0]).read_text()
    assert f"--config {config}\n" in text
    out = capsys.readouterr().out
    assert "systemctl --user daemon-reload" in out
    assert "loginctl enable-linger" in out


def test_usual_configuration_is_found(environment: Path, capsys: Capture) -> None:
    config = environment / "etc" / "pushserver" / "pushserver.toml"
    config.parent.mkdir()
    config.touch()
    assert main(["install-unit"]) == 0
    assert f"--config {config}\n" in unit(environment)
    private(config)
    assert main(["install-unit"]) == 0
    assert f"LoadCredential=config:{config}\n" in unit(environment)
    assert "systemd passes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "arguments", "command", "has_workers"),
    [
        ("", [], "", False),
        ("", ["--workers", "1"], " --workers 1", False),
        ("", ["--workers", "auto"], " --workers auto", True),
        ("workers = 4", [], "", True),
        ('workers = "auto"', [], "", True),
        ("workers = 1", [], "", False),
        ("workers = 4", ["--workers", "1"], " --workers 1", False),
    ],
)
def test_unit_of_a_server_with_workers_differs(
    environment: Path, config: str, arguments: list[str], command: str, has_workers: bool
) -> None:
    (environment / "c.toml").write_text(f"[server]\n{config}\n")
    main(["install-unit", "--config", str(environment / "c.toml"), *arguments])
    text = unit(environment)
    assert f"c.toml{command}\n" in text
    assert ("RuntimeDirectoryPreserve=restart\n" in text) == has_workers
    assert ("KillMode=process\n" in text) == has_workers
    assert ("KillMode=mixed\n" in text) != has_workers


@pytest.mark.parametrize("text", ["0", "two", ""])
def test_number_with_which_no_server_starts_is_refused(environment: Path, text: str) -> None:
    with pytest.raises(StartFailed, match="workers: expected a whole number"):
        main(["install-unit", "--workers", text])
    assert not (environment / "units").exists()


@pytest.mark.parametrize("change", ["# mine\n", "[Service]\nMemoryMax=1G\n"])
def test_changed_unit_is_replaced_and_removed_only_by_force(
    environment: Path, capsys: Capture, change: str
) -> None:
    assert main(["install-unit"]) == 0
    path = environment / "units" / UNITS[0]
    path.write_text(unit(environment) + change)
    for command, verb in (("install-unit", "replaces"), ("uninstall-unit", "removes")):
        assert main([command]) == 1
        assert capsys.readouterr().err.endswith(f"{path} was changed: --force {verb} it\n")
        assert unit(environment).endswith(change)
    assert main(["install-unit", "--force"]) == 0
    assert change not in unit(environment)
    path.write_text(change)
    assert main(["uninstall-unit", "--force"]) == 0
    assert not path.exists()


def test_no_unit_is_written_if_one_was_changed(environment: Path) -> None:
    (environment / "units").mkdir()
    (environment / "units" / UNITS[1]).write_text("[Socket]\n")
    assert main(["install-unit", "--socket"]) == 1
    assert [path.name for path in (environment / "units").iterdir()] == [UNITS[1]]


def test_unchanged_unit_of_another_version_is_replaced(environment: Path) -> None:
    assert main(["install-unit", "--listen", "9000"]) == 0
    assert main(["install-unit", "--listen", "9001"]) == 0
    assert "--listen 9001" in unit(environment)


def test_socket_unit_in_the_way_is_named(environment: Path, capsys: Capture) -> None:
    assert main(["install-unit", "--socket"]) == 0
    assert main(["install-unit"]) == 1
    assert "would hold the port: use --socket, or first uninstall-unit" in capsys.readouterr().err


def test_uninstall_removes_the_units_and_their_links(environment: Path, capsys: Capture) -> None:
    assert main(["install-unit", "--socket"]) == 0
    wants = environment / "units" / "multi-user.target.wants"
    wants.mkdir()
    (wants / UNITS[0]).symlink_to(environment / "units" / UNITS[0])
    (wants / "other.service").touch()
    capsys.readouterr()
    assert main(["uninstall-unit"]) == 0
    assert [path.name for path in (environment / "units").iterdir()] == [wants.name]
    assert [path.name for path in wants.iterdir()] == ["other.service"]
    lines = capsys.readouterr().out.splitlines()
    assert "  systemctl stop pushserver.socket pushserver.service" in lines
    assert main(["uninstall-unit"]) == 1
    assert "has no unit of pushserver" in capsys.readouterr().err


def test_private_environment_runs_as_its_owner(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    private(environment / "opt")
    os.chown(environment / "opt", 1, -1) if os.getuid() == 0 else None
    status = main(["install-unit"])
    assert status == 0
    assert "\nUser=" in unit(environment)
    assert "because others cannot read its files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "gone.toml"], "--config gone.toml: there is no such file"),
        (["--listen", "80"], "--listen 80: ports below 1024 need --socket, which opens them"),
        (["--listen", "0.0.0.0:443"], "ports below 1024 need --socket"),
        (["--listen", "tcp:port=443"], "ports below 1024 need --socket"),
        (["--listen", "tcp:interface=127.0.0.1:port=443"], "ports below 1024 need --socket"),
        (["--listen", "ssl:443:privateKey=k:certKey=c"], "ports below 1024 need --socket"),
        (["--socket", "--listen", "x"], "'x', expected a port, ADDRESS:PORT or the path of"),
        (["--listen", "70000"], "port 70000 is out of range"),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    environment: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert main(["install-unit", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (environment / "units").exists()


def test_application_that_is_missing_is_refused(environment: Path) -> None:
    with pytest.raises(SystemExit, match=r"gone\.py"):
        main(["install-unit", "--app", "gone.py"])
    assert not (environment / "units").exists()


def test_folder_that_the_service_does_not_see_is_refused(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(unit_command, "HIDDEN", (str(environment / "opt"),))
    assert main(["install-unit"]) == 1
    assert f"{environment}/opt: a service does not see" in capsys.readouterr().err


def test_folder_that_cannot_be_written_is_named(environment: Path, capsys: Capture) -> None:
    (environment / "file").touch()
    assert main(["install-unit", "--folder", f"{environment}/file/units"]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_without_twistd_nothing_is_written(environment: Path, capsys: Capture) -> None:
    (environment / "opt" / "bin" / "twistd").unlink()
    assert main(["install-unit"]) == 1
    assert "expected pushserver installed by pip" in capsys.readouterr().err
