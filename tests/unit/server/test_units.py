from __future__ import annotations

import dataclasses
import re

import pytest

from pushserver.server.units import Installation, is_unchanged, quoted, service, socket_unit
from tests.e2e.server import CHECKOUT

SERVICE = (CHECKOUT / "systemd" / "pushserver.service").read_text("utf-8")
WORKERS = (CHECKOUT / "systemd" / "workers.conf").read_text("utf-8")
SOCKET = (CHECKOUT / "systemd" / "pushserver.socket").read_text("utf-8")
PLAIN = Installation(twistd="/opt/push/bin/twistd")


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def made(**changes: object) -> str:
    return service(SERVICE, dataclasses.replace(PLAIN, **changes))  # type: ignore[arg-type]


def test_unit_of_the_package_is_kept_but_for_the_changes() -> None:
    text = made(socket=True)
    [command] = values(text, "ExecStart")
    assert command == (
        "/opt/push/bin/twistd --nodaemon --pidfile= pushserver --listen systemd:name=http"
    )
    ours = [line for line in SERVICE.splitlines() if "=" in line and line[0] not in "#"]
    theirs = [line for line in text.splitlines() if "=" in line and line[0] not in "#"]
    assert [line.replace("/opt/push/", "/opt/pushserver/") for line in theirs] == ours


def test_server_that_listens_itself_has_a_network() -> None:
    text = made(listen=["8081", "[::1]:8082"])
    [command] = values(text, "ExecStart")
    assert command.endswith('pushserver --listen 8081 --listen "[::1]:8082"')
    assert values(text, "PrivateNetwork") == values(text, "IPAddressDeny") == []
    assert values(text, "RestrictAddressFamilies") == ["AF_UNIX AF_INET AF_INET6"]
    assert (values(text, "Wants"), values(text, "After")) == ([], ["network.target"])


def test_application_runs_in_its_folder_with_its_configuration() -> None:
    text = made(app="ticker:app", folder="/srv/my app", config="/etc/push.toml")
    [command] = values(text, "ExecStart")
    assert command.endswith(" --app ticker:app --config /etc/push.toml")
    # Quotes would be a part of the path.
    assert values(text, "WorkingDirectory") == ["/srv/my app"]
    assert "\n[Service]\nWorkingDirectory=" in text


def test_configuration_that_only_root_can_read_is_a_credential() -> None:
    text = made(config="/etc/push server.toml", credential=True)
    assert values(text, "LoadCredential") == ["config:/etc/push server.toml"]
    assert values(text, "ExecStart")[0].endswith(" --config %d/config")


def test_other_account_and_home_are_allowed() -> None:
    text = made(account="anna", in_home=True)
    assert (values(text, "User"), values(text, "DynamicUser")) == (["anna"], [])
    assert values(text, "ProtectHome") == ["read-only"]


def test_manager_of_a_user_gets_only_settings_that_it_can_apply() -> None:
    text = made(by_user=True, socket=True)
    assert values(text, "WantedBy") == ["default.target"]
    assert values(text, "NoNewPrivileges") == ["yes"]
    for key in ("DynamicUser", "CapabilityBoundingSet", "PrivateNetwork", "ProtectSystem"):
        assert values(text, key) == []
    assert "systemctl --user edit" in text.splitlines()[0]


@pytest.mark.parametrize("by_user", [False, True])
def test_workers_outlast_a_crash_of_the_main_process(by_user: bool) -> None:
    one = dataclasses.replace(PLAIN, workers="auto", by_user=by_user)
    text = service(SERVICE, one, WORKERS)
    assert values(text, "ExecStart")[0].endswith(" pushserver --workers auto")
    assert values(text, "KillMode") == ["process"]
    assert values(text, "RuntimeDirectory") == ["pushserver"]
    assert values(text, "RuntimeDirectoryPreserve") == ["restart"]
    assert values(text, "NotifyAccess") == ["main"]
    assert values(text, "LimitNOFILE") == ([] if by_user else ["65536"])
    for key in ("MemoryMax", "MemoryHigh", "TasksMax", "ExecStart"):
        assert len(values(text, key)) == 1


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("/opt/a/b-c_d.py", "/opt/a/b-c_d.py"),
        ("/opt/my app/bin", '"/opt/my app/bin"'),
        ("100%", '"100%%"'),
        ('a"b', r'"a\"b"'),
        (r"a\b", r'"a\\b"'),
        ("$HOME", '"$$HOME"'),
        ("ü", "ü"),
        (";", '";"'),
    ],
)
def test_words_of_the_command_are_quoted(word: str, line: str) -> None:
    assert quoted(word) == line


def test_variables_in_the_path_of_the_program_are_not_escaped() -> None:
    assert values(made(twistd="/opt/$x y/twistd"), "ExecStart")[0].startswith('"/opt/$x y/twistd" ')


@pytest.mark.parametrize("path", ["/a\nUser=root", "/a\x7f", "/a ", "/a\\", "/\udcff"])
@pytest.mark.parametrize("key", ["twistd", "app", "folder", "config"])
def test_path_that_no_unit_can_have_is_refused(key: str, path: str) -> None:
    with pytest.raises(ValueError, match="a unit"):
        made(**{key: path})


class TestTheSocket:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("9000", "127.0.0.1:9000"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:80", "127.0.0.1:80"),
            ("/run/push 100%.sock", "/run/push 100%%.sock"),
        ],
    )
    def test_has_the_addresses(self, text: str, value: str) -> None:
        unit = socket_unit(SOCKET, dataclasses.replace(PLAIN, listen=["8080", text]))
        assert values(unit, "ListenStream") == ["127.0.0.1:8080", value]
        assert values(unit, "FileDescriptorName") == ["http"]

    def test_has_the_usual_address_by_default(self) -> None:
        assert values(socket_unit(SOCKET, PLAIN), "ListenStream") == ["127.0.0.1:8080"]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "0",
            "127.0.0.1:70000",
            "unix:/run/x",
            "tcp:80:x=1",
            "::1:",
            "push.example:80",
            "mylocalhost:80",
        ],
    )
    def test_refuses_others(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected a port, ADDRESS:PORT or the path"):
            socket_unit(SOCKET, dataclasses.replace(PLAIN, listen=[text]))


def test_change_of_a_unit_is_recognized() -> None:
    text = made()
    assert is_unchanged(text)
    for changed in (text + "\n", text.replace("30", "60"), SERVICE, "", "x", text[:-1]):
        assert not is_unchanged(changed)
