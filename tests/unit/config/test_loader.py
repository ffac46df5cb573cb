from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.loader import load, read, warnings
from pushserver.config.settings import Auth, Config, Server, Source, Store
from pushserver.errors import InvalidConfig, StartFailed
from pushserver.server.options import Options, configure
from pushserver.sources.registry import BuiltIn, SourceTypes

FILE = "/etc/pushserver.toml"


@dataclasses.dataclass(frozen=True)
class KindOptions:
    """The options of a type in a plugin."""

    media_type: str = ""
    every_day: bool = False
    words: list[str] = dataclasses.field(default_factory=list)
    pair: tuple[int, int] = (1, 2)
    secret: str = ""
    b_words: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pair[0] > self.pair[1]:
            raise ValueError(f"pair: {self.pair} decreases")


class Kind:
    """A type in a plugin."""

    options: type = KindOptions

    def make(self, options: KindOptions) -> object:
        if options.pair[0] == 0:
            raise ValueError("pair: not from 0")
        return self


def loaded(text: str = "", **environment: str) -> Config:
    return load(text, FILE, environment, SourceTypes())


def problem(text: str = "", **environment: str) -> str:
    with pytest.raises(InvalidConfig) as caught:
        loaded(text, **environment)
    return str(caught.value)


def test_defaults_are_safe() -> None:
    config = loaded()
    assert config == Config()
    assert config.server.listen == ["tcp:8080:interface=127.0.0.1"]
    assert config.server.allowed_origins == []
    assert config.auth.api_keys == []
    assert config.store.path == ""
    numbers = Source("random", "numbers", "newnumber", options={"every": 2.0})
    assert config.sources == {"numbers": numbers}
    assert not config.defaults.client_publish


def test_every_section_can_be_set() -> None:
    config = loaded(
        """
        [server]
        listen = ["tcp:9000", "unix:/run/p"]
        allowed_origins = ["https://app.example:8443"]
        names = ["push.example", "10.0.0.1", "[fd00::1]"]
        front_channel = "news"
        pages = "/srv/pages"
        [limits]
        body_bytes = 5
        ping_seconds = 1.5
        [auth]
        api_keys = ["k1", "k2"]
        local_without_key = true
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
        Server(
            ["tcp:9000", "unix:/run/p"],
            ["https://app.example:8443"],
            ["push.example", "10.0.0.1", "[fd00::1]"],
            "news",
            "/srv/pages",
        ),
        Limits(body_bytes=5, ping_seconds=1.5),
        Auth(["k1", "k2"], True),
        Store("/var/lib/s.db", "sync", 10),
        ChannelOptions(history_size=7),
        sources={"s": Source("random", "c:d", "tick", options={"every": 3.0})},
    )


def test_empty_table_means_no_sources() -> None:
    assert loaded("[sources]").sources == {}


class TestOptionsOfAChannel:
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
    def test_channel_has_precedence_over_namespace_over_defaults(
        self, name: str, expected: ChannelOptions
    ) -> None:
        assert loaded(self.TEXT).channel_options()(name) == expected

    def test_option_equal_to_the_builtin_default_has_precedence(self) -> None:
        text = "[defaults]\nhistory_size = 5\n[channels.a]\nhistory_size = 300"
        assert loaded(text).channel_options()("a").history_size == 300


class TestError:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("[servr]", ["servr: unknown key", "did you mean server?"]),
            ("[server]\napi_keys = []", ["server.api_keys: unknown key; it belongs to [auth]"]),
            (
                "history_size = 5",
                [
                    f"{FILE}: history_size: ",
                    "to [defaults] or [namespaces.NAME] or [channels.NAME]",
                ],
            ),
            ("[auth]\npath = 'x'", ["auth.path: unknown key; it belongs to [store] or [socketio]"]),
            ("[sources.s]\ntype = 'rss'", ["there is no type 'rss'; did you mean feed?"]),
            ("[sources.s]\ntyp = 'feed'", ["sources.s.typ: unknown key; did you mean type?"]),
            (
                "[sources.s]\ntype = 'random'\ninterval = 3",
                ["sources.s.interval: unknown key; did you mean every?"],
            ),
            ("[xyz]", ["xyz: unknown key", "expected one of server, limits"]),
            ("listen = 1", ["listen: unknown key"]),
            ("[server]\nlisten_on = []", ["server.listen_on: unknown key", "mean listen?"]),
            ("[server]\nport = 8081", ["server.port: unknown key; did you mean listen?"]),
            ("[server]\nhost = ''", ["server.host: unknown key; did you mean listen?"]),
            ("[server]\ncors = []", ["server.cors: unknown key; did you mean allowed_origins?"]),
            ("[store]\nfile = 'a.db'", ["store.file: unknown key; did you mean path?"]),
            ("[limits]\nport = 1", ["limits.port: unknown key; expected one of "]),
            ("[limits]\nbody_byte = 1", ["limits.body_byte", "did you mean body_bytes?"]),
            ("[channels.a]\nhistory_siz = 1", ["channels.a.history_siz: unknown key", "history_"]),
            ("[channels.a]\npublish = 1", ["channels.a.publish", "anyone"]),
            ("[channels.a]\npublish = 'all'", ["channels.a.publish", "anyone"]),
            ("[namespaces.n]\nttl = 1", ["namespaces.n.ttl: unknown key"]),
            ("[sources.s]\nkind = 'x'", ["sources.s.type: must be set"]),
            ("[sources.s]\ntype = 5", ["sources.s.type: expected a text, got a whole number"]),
            ("[sources.s]\ntype = []", ["sources.s.type: expected a text, got a list"]),
            (
                "[sources.s]\ntype = 'random'\nchannel = 'c'\nevry = 1",
                ["sources.s.evry: unknown key; did you mean every?"],
            ),
            (
                "[sources.s]\ntype = 'random'\nchannel = 'c'\nexpression = ''",
                ["sources.s.expression: unknown key; expected one of type, channel, ", "every"],
            ),
            ("[sources.s]\ntype = 'random'\nchannel = 'c'\noptions = 5", ["unknown key"]),
            (
                "[sources.s]\ntype = 'cron'\nchannel = 'c'",
                ["sources.s.expression: must be set"],
            ),
            (
                "[sources.s]\ntype = 'cron'\nchannel = 'c'\nexpression = '* *'",
                ["sources.s: expression: '* *'", "five fields"],
            ),
            (
                "[sources.s]\ntype = 'random'\nchannel = 'c'\nmax_rate = 0",
                ["sources.s.max_rate: expected a number > 0"],
            ),
            (
                "[sources.s]\ntype = 'random'\nchannel = 'c'\non_demand = 1",
                ["sources.s.on_demand: expected true or false, got a whole number"],
            ),
            (
                "[sources.s]\ntype = 'random'\nchannel = 'c'\nlinger_seconds = -1",
                ["sources.s.linger_seconds: expected a number >= 0"],
            ),
            (
                "[sources.s]\ntype = 'random'\nchannel = 'c'\nretry_seconds = 100",
                ["sources.s: retry_max_seconds: expected retry_seconds (100) or more, value 60"],
            ),
            (
                "[server]\nlisten = 'tcp:1'",
                ['server.listen: expected a list, such as ["..."], got a text', "'tcp:1'"],
            ),
            (
                "[server]\nlisten = [1]",
                ["server.listen: item 1: expected a text, got a whole number"],
            ),
            ("[socketio]\nchannel = 'a b'", ["socketio.channel", "'a b'", "1 to 128"]),
            ("[socketio]\npath = '/io/'", ["socketio.path", "'/io/'"]),
            ("[socketio]\npath = '..'", ["socketio.path", "'..'"]),
            ("[server]\nfront_channel = 'a b'", ["server.front_channel", "'a b'", "1 to 128"]),
            ("[server]\npages = ['a']", ["server.pages: expected a text, got a list"]),
            ("[limits]\nbody_bytes = 0", ["limits.body_bytes: expected a whole number >= 1", "0"]),
            (
                "[limits]\nbody_bytes = 1.5",
                ["limits.body_bytes: expected a whole number, got a number"],
            ),
            (
                "[limits]\nbody_bytes = true",
                ["limits.body_bytes: expected a whole number, got true or false"],
            ),
            ("[limits]\nping_seconds = 0", ["limits.ping_seconds: expected a number > 0"]),
            ("[limits]\nping_seconds = nan", ["limits.ping_seconds"]),
            (
                "[limits]\nping_seconds = '5'",
                ["limits.ping_seconds: expected a number, got a text"],
            ),
            ("[store]\ndurability = 'fast'", ["store.durability", "batched or sync", "'fast'"]),
            ("[store]\ndurability = ['sync']", ["store.durability", "batched or sync"]),
            ("[store]\nmode = 'u+rw'", ["store.mode"]),
            ("[store]\nmode = '400'", ["store.mode"]),
            ("[store]\nmode = 0o640", ["store.mode"]),
            ("[store]\ncommit_milliseconds = 0", ["store.commit_milliseconds", ">= 1"]),
            ("[store]\ncommit_milliseconds = 99999", ["store.commit_milliseconds", "<= 10000"]),
            ("[store]\npath = 5", ["store.path: expected a text, got a whole number"]),
            ("[auth]\napi_keys = ['']", ["auth.api_keys", "length >= 1"]),
            ("[auth]\napi_keys = [' ']", ["auth.api_keys", "key 1 cannot be sent"]),
            ('[auth]\napi_keys = ["k", "k\\n"]', ["auth.api_keys", "key 2 cannot be sent"]),
            ('[auth]\napi_keys = ["\\tk"]', ["auth.api_keys", "key 1 cannot be sent"]),
            ('[auth]\napi_keys = ["\\u00a0"]', ["auth.api_keys", "key 1 cannot be sent"]),
            ('[auth]\napi_keys = ["k\\r\\nx"]', ["auth.api_keys", "key 1 cannot be sent"]),
            ('[auth]\napi_keys = ["k\\u0000x"]', ["auth.api_keys", "key 1 cannot be sent"]),
            (
                "[defaults]\nhistory_size = -1",
                ["defaults.history_size: expected a whole number >= 0", "-1"],
            ),
            ("[defaults]\nhistory_ttl = -0.5", ["defaults.history_ttl: expected a number >= 0"]),
            ("[channels.a]\nclient_publish = 'no'", ["channels.a.client_publish", "true or false"]),
            (
                "[namespaces.chat]\nsubscribe = 'user'",
                ["namespaces.chat.subscribe: expected anyone or users or", "got 'user'"],
            ),
            (
                "[auth]\ntoken_algorithms = ['RS256', 'rs256']",
                ["auth.token_algorithms: expected HS256 or RS256 or", "got 'rs256'"],
            ),
            ("[auth]\ntoken_cookie = 'a b'", ["auth.token_cookie: 'a b'", "name of a cookie"]),
            ("[auth]\ntoken_cookie = 'a;'", ["auth.token_cookie: 'a;'", "name of a cookie"]),
            (
                "[namespaces.'$team']\npublish = 'nobody'",
                ["namespaces.$team: private channels", "expected 'team'"],
            ),
            (
                "[namespaces.'chat:']\ninitial = 1",
                ["namespaces.chat:: a namespace is the part before the first colon", "'chat'"],
            ),
            ("[channels.'a b']\ninitial = 1", ["channels.a b", "invalid channel name 'a b'"]),
            ("[namespaces.'-']\ninitial = 1", ["namespaces.-", "invalid channel name"]),
            ("[sources.s]\nchannel = 'c'", ["sources.s.type: must be set"]),
            ("[sources.s]\ntype = 'random'", ["sources.s.channel: must be set"]),
            (
                "[sources.s]\ntype = 'xyz'\nchannel = 'c'",
                ["sources.s.type: there is no type 'xyz'; expected one of command, cron", "random"],
            ),
            (
                "[sources.s]\ntype = 'randon'\nchannel = 'c'",
                ["there is no type 'randon'; did you mean random?"],
            ),
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
            (
                "[server]\ntrusted_proxies = ['unix', '10.0.0.1/8']",
                ["server.trusted_proxies", "'10.0.0.1/8'", "bits of a host", "10.0.0.0/8"],
            ),
            ("[server]\ntrusted_proxies = ['nginx']", ["server.trusted_proxies", "'nginx'"]),
            (
                "[server]\nallowed_origins = ['*']",
                [
                    "server.allowed_origins",
                    "'*' would allow every page",
                    "name each origin, such as",
                ],
            ),
            (
                "[server]\nallowed_origins = ['https://app.*']",
                ["server.allowed_origins", "a * stands for the first label", "https://*."],
            ),
            (
                "[server]\nallowed_origins = ['http://localhost:8099/']",
                [
                    "'http://localhost:8099/' is no",
                    "expected http://localhost:8099, without a slash",
                ],
            ),
            ("[server", ["Expected ']'"]),
            ("a = 1\nb = \n", ["line 2"]),
            ("[server]\nlisten = []\nlisten = []\n", ["Cannot overwrite", "line 3, ", ": listen"]),
            ("[channels.my numbers]", ["line 1, ", ": [channels.my numbers]", "needs quotes"]),
            ("[channels.chat:*]", ["line 1, ", ": [channels.chat:*]; a name ", "needs quotes"]),
            ("[channels.\u00e9]", ["line 1, ", "needs quotes"]),
            ("[channels]\nchat:x = {}", ["line 2, ", "needs quotes"]),
            ("$x = 1", ["line 1, ", "needs quotes"]),
            ("[namespaces.chat:*]", ["line 1, ", "as in [namespaces.chat]"]),
            ("[store]\npath = history.db", ["line 2, ", ": path; a text needs quotes"]),
            ("[server]\nlisten = 80x  # port", ["line 2, ", ": listen; a text needs quotes"]),
            ("[auth]\nclosed = True", ["line 2, ", "true or false, in lower case"]),
            ('# c\n\n{"server": {}}', ["line 3, ", "this is no TOML"]),
            ("server:\n  listen: 8080", ["line 1, ", "this is no TOML"]),
            ("from pushserver import PushServer", ["line 1, ", "this is no TOML"]),
            (
                "[channels.chat.lobby]\nsubscribe = 'users'",
                ["channels.chat.lobby: a name with a dot needs quotes", '[channels."chat.lobby"]'],
            ),
            ("[channels.'chat:*']", ["channels.chat:*: expected [namespaces.chat] for all"]),
            ("[channels]\ninitial = 5", ["channels.initial: expected a table, such as [channels."]),
            ("[sources]\ntype = 'random'", ["expected a table, such as [sources.NAME]"]),
            (
                "[auth.token_keys]\nx = 1",
                ["expected a list of tables, [[auth.token_keys]], got a table"],
            ),
            ("[server]\nlisten = [99999]", ["server.listen: item 1: expected a text", "99999"]),
            ("[log]\nlevel = 'warning'", ["got 'warning'; did you mean warn?"]),
            ("[defaults]\nsubscribe = 'user'", ["got 'user'; did you mean users?"]),
            ("[defaults]\npublish = true", ["or nobody, got true"]),
            ("\n[auth]\napi_keys = [secret]", ["line 3, ", ": api_keys"]),
        ],
    )
    def test_in_the_file_names_file_key_and_expectation(self, text: str, parts: list[str]) -> None:
        message = problem(text)
        assert message.startswith(f"{FILE}: "), message
        for part in parts:
            assert part in message, message
        assert "\n" not in message

    @pytest.mark.parametrize(
        "text",
        ["[auth]\napi_keys = [secret, 'b']", 'a = """\nsecret==\n""" x', "a = [\n'secret=1' x"],
    )
    def test_in_the_syntax_never_shows_a_value(self, text: str) -> None:
        assert "secret" not in problem(text)

    @pytest.mark.parametrize(
        ("variable", "value", "parts"),
        [
            ("PUSHSERVER_SERVER_LISTN", "x", ["server.listn: unknown key", "mean listen?"]),
            ("PUSHSERVER_SERVER", "x", ["unknown key"]),
            ("PUSHSERVER_LIMITS_BODY_BYTES", "many", ["expected a whole number", "'many'"]),
            ("PUSHSERVER_LIMITS_BODY_BYTES", "0", [">= 1"]),
            ("PUSHSERVER_LIMITS_PING_SECONDS", "", ["expected a number"]),
            ("PUSHSERVER_STORE_DURABILITY", "fast", ["batched or sync", "'fast'"]),
            ("PUSHSERVER_DEFAULTS_CLIENT_PUBLISH", "perhaps", ["expected true or false"]),
            ("PUSHSERVER_CHANNELS_A_TTL", "1", ["unknown key", "PUSHSERVER_CHANNELS_NAME_KEY"]),
            ("PUSHSERVER_CHANNELS_A_HISTORY_SIZE", "-1", [">= 0"]),
            ("PUSHSERVER_SOURCES_A_EVRY", "1", ["unknown key", "PUSHSERVER_SOURCES_NAME_KEY"]),
            (
                "PUSHSERVER_SOURCES_A_EVERY",
                "1",
                ["sources.a has no type", "set PUSHSERVER_SOURCES_A_TYPE too"],
            ),
            (
                "PUSHSERVER_SOURCES_DOOR_BELL_MAX_LINE_BYTES",
                "1",
                ["sources.door_bell has no type", "set PUSHSERVER_SOURCES_DOOR_BELL_TYPE too"],
            ),
            ("PUSHSERVER_SERVER_ALLOWED_ORIGINS", "*", ["'*' would allow every page"]),
            ("PUSHSERVER_SERVER_FRONT_CHANNEL", "a b", ["invalid channel name 'a b'"]),
            ("PUSHSERVER_SOURCES_TYPE", "random", ["unknown key", "SOURCES_NAME_KEY"]),
            ("PUSHSERVER_SOURCES_A_TYPE", "rss", ["there is no type 'rss'"]),
        ],
    )
    def test_in_the_environment_names_variable_and_expectation(
        self, variable: str, value: str, parts: list[str]
    ) -> None:
        message = problem(**{variable: value})
        assert message.startswith(f"{variable}: "), message
        for part in parts:
            assert part in message, message

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("CHANNEL", "a b", "PUSHSERVER_SOURCES_S_CHANNEL: invalid channel name 'a b'"),
            ("EVENT", "", "PUSHSERVER_SOURCES_S_EVENT: "),
            ("RETRY_SECONDS", "99", "(PUSHSERVER_SOURCES_S_RETRY_SECONDS is set)"),
            ("EXPRESSION", "* *", "(PUSHSERVER_SOURCES_S_EXPRESSION is set)"),
        ],
    )
    def test_in_a_check_of_values_names_the_variable(
        self, key: str, value: str, message: str
    ) -> None:
        text = "[sources.s]\ntype = 'cron'\nchannel = 'c'\nexpression = '* * * * *'"
        assert message in problem(text, **{f"PUSHSERVER_SOURCES_S_{key}": value})

    def test_in_the_file_names_no_unrelated_variable(self) -> None:
        text = "[sources.s]\ntype = 'cron'\nchannel = 'c'\nexpression = '* *'"
        assert "PUSHSERVER" not in problem(text, PUSHSERVER_SERVER_LISTEN="x")

    def test_for_a_missing_key_names_the_variables_of_the_table(self) -> None:
        a_channel = "PUSHSERVER_SOURCES_A_CHANNEL"
        message = problem(**{a_channel: "c"})
        kinds = ", ".join(SourceTypes())
        set_to = f"must be set to one of {kinds}"
        assert message == f"{FILE}: sources.a.type: {set_to} ({a_channel} is set)"
        message = problem("[sources.a]\nchannel = 'c'", PUSHSERVER_SOURCES_A_EVERY="1")
        assert message.startswith("PUSHSERVER_SOURCES_A_EVERY: sources.a has no type")

    @pytest.mark.parametrize(
        "text",
        [
            "[auth]\napi_keys = 's3cret'",
            "[sources.s]\ntype = 'kind'\nchannel = 'c'\nsecret = ['s3cret']",
            "[sources.s]\ntype = 'kind'\nchannel = 'c'\nheaders = {A = ['s3cret']}",
        ],
    )
    def test_does_not_contain_a_secret(self, text: str) -> None:
        with pytest.raises(InvalidConfig) as caught:
            load(text, FILE, {}, {"kind": Kind()})
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("auth = 's3cret'", "auth: expected a table, got a text"),
            ("auth = ['s3cret']", "auth: expected a table, got a list"),
            ("auth = {s3 = 's3cret'}", "auth.s3: unknown key"),
            (
                "sources = 's3cret'",
                "sources: expected a table of tables, [sources.NAME], got a text",
            ),
            (
                "sources.s = [{secret = 's3cret'}]",
                "sources.s: expected a table, such as [sources.NAME], got a list",
            ),
            ("store = 's3cret'", "store: expected a table, got a text"),
            ("server = {listen = {a = 's3cret'}}", "value a table"),
            (
                "server = {allowed_origins = ['https://me:s3cret@app.example']}",
                "server.allowed_origins: '...@app.example' has a user before an @",
            ),
            ("server = {names = ['me:s3cret@app.example']}", "'...@app.example' is no host name"),
            ("limits = {body_bytes = 'https://me:s3cret@a'}", "value '...@a'"),
            ("limits = {body_bytes = 'https://a/?token=s3cret'}", "value 'https://a/...'"),
            ("store = {durability = 'https://me:s3cret@a'}", "got '...@a'"),
        ],
    )
    def test_names_the_key_and_the_host_and_no_secret(self, text: str, message: str) -> None:
        shown = problem(text)
        assert message in shown
        assert "s3cret" not in shown

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            (
                "environment = {PASSWORD = 's3cret', N = 5}",
                "environment.N: expected a text, got a whole number",
            ),
            ("environment = {N = ['s3cret']}", "environment.N: expected a text, got"),
            ("environment = 'PASSWORD=s3cret'", "environment: expected"),
            ("environment = {'A=s3cret' = ''}", "environment: 'A=' is not the name"),
            ("command = ['mysql', '-ps3cret', 5]", "command: item 3: expected"),
            ("command = ['', '-ps3cret']", "command: expected a program, got an empty first word"),
            ('command = "mysql -ps3cret \'a"', "command: No closing quotation"),
        ],
    )
    def test_of_a_command_has_no_secret(self, keys: str, message: str) -> None:
        command = "" if "command =" in keys else "command = 'a'\n"
        shown = problem(f"[sources.s]\ntype = 'command'\nchannel = 'c'\n{command}{keys}")
        assert f"sources.s.{message}" in shown or f"sources.s: {message}" in shown
        assert "s3cret" not in shown

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ("url = 'https://me:s3cret@example.org:x/a'", "url: '...@example.org:x/...', expected"),
            ("url = 'ftp://me:s3cret@example.org'", "url: '...@example.org', expected a URL"),
            ("url = 'https://me:s3/cret@example.org:0'", "url: '...@example.org:0', expected"),
            ("url = 'https://me:s3cret@example.org'", "url: has a user name before an @"),
            ("url = 'https://exämple.org/s3cret?k=s3cret'", "url: 'https://exämple.org/...',"),
            ("url = 'me:s3cret@example.org'", "url: '...@example.org', expected"),
            ("url = ['https://me:s3cret@example.org']", "value a list"),
            ("url = 'http://a'\nheaders = {'X-Key: s3cret' = ''}", "headers: 'X-Key...' cannot"),
            ("url = 'http://a'\nheaders = {X-Key = ['s3cret']}", "headers.X-Key: expected a text"),
            (
                "url = 'http://a'\nheaders = 'X-Key: s3cret'",
                "headers: expected a table, got a text",
            ),
        ],
    )
    @pytest.mark.parametrize("kind", ["poll", "sse"])
    def test_of_a_url_names_the_host(self, kind: str, keys: str, message: str) -> None:
        shown = problem(f"[sources.s]\ntype = '{kind}'\nchannel = 'c'\n{keys}")
        assert message in shown
        assert "s3cret" not in shown.replace("s3/cret", "s3cret")

    @pytest.mark.parametrize("key", ["header", "id_header"])
    def test_of_a_webhook_has_no_secret(self, key: str) -> None:
        text = f"secret = 'x'\nsignature = 'plain'\nheader = 'A'\n{key} = 'X-Key: s3cret'"
        text = text.replace("header = 'A'\nheader", "header")
        shown = problem(f"[sources.s]\ntype = 'webhook'\nchannel = 'c'\n{text}")
        assert f"{key}: 'X-Key...', expected the name of a header" in shown

    def test_in_the_environment_has_no_secret(self) -> None:
        table = "[sources.s]\ntype = 'command'\nchannel = 'c'\ncommand = 'a'\n"
        assert "s3cret" not in problem(table, PUSHSERVER_SOURCES_S_ENVIRONMENT="A=s3cret")
        assert "s3cret" not in problem("auth = 's3cret'", PUSHSERVER_AUTH_API_KEYS="k")
        assert "s3cret" not in problem(
            "[sources.s]\ntype = 'poll'\nchannel = 'c'",
            PUSHSERVER_SOURCES_S_URL="htps://me:s3cret@example.org",
        )

    def test_has_the_message_of_the_options_of_a_type(self) -> None:
        text = "[sources.s]\ntype = 'kind'\nchannel = 'c'\npair = "
        for pair, message in (("[2, 1]", "pair: (2, 1) decreases"), ("[0, 1]", "pair: not from 0")):
            with pytest.raises(InvalidConfig) as caught:
                load(text + pair, FILE, {}, {"kind": Kind()})
            assert str(caught.value) == f"{FILE}: sources.s: {message}"

    @pytest.mark.parametrize(
        "text",
        [
            "[limits]\nping_seconds = inf",
            "[limits]\nheartbeat_seconds = inf",
            "[limits]\nconnect_seconds = inf",
            "[sources.s]\ntype = 'random'\nchannel = 'c'\nevery = inf",
        ],
    )
    def test_for_an_infinite_time(self, text: str) -> None:
        problem(text)

    @pytest.mark.parametrize("section", ["server", "channels", "sources"])
    def test_for_a_section_that_is_no_table_with_a_variable(self, section: str) -> None:
        variables = {
            "server": ("PUSHSERVER_SERVER_LISTEN", "tcp:1"),
            "channels": ("PUSHSERVER_CHANNELS_A_INITIAL", "1"),
            "sources": ("PUSHSERVER_SOURCES_A_EVERY", "1"),
        }
        variable, value = variables[section]
        assert f"{section}: expected a table" in problem(f"{section} = 5", **{variable: value})

    def test_for_a_namespace_with_a_colon(self) -> None:
        assert "namespaces.a:b" in problem("[namespaces.'a:b']\ninitial = 1")


def test_error_with_a_long_value_is_short() -> None:
    assert len(problem(f"[server]\nlisten = '{'x' * 10_000}'")) < 300


class TestEnvironment:
    def test_has_precedence_over_the_file(self) -> None:
        config = loaded("[limits]\nbody_bytes = 5", PUSHSERVER_LIMITS_BODY_BYTES="6")
        assert config.limits.body_bytes == 6

    def test_keeps_other_keys_of_the_file(self) -> None:
        text = "[limits]\nbody_bytes = 5\nframe_bytes = 7"
        config = loaded(text, PUSHSERVER_LIMITS_BODY_BYTES="6")
        assert config.limits.frame_bytes == 7

    @pytest.mark.parametrize(
        ("variable", "value", "expected"),
        [
            ("SERVER_LISTEN", "tcp:1 unix:/x", Config(Server(["tcp:1", "unix:/x"]))),
            ("SERVER_FRONT_CHANNEL", "42", Config(Server(front_channel="42"))),
            ("SERVER_PAGES", "my pages", Config(Server(pages="my pages"))),
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
    def test_can_set_any_key(self, variable: str, value: str, expected: Config) -> None:
        assert loaded(**{f"PUSHSERVER_{variable}": value}) == expected

    def test_can_set_one_option_of_a_source(self) -> None:
        text = "[sources.s]\ntype = 'random'\nchannel = 'c'"
        config = loaded(text, PUSHSERVER_SOURCES_S_EVERY="9", PUSHSERVER_SOURCES_S_MAX_RATE="5")
        assert config.sources == {"s": Source("random", "c", max_rate=5.0, options={"every": 9.0})}

    def test_error_in_a_key_of_a_source_names_the_variable(self) -> None:
        text = "[sources.s]\ntype = 'random'\nchannel = 'c'"
        message = problem(text, PUSHSERVER_SOURCES_S_EVRY="9")
        assert (
            message == "PUSHSERVER_SOURCES_S_EVRY: sources.s.evry: unknown key; did you mean every?"
        )
        message = problem(text, PUSHSERVER_SOURCES_S_EVERY="often")
        assert message.startswith("PUSHSERVER_SOURCES_S_EVERY: expected a number")

    def test_can_declare_sources_with_the_same_prefix(self) -> None:
        variables = {
            "A_TYPE": "kind",
            "A_CHANNEL": "c1",
            "A_MEDIA_TYPE": "a/b",
            "Z_TYPE": "random",
            "Z_CHANNEL": "c3",
            "Z_EVERY": "1",
            "A_B_TYPE": "kind",
            "A_B_CHANNEL": "c2",
            "A_B_MEDIA_TYPE": "text/plain",
            "A_B_EVERY_DAY": "true",
            "A_B_WORDS": "x y",
            "A_B_PAIR": "1 2",
            "A_B_LINGER_SECONDS": "0",
        }
        environment = {f"PUSHSERVER_SOURCES_{name}": value for name, value in variables.items()}
        types = {"random": SourceTypes()["random"], "kind": Kind()}
        options = {
            "media_type": "text/plain",
            "every_day": True,
            "words": ["x", "y"],
            "pair": (1, 2),
        }
        assert load("", FILE, environment, types).sources == {
            "a": Source("kind", "c1", options={"media_type": "a/b"}),
            "z": Source("random", "c3", options={"every": 1.0}),
            "a_b": Source("kind", "c2", linger_seconds=0.0, options=options),
        }

    def test_source_with_a_missing_library_names_its_extra(self) -> None:
        types = {"x": BuiltIn("x", "no_such_module.X", "ex")}
        environment = {"PUSHSERVER_SOURCES_S_TYPE": "x", "PUSHSERVER_SOURCES_S_URL": "y"}
        with pytest.raises(InvalidConfig, match=r"pip install 'pushserver\[ex\]'"):
            load("", FILE, environment, types)

    def test_unrelated_variables_are_ignored(self) -> None:
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
def test_any_value_is_accepted_or_refused_in_one_line(key: str, value: object) -> None:
    text = f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
    message = ""
    try:
        loaded(text)
    except InvalidConfig as error:
        message = str(error)
    assert not message or message.startswith(FILE)
    assert "\n" not in message


class TestCommandLine:
    def options(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(arguments)
        return options

    def test_has_precedence_over_the_environment(self) -> None:
        environment = {"PUSHSERVER_SERVER_LISTEN": "tcp:1"}
        config = configure(self.options("--listen", "tcp:2", "--listen", "tcp:3"), environment)
        assert config.server.listen == ["tcp:2", "tcp:3"]
        assert configure(self.options(), environment).server.listen == ["tcp:1"]

    def test_can_name_a_file(self, tmp_path: Path) -> None:
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
    def test_unusable_file_ends_the_start_with_one_line(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "c.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StartFailed, match=r"^pushserver: .*c\.toml") as caught:
            configure(self.options("--config", str(path)), {})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [
        ("# café\n".encode("latin-1"), 1, "0xe9"),
        (b'[log]\nlevel = "info"\n# \x80 5', 3, "0x80"),
        ("[log]".encode("utf-16"), 1, "0xff"),
    ],
)
def test_file_in_another_encoding_is_refused_with_its_line(
    tmp_path: Path, content: bytes, line: int, byte: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        read(str(file), {}, SourceTypes())
    assert str(caught.value).endswith(f"c.toml: line {line}: expected UTF-8, got the byte {byte}")


def test_file_may_begin_with_the_mark_of_an_editor_of_windows(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b'\xef\xbb\xbf[log]\r\nlevel = "warn"\r\n')
    assert read(str(file), {}, SourceTypes()).log.level == "warn"


def test_file_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[sources.s]\ntype = "random"\nchannel = "c"\nevent = "größer"\n', "utf-8")
    program = (
        "from pushserver.config.loader import read; from pushserver.sources.registry import"
        f" SourceTypes; print(ascii(read({str(file)!r}, {{}}, SourceTypes()).sources['s'].event))"
    )
    printed = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert printed.stdout.strip() == ascii("größer")


class TestVariablesThatSetNothing:
    """A misspelt variable is told, with the nearest known one."""

    def lines(self, *foreign: str, **environment: str) -> list[str]:
        config = Config(server=Server(foreign_variables=list(foreign)))
        return list(warnings(environment, SourceTypes(), config))

    @pytest.mark.parametrize(
        ("variable", "near"),
        [
            ("PUSHSERVER_LISTEN", "PUSHSERVER_SERVER_LISTEN"),
            ("PUSHSERVER_API_KEYS", "PUSHSERVER_AUTH_API_KEYS"),
            ("PUSHSERVER_LIMIT_BODY_BYTES", "PUSHSERVER_LIMITS_BODY_BYTES"),
            ("PUSHSERVER_STOR_PATH", "PUSHSERVER_STORE_PATH"),
            ("PUSHSERVER_PORT", "PUSHSERVER_SERVER_LISTEN"),
            ("PUSHSERVER_HOST", "PUSHSERVER_SERVER_LISTEN"),
            ("PUSHSERVER_HISTORY_SIZE", "PUSHSERVER_DEFAULTS_HISTORY_SIZE"),
            ("PUSHSEVER_STORE_PATH", "PUSHSERVER_STORE_PATH"),
            ("PUSH_SERVER_SERVER_LISTEN", "PUSHSERVER_SERVER_LISTEN"),
            ("pushserver_store_path", "PUSHSERVER_STORE_PATH"),
        ],
    )
    def test_have_a_neighbour(self, variable: str, near: str) -> None:
        [line] = self.lines(**{variable: "1"})
        assert line.startswith(f"{variable} is no setting, did you mean ")
        assert near in line

    @pytest.mark.parametrize("variable", ["PUSHSERVER_ZZZZ", "PUSHSERVER_", "PUSHSERVER__"])
    def test_without_a_neighbour_are_told_how_to_be_listed(self, variable: str) -> None:
        [line] = self.lines(**{variable: "1"})
        assert line.endswith(
            "expected PUSHSERVER_SECTION_KEY, or list it in [server] foreign_variables"
        )
        assert self.lines(variable, **{variable: "1"}) == []

    def test_of_other_programs_and_container_hosts_are_left_out(self) -> None:
        others = {
            "PATH": "/bin",
            "PUSHSERVERS": "1",
            "PUSHGATEWAY_STORE_PATH": "/a",
            "PUSHER_KEY": "k",
            "PUSHSERVER_URL": "http://localhost",
            "PUSHSERVER_KEY": "k",
            "PUSHSERVER_SHORTCUTS": "on",
            "PUSHSERVER_SERVICE_HOST": "10.0.0.1",
            "PUSHSERVER_SERVICE_PORT": "80",
            "PUSHSERVER_SERVICE_PORT_HTTP": "80",
            "PUSHSERVER_PORT": "tcp://10.0.0.1:80",
            "PUSHSERVER_PORT_80_TCP": "tcp://10.0.0.1:80",
            "PUSHSERVER_PORT_80_TCP_ADDR": "10.0.0.1",
            "PUSHSERVER_LIMITS_BODY_BYTES": "9",
            "PUSHSERVER_CHANNELS_A_HISTORY_SIZE": "9",
            "PUSHSERVER_SOURCES_A_EVERY": "9",
        }
        assert self.lines(**others) == []
