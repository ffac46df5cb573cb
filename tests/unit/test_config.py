from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channel import ChannelOptions
from pushserver.config import Auth, Config, InvalidConfig, Server, Source, Store, load
from pushserver.limits import Limits
from pushserver.service import Options, configure
from pushserver.startup import StartFailed

FILE = "/etc/pushserver.toml"


def loaded(text: str = "", **environment: str) -> Config:
    return load(text, FILE, environment)


def problem(text: str = "", **environment: str) -> str:
    with pytest.raises(InvalidConfig) as caught:
        loaded(text, **environment)
    return str(caught.value)


def test_nothing_said_is_safe() -> None:
    config = loaded()
    assert config == Config()
    assert config.server.listen == ["tcp:8080:interface=127.0.0.1"]
    assert config.server.allowed_origins == []
    assert config.auth.api_keys == []
    assert config.store.path == ""
    assert config.sources == {"numbers": Source("random", "numbers", "newnumber", 2.0)}
    assert not config.defaults.client_publish


def test_everything_can_be_said() -> None:
    config = loaded(
        """
        [server]
        listen = ["tcp:9000", "unix:/run/p"]
        allowed_origins = ["https://app.example:8443"]
        front_channel = "news"
        [limits]
        body_bytes = 5
        ping_seconds = 1.5
        [auth]
        api_keys = ["k1", "k2"]
        [store]
        path = "/var/lib/s.db"
        durability = "sync"
        commit_milliseconds = 10
        [defaults]
        history_size = 7
        [sources.s]
        type = "random"
        channel = "c:d"
        event = "tick"
        every = 3
        """
    )
    assert config == Config(
        Server(["tcp:9000", "unix:/run/p"], ["https://app.example:8443"], "news"),
        Limits(body_bytes=5, ping_seconds=1.5),
        Auth(["k1", "k2"]),
        Store("/var/lib/s.db", "sync", 10),
        ChannelOptions(history_size=7),
        sources={"s": Source("random", "c:d", "tick", 3.0)},
    )


def test_no_sources_are_said_by_an_empty_table() -> None:
    assert loaded("[sources]").sources == {}


class TestTheOptionsOfAChannel:
    TEXT = """
        [defaults]
        history_size = 1
        initial = 1
        [namespaces.chat]
        history_size = 2
        client_publish = true
        [channels."chat:lobby"]
        history_size = 3
        [channels.plain]
        history_ttl = 5
        """

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("other", ChannelOptions(history_size=1, initial=1)),
            ("chat", ChannelOptions(history_size=1, initial=1)),
            ("chat:x", ChannelOptions(history_size=2, initial=1, client_publish=True)),
            ("chat:x:y", ChannelOptions(history_size=2, initial=1, client_publish=True)),
            ("chat:lobby", ChannelOptions(history_size=3, initial=1, client_publish=True)),
            ("plain", ChannelOptions(history_size=1, initial=1, history_ttl=5)),
            ("chat2:x", ChannelOptions(history_size=1, initial=1)),
        ],
    )
    def test_are_its_own_over_its_namespace_over_the_defaults(
        self, name: str, expected: ChannelOptions
    ) -> None:
        assert loaded(self.TEXT).channel_options()(name) == expected

    def test_that_are_said_as_the_default_is_count_too(self) -> None:
        text = "[defaults]\nhistory_size = 5\n[channels.a]\nhistory_size = 300"
        assert loaded(text).channel_options()("a").history_size == 300


class TestAnErrorNamesThePlaceTheKeyAndWhatWasMeant:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("[servr]", ["servr: unknown key", "did you mean server?"]),
            ("[xyz]", ["xyz: unknown key", "expected one of server, limits"]),
            ("listen = 1", ["listen: unknown key"]),
            ("[server]\nlisten_on = []", ["server.listen_on: unknown key", "mean listen?"]),
            ("[limits]\nbody_byte = 1", ["limits.body_byte", "did you mean body_bytes?"]),
            ("[channels.a]\nhistory = 1", ["channels.a.history: unknown key", "history_"]),
            ("[namespaces.n]\nttl = 1", ["namespaces.n.ttl: unknown key"]),
            ("[sources.s]\nkind = 'x'", ["sources.s.kind: unknown key"]),
            ("[server]\nlisten = 'tcp:1'", ["server.listen: expected array, got str", "'tcp:1'"]),
            ("[server]\nlisten = [1]", ["server.listen: expected str, got int"]),
            ("[server]\nfront_channel = 'a b'", ["server.front_channel", "'a b'", "1 to 128"]),
            ("[limits]\nbody_bytes = 0", ["limits.body_bytes: expected int >= 1", "0"]),
            ("[limits]\nbody_bytes = 1.5", ["limits.body_bytes: expected int, got float"]),
            ("[limits]\nbody_bytes = true", ["limits.body_bytes: expected int, got bool"]),
            ("[limits]\nping_seconds = 0", ["limits.ping_seconds: expected float > 0"]),
            ("[limits]\nping_seconds = nan", ["limits.ping_seconds"]),
            ("[limits]\nping_seconds = '5'", ["limits.ping_seconds: expected float, got str"]),
            ("[store]\ndurability = 'fast'", ["store.durability", "batched or sync", "'fast'"]),
            ("[store]\ndurability = ['sync']", ["store.durability", "batched or sync"]),
            ("[store]\ncommit_milliseconds = 0", ["store.commit_milliseconds", ">= 1"]),
            ("[store]\ncommit_milliseconds = 99999", ["store.commit_milliseconds", "<= 10000"]),
            ("[store]\npath = 5", ["store.path: expected str, got int"]),
            ("[auth]\napi_keys = ['']", ["auth.api_keys", "length >= 1"]),
            ("[defaults]\nhistory_size = -1", ["defaults.history_size: expected int >= 0", "-1"]),
            ("[defaults]\nhistory_ttl = -0.5", ["defaults.history_ttl: expected float >= 0"]),
            ("[channels.a]\nclient_publish = 'no'", ["channels.a.client_publish", "bool"]),
            ("[channels.'a b']\ninitial = 1", ["channels.a b", "invalid channel name 'a b'"]),
            ("[namespaces.'-']\ninitial = 1", ["namespaces.-", "invalid channel name"]),
            ("[sources.s]\nchannel = 'c'", ["sources.s.type: must be set"]),
            ("[sources.s]\ntype = 'random'", ["sources.s.channel: must be set"]),
            ("[sources.s]\ntype = 'rss'\nchannel = 'c'", ["sources.s.type", "random", "'rss'"]),
            ("[sources.s]\ntype = 'random'\nchannel = '!'", ["sources.s", "invalid channel name"]),
            (
                "[sources.s]\ntype = 'random'\nchannel = 'c'\nevent = ''",
                ["sources.s.event", "1 to 128 printable"],
            ),
            ("[sources.s]\ntype = 'random'\nchannel = 'c'\nevery = 0", ["sources.s.every", "> 0"]),
            ("server = 5", ["server: expected a table", "5"]),
            ("sources = 5", ["sources: expected a table of tables", "5"]),
            ("sources.s = 5", ["sources.s: expected a table", "5"]),
            ("channels.a = []", ["channels.a: expected a table", "[]"]),
            (
                "[server]\nallowed_origins = ['app.example']",
                ["server.allowed_origins", "'app.example' is no origin", "https://"],
            ),
            ("[server]\nallowed_origins = ['https://a/b']", ["server.allowed_origins"]),
            ("[server]\nallowed_origins = ['*']", ["server.allowed_origins", "'*'"]),
            ("[server", ["Expected ']'"]),
            ("a = 1\nb = \n", ["line 2"]),
            ("[server]\nlisten = []\nlisten = []", ["Cannot overwrite"]),
        ],
    )
    def test_in_the_file(self, text: str, parts: list[str]) -> None:
        told = problem(text)
        assert told.startswith(f"{FILE}: "), told
        for part in parts:
            assert part in told, told
        assert "\n" not in told

    @pytest.mark.parametrize(
        ("variable", "value", "parts"),
        [
            ("PUSHSERVER_SERVER_LISTN", "x", ["server.listn: unknown key", "mean listen?"]),
            ("PUSHSERVER_SERVER", "x", ["unknown key"]),
            ("PUSHSERVER_LIMITS_BODY_BYTES", "many", ["expected int", "'many'"]),
            ("PUSHSERVER_LIMITS_BODY_BYTES", "0", [">= 1"]),
            ("PUSHSERVER_LIMITS_PING_SECONDS", "", ["expected float"]),
            ("PUSHSERVER_STORE_DURABILITY", "fast", ["batched or sync", "'fast'"]),
            ("PUSHSERVER_DEFAULTS_CLIENT_PUBLISH", "perhaps", ["expected bool"]),
            ("PUSHSERVER_CHANNELS_A_TTL", "1", ["unknown key", "PUSHSERVER_CHANNELS_NAME_KEY"]),
            ("PUSHSERVER_CHANNELS_A_HISTORY_SIZE", "-1", [">= 0"]),
        ],
    )
    def test_in_the_environment(self, variable: str, value: str, parts: list[str]) -> None:
        told = problem(**{variable: value})
        assert told.startswith(f"{variable}: "), told
        for part in parts:
            assert part in told, told

    def test_and_says_no_secret(self) -> None:
        assert "s3cret" not in problem("[auth]\napi_keys = 's3cret'")

    @pytest.mark.parametrize(
        "text",
        [
            "[limits]\nping_seconds = inf",
            "[limits]\nheartbeat_seconds = inf",
            "[limits]\nconnect_seconds = inf",
            "[sources.s]\ntype = 'random'\nchannel = 'c'\nevery = inf",
        ],
    )
    def test_for_a_time_that_no_clock_has(self, text: str) -> None:
        problem(text)

    @pytest.mark.parametrize("section", ["server", "channels", "sources"])
    def test_for_a_section_that_is_no_table_under_a_variable(self, section: str) -> None:
        variables = {
            "server": ("PUSHSERVER_SERVER_LISTEN", "tcp:1"),
            "channels": ("PUSHSERVER_CHANNELS_A_INITIAL", "1"),
            "sources": ("PUSHSERVER_SOURCES_A_EVERY", "1"),
        }
        variable, value = variables[section]
        assert f"{section}: expected a table" in problem(f"{section} = 5", **{variable: value})

    def test_for_a_namespace_that_no_channel_can_have(self) -> None:
        assert "namespaces.a:b" in problem("[namespaces.'a:b']\ninitial = 1")


def test_a_bound_in_a_message_keeps_it_short() -> None:
    assert len(problem(f"[server]\nlisten = '{'x' * 10_000}'")) < 300


class TestTheEnvironment:
    def test_counts_more_than_the_file(self) -> None:
        config = loaded("[limits]\nbody_bytes = 5", PUSHSERVER_LIMITS_BODY_BYTES="6")
        assert config.limits.body_bytes == 6

    def test_leaves_the_rest_of_the_file(self) -> None:
        text = "[limits]\nbody_bytes = 5\nframe_bytes = 7"
        config = loaded(text, PUSHSERVER_LIMITS_BODY_BYTES="6")
        assert config.limits.frame_bytes == 7

    @pytest.mark.parametrize(
        ("variable", "value", "expected"),
        [
            ("SERVER_LISTEN", "tcp:1 unix:/x", Config(Server(["tcp:1", "unix:/x"]))),
            ("SERVER_FRONT_CHANNEL", "42", Config(Server(front_channel="42"))),
            ("AUTH_API_KEYS", "k1\tk2", Config(auth=Auth(["k1", "k2"]))),
            ("STORE_PATH", "/x y.db", Config(store=Store("/x y.db"))),
            ("STORE_DURABILITY", "sync", Config(store=Store(durability="sync"))),
            ("LIMITS_PING_SECONDS", "1.5", Config(limits=Limits(ping_seconds=1.5))),
            (
                "DEFAULTS_CLIENT_PUBLISH",
                "true",
                Config(defaults=ChannelOptions(client_publish=True)),
            ),
            (
                "CHANNELS_CHAT:LOBBY_HISTORY_SIZE",
                "5",
                Config(channels={"chat:lobby": {"history_size": 5}}),
            ),
            (
                "NAMESPACES_MY_CHAT_INITIAL",
                "5",
                Config(namespaces={"my_chat": {"initial": 5}}),
            ),
        ],
    )
    def test_can_say_any_key(self, variable: str, value: str, expected: Config) -> None:
        assert loaded(**{f"PUSHSERVER_{variable}": value}) == expected

    def test_changes_one_option_of_a_source(self) -> None:
        text = "[sources.s]\ntype = 'random'\nchannel = 'c'"
        config = loaded(text, PUSHSERVER_SOURCES_S_EVERY="9")
        assert config.sources == {"s": Source("random", "c", every=9.0)}

    def test_may_have_what_is_not_for_us(self) -> None:
        others = {"PATH": "/bin", "PUSHSERVER_PORT": "tcp://10.0.0.1:80", "PUSHSERVER_URL": "x"}
        assert loaded(**others) == Config()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
).filter(lambda value: "None" not in str(value))
KEYS = sorted(
    f"{section.name}.{key.name}"
    for section in dataclasses.fields(Config)
    for kind in {
        "server": Server,
        "limits": Limits,
        "store": Store,
        "defaults": ChannelOptions,
    }.get(section.name, Auth).__mro__[:1]
    for key in dataclasses.fields(kind)
)


@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_is_taken_or_refused_in_one_line(key: str, value: object) -> None:
    text = f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
    told = ""
    try:
        loaded(text)
    except InvalidConfig as error:
        told = str(error)
    assert not told or told.startswith(FILE)
    assert "\n" not in told


class TestTheCommandLine:
    def options(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(arguments)
        return options

    def test_counts_more_than_the_environment(self) -> None:
        environment = {"PUSHSERVER_SERVER_LISTEN": "tcp:1"}
        config = configure(self.options("--listen", "tcp:2", "--listen", "tcp:3"), environment)
        assert config.server.listen == ["tcp:2", "tcp:3"]
        assert configure(self.options(), environment).server.listen == ["tcp:1"]

    def test_names_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "c.toml"
        path.write_text("[server]\nfront_channel = 'news'")
        config = configure(self.options("--config", str(path)), {})
        assert config.server.front_channel == "news"

    @pytest.mark.parametrize(
        "content",
        [
            None,
            b"\xff\xfe",
            b"[server]\nx = 1",
        ],
    )
    def test_ends_with_one_line_for_a_file_that_cannot_be_used(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "c.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StartFailed, match=r"^pushserver: .*c\.toml") as caught:
            configure(self.options("--config", str(path)), {})
        assert "\n" not in str(caught.value)
