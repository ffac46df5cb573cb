from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.web.http_headers import Headers
from twisted.web.resource import getChildForRequest

from pushserver import PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.config.loader import read
from pushserver.config.settings import Config, Source
from pushserver.config.settings import Server as ServerConfig
from pushserver.config.settings import Store as StoreConfig
from pushserver.errors import StartFailed
from pushserver.resources.live_pages import FrontResource
from pushserver.resources.root import UserPages
from pushserver.server import options as options_module
from pushserver.server.build import build, with_app
from pushserver.server.live import templates_folder
from pushserver.server.options import (
    Options,
    complete,
    configure,
    folder_of,
    load_app,
    make,
    makeService,
    with_look,
)
from pushserver.server.service import PushService
from pushserver.server.workers.crew import Crew
from pushserver.sources.engine.runner import Runner
from pushserver.sources.registry import SourceTypes
from tests.unit.fakes.web import Server, memory_reactor


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(arguments)
    return options


def test_service_escapes_the_log_in_a_locale_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", output)
    makeService(parsed("--listen", "tcp:0"))
    assert output.errors == "backslashreplace"


def test_default_listens_on_loopback() -> None:
    config = configure(parsed(), {})
    assert config == Config()
    assert config.server.listen == ["tcp:8080:interface=127.0.0.1"]


def test_listen_options_replace_the_configuration() -> None:
    options = parsed("--listen", "tcp:1", "--listen=tcp:2")
    environment = {"PUSHSERVER_SERVER_LISTEN": "tcp:3"}
    assert configure(options, environment).server.listen == ["tcp:1", "tcp:2"]
    assert configure(parsed(), environment).server.listen == ["tcp:3"]


@pytest.mark.parametrize(
    ("arguments", "listen"),
    [
        (["--port", "8081"], ["127.0.0.1:8081"]),
        (["-p", "0"], ["127.0.0.1:0"]),
        (["--host", "0.0.0.0"], ["0.0.0.0:8080"]),
        (["--host", "::1", "--port", "81"], ["[::1]:81"]),
    ],
)
def test_host_and_port_replace_the_configuration(arguments: list[str], listen: list[str]) -> None:
    environment = {"PUSHSERVER_SERVER_LISTEN": "tcp:3"}
    assert configure(parsed(*arguments), environment).server.listen == listen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "http"], "port 'http', expected a number from 0 to 65535"),
        (["--port", "-1"], "port '-1', expected a number"),
        (["--port", "65536"], "port 65536 is out of range"),
        (["--port", ""], "port '', expected a number"),
        (["--host", "http://x"], "host 'http://x', expected an IP address"),
        (["--port", "1", "--listen", "2"], "--listen excludes --host and --port"),
    ],
)
def test_impossible_port_ends_the_start_with_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(StartFailed, match=words):
        configure(parsed(*arguments), {})


def test_application_is_an_argument_or_an_option() -> None:
    assert parsed("ticker.py")["app"] == parsed("--app", "ticker.py")["app"] == "ticker.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "nonsense"),
        (["--listen"], "listen"),
        (["a:b", "rest"], "unexpected argument 'rest' after 'a:b'"),
        (["--debug=1"], "debug"),
    ],
)
def test_invalid_option_ends_the_start_with_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(StartFailed) as failed:
        parsed(*arguments)
    text = str(failed.value)
    assert words in text
    assert text.endswith("; see twistd pushserver --help")
    assert "\n" not in text


def test_help_has_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert not isinstance(ended.value, StartFailed)
    text = capsys.readouterr().out
    assert "--listen" in text
    assert "[default: 127.0.0.1]" in text
    assert "[default: ]" not in text


def test_error_in_the_file_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "push.toml"
    path.write_text("[limits]\nbody_bytes = 7\n")
    assert configure(parsed("--config", str(path)), {}).limits.body_bytes == 7
    path.write_text("[limits]\nbody_byte = 7\n")
    with pytest.raises(StartFailed, match="body_byte") as failed:
        configure(parsed("-c", str(path)), {})
    assert str(path) in str(failed.value)


def test_pipe_is_read_at_the_start_alone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b'[server]\nfront_channel = "a"\n')
    os.close(writer)
    service = make(parsed("--config", f"/dev/fd/{reader}"), {}, memory_reactor())
    load = service.live.load
    assert load is not None
    # Nothing is left in it, which would be a configuration without a key.
    with pytest.raises(StartFailed, match="a pipe cannot be read again"):
        load()
    os.close(reader)


def test_folder_in_the_place_of_the_file_is_named_at_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "push.toml"
    path.write_text('[server]\nfront_channel = "a"\n')
    load = make(parsed("--config", str(path)), {}, memory_reactor()).live.load
    assert load is not None
    path.unlink()
    path.mkdir()
    with pytest.raises(StartFailed, match=r"push\.toml: Is a directory"):
        load()


@pytest.mark.parametrize("rest", ["", "[limits]\n", "[limits]\nchannels = 7\n"])
def test_file_that_is_being_written_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    path = tmp_path / "push.toml"
    path.write_text("[limits]\nchannels = 8\n")
    load = make(parsed("--config", str(path)), {}, memory_reactor()).live.load
    assert load is not None
    assert load().limits.channels == 8

    def read_early(*arguments: Any) -> Config:
        config = read(*arguments)
        path.write_text(rest)
        return config

    monkeypatch.setattr(options_module, "read", read_early)
    with pytest.raises(StartFailed, match="the file changed while it was read"):
        load()


def test_empty_file_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "push.toml"
    path.write_text("[limits]\nchannels = 8\n")
    load = make(parsed("--config", str(path)), {}, memory_reactor()).live.load
    assert load is not None
    path.write_text("")
    with pytest.raises(StartFailed, match=r"push\.toml: the file is empty"):
        load()
    path.write_text("# nothing\n")
    assert load() == Config()
    path.unlink()
    with pytest.raises(StartFailed, match="No such file"):
        load()


def test_unreadable_file_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"nothing\.toml"):
        configure(parsed("-c", str(tmp_path / "nothing.toml")), {})
    (tmp_path / "latin.toml").write_bytes(b'x = "\xff"')
    with pytest.raises(StartFailed):
        configure(parsed("-c", str(tmp_path / "latin.toml")), {})


def test_build_neither_listens_nor_ticks_nor_opens_a_file(
    tmp_path: Path,
) -> None:
    clock = memory_reactor()
    build(Config(store=StoreConfig(path=str(tmp_path / "store"))), clock)
    assert (clock.tcpServers, clock.getDelayedCalls(), list(tmp_path.iterdir())) == ([], [], [])


@pytest.mark.parametrize("durability", ["batched", "sync"])
def test_store_has_the_configured_durability(tmp_path: Path, durability: Any) -> None:
    store = StoreConfig(path=str(tmp_path / "store"), durability=durability)
    service = build(Config(store=store), memory_reactor())
    assert service._storage is not None


def test_configured_sources_run() -> None:
    sources = {"n": Source("random", "mine", "tick", options={"every": 3.0})}
    clock = memory_reactor()
    service = build(Config(sources=sources), clock)
    service.startService()
    clock.advance(0)
    clock.advance(3)
    history: History = service.node.hub.history
    assert list(history.channels) == ["mine"]
    assert [row.event for row in history.peek("mine").last(9)] == ["tick", "tick"]
    service.stopService()


def test_invalid_source_ends_the_start_and_is_named() -> None:
    table = Source("cron", "c", options={"expression": "* *"})
    with pytest.raises(StartFailed, match=r"^pushserver: sources\.x: expression: .*five fields"):
        build(Config(sources={"x": table}), memory_reactor())


@pytest.mark.parametrize("stored", [True, False])
def test_sources_remember_in_the_store(tmp_path: Path, stored: bool) -> None:
    store = StoreConfig(path=str(tmp_path / "store")) if stored else StoreConfig()
    service = build(Config(store=store), memory_reactor())
    [runner] = service.sources
    assert isinstance(runner, Runner)
    assert (runner._environment.memory is getattr(service._storage, "memory", None)) is stored
    runner._environment.memory.set("numbers", 1)
    assert runner._environment.memory.get("numbers") == 1


def test_channels_have_the_configured_options() -> None:
    server = Server(config=Config(defaults=ChannelOptions(history_size=2)))
    for _ in range(3):
        server.publish("a")
    assert len(server.hub.history.peek("a")) == 2


class TestTheFolderOfPages:
    APP = "from pushserver import PushServer\napp = PushServer(pages={!r})\n"

    @pytest.fixture(autouse=True)
    @staticmethod
    def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "pages").mkdir()
        (tmp_path / "pages" / "index.html").touch()
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        for module in ("pushtest_pages", "pushtest_open"):
            monkeypatch.delitem(sys.modules, module, raising=False)

    @staticmethod
    def front(service: PushService) -> object:
        request: Any = SimpleNamespace(prepath=[], postpath=[b""], requestHeaders=Headers())
        return getChildForRequest(service._site.resource, request)

    def test_is_relative_to_the_current_folder_of_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pushtest_pages.py").write_text(self.APP.format("pages"))
        options = parsed("--app", "pushtest_pages:app")
        service = make(options, {}, memory_reactor(), load_app(options))
        monkeypatch.chdir("/")
        front = self.front(service)
        assert isinstance(front, UserPages)
        assert front.path == str(tmp_path / "pages" / "index.html")

    def test_is_not_needed_for_an_index_beside_the_application(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pushtest_open.py").write_text(self.APP.format(""))
        for name in ("pushtest_open:app", "pushtest_open.py"):
            options = parsed("--app", name)
            service = make(options, {}, memory_reactor(), load_app(options))
            monkeypatch.chdir("/")
            (tmp_path / "index.html").touch()
            front = self.front(service)
            assert isinstance(front, UserPages)
            assert front.path == str(tmp_path / "index.html")
            (tmp_path / "index.html").unlink()
            assert isinstance(self.front(service), FrontResource)
            monkeypatch.chdir(tmp_path)

    def test_may_be_configured_without_an_application(self, tmp_path: Path) -> None:
        variables = {"PUSHSERVER_SERVER_PAGES": "pages"}
        assert isinstance(self.front(make(parsed(), variables, memory_reactor())), UserPages)
        assert isinstance(self.front(make(parsed(), {}, memory_reactor())), FrontResource)

    def test_is_served_by_an_embedded_application(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PUSHSERVER_SERVER_PAGES", raising=False)
        service = PushServer(pages="pages").service(reactor=memory_reactor())
        assert isinstance(self.front(service), UserPages)
        with pytest.raises(StartFailed, match="no folder"):
            PushServer(pages="page").service(reactor=memory_reactor())

    def test_does_not_contain_the_embedding_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", program)
        PushServer(pages=".").service(reactor=memory_reactor())
        program.__file__ = str(tmp_path / "program.py")
        with pytest.raises(StartFailed, match=r"everybody could read .*/program\.py"):
            PushServer(pages=".").service(reactor=memory_reactor())

    @pytest.mark.parametrize("name", ["nothing", "pages/index.html"])
    def test_that_is_not_a_folder_ends_the_start_and_is_named(
        self, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(StartFailed) as failed:
            make(parsed(), {"PUSHSERVER_SERVER_PAGES": name}, memory_reactor())
        path = tmp_path / name
        assert str(failed.value) == f"pushserver: pages = {name!r}: there is no folder {path}"
        assert failed.value.missing == path

    def test_contains_neither_configuration_nor_store_nor_secrets(self, tmp_path: Path) -> None:
        (tmp_path / "pushtest_open.py").write_text(self.APP.format("."))
        (tmp_path / "push.toml").write_text("")
        config = tmp_path.parent / f"{tmp_path.name}.toml"
        config.write_text(
            '[sources.hook]\ntype = "webhook"\nchannel = "c"\n'
            'signature = "token"\nheader = "X"\nsecret_file = "secret"\n'
        )
        keys, token_keys = config.with_suffix(".keys"), config.with_suffix(".tokens")
        keys.write_text('[auth.keys.a]\nfile = "key"\n')
        token_keys.write_text('[[auth.token_keys]]\nalgorithm = "HS256"\nfile = "token-key"\n')
        for name in ("key", "token-key"):
            (tmp_path / name).write_text("a secret of thirty-two characters")
            (tmp_path / name).chmod(0o600)
        (tmp_path / "pages" / "push.toml").symlink_to(tmp_path / "push.toml")
        here, elsewhere = {"PUSHSERVER_SERVER_PAGES": "."}, {"PUSHSERVER_SERVER_PAGES": "pages"}
        for options, variables, private in (
            (["--app", "pushtest_open:app"], {}, "pushtest_open.py"),
            (["--config", "push.toml"], here, "push.toml"),
            ([], here | {"PUSHSERVER_STORE_PATH": "h.db"}, "h.db"),
            (["--config", str(config)], here, "secret"),
            (["--config", str(keys)], here, "key"),
            (["--config", str(token_keys)], here, "token-key"),
        ):
            given = parsed(*options)
            with pytest.raises(StartFailed) as failed:
                make(given, variables, memory_reactor(), load_app(given))
            assert str(failed.value) == (
                f"pushserver: pages = '.': everybody could read {tmp_path / private};"
                " take a folder with public files only"
            )
        # A link out of the folder is not followed.
        make(parsed("--config", "pages/push.toml"), elsewhere, memory_reactor())


class TestTheFolderOfTemplates:
    @pytest.mark.parametrize(
        ("server", "private", "expected"),
        [
            ({"templates": "t", "pages": "p"}, "app/a.py", "t"),
            ({"pages": "p"}, "app/a.py", "p"),
            ({}, "app/a.py", "app"),
            ({}, "a.py", ""),
        ],
    )
    def test_is_the_nearest(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        server: dict[str, Any],
        private: str,
        expected: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "t").mkdir()
        server = {name: str(tmp_path / folder) for name, folder in server.items()}
        config = with_look(Config(server=ServerConfig(**server)))
        assert templates_folder(config, folder_of(private)) == str(tmp_path / expected)

    def test_is_none_without_an_application(self) -> None:
        assert with_look(Config()) == Config()
        assert templates_folder(Config(), folder_of("")) == ""

    def test_must_exist(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StartFailed) as failed:
            with_look(Config(server=ServerConfig(templates="none")))
        path = tmp_path / "none"
        problem = f"templates = 'none': there is no folder {path}"
        assert (str(failed.value), failed.value.missing) == (f"pushserver: {problem}", path)

    @pytest.mark.parametrize("setting", ["templates", "static"])
    def test_of_the_application_counts_if_the_configuration_has_none(self, setting: str) -> None:
        settings: dict[str, Any] = {setting: Path("own")}
        app = PushServer(**settings)
        assert getattr(with_app(Config(), app).server, setting) == "own"
        settings = {setting: "t"}
        config = Config(server=ServerConfig(**settings))
        assert getattr(with_app(config, app).server, setting) == "t"

    @pytest.mark.parametrize("setting", ["templates", "static"])
    def test_of_the_command_line_counts_before_the_configuration(
        self, setting: str, tmp_path: Path
    ) -> None:
        environment = {f"PUSHSERVER_SERVER_{setting.upper()}": "none"}
        given = parsed(f"--{setting}", str(tmp_path))
        config = complete(given, environment, SourceTypes(), None)
        assert getattr(config.server, setting) == str(tmp_path)


def test_folder_of_static_files_has_nothing_private(tmp_path: Path) -> None:
    server = ServerConfig(static=str(tmp_path))
    with pytest.raises(StartFailed, match=r"static = .*: everybody could read .*secret\.toml"):
        with_look(Config(server=server), str(tmp_path / "secret.toml"))
    with pytest.raises(StartFailed, match=r"static = 'none': there is no folder"):
        with_look(Config(server=ServerConfig(static="none")))
    assert with_look(Config(server=server)).server.static == str(tmp_path)


def test_service_of_twistd_uses_the_global_reactor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PUSHSERVER_SERVER_LISTEN",):
        monkeypatch.delenv(name, raising=False)
    service: Any = makeService(parsed("--listen", "tcp:0"))
    assert service._reactor is reactor


@pytest.mark.parametrize(("arguments", "expected"), [((), False), (("--debug",), True)])
def test_debug_of_twistd_is_a_boolean_for_the_workers(
    arguments: tuple[str, ...], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(Crew, "attach", lambda crew, *rest: given.append(rest[2]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make(parsed("--workers=2", "--listen=tcp:0", *arguments), {}, memory_reactor())
    # Not 0 or 1, which a worker refuses to read.
    assert given == [expected]
    assert isinstance(given[0], bool)
