"""The table `[broker]`, and the settings that exclude it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pushserver import PushServer
from pushserver.cli import main
from pushserver.config.loader import load
from pushserver.config.settings import Broker, Config
from pushserver.errors import InvalidConfig, StartFailed
from pushserver.server import broker_parts
from pushserver.server.options import Options, complete, configure, make
from pushserver.sources.registry import SourceTypes
from tests.e2e.certificate import certificate
from tests.unit.fakes.web import memory_reactor

URL = "redis://me:secret@h/1"
TWO = 'url = ["redis://a", "redis://b"]\n'


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(arguments)
    return options


def loaded(text: str, **environment: str) -> Config:
    return load(text, "f", environment, SourceTypes())


def test_url_may_be_in_the_file_the_environment_and_the_options() -> None:
    assert loaded(f'[broker]\nurl = "{URL}"').broker.url == URL
    assert loaded("", PUSHSERVER_BROKER_URL=URL).broker.urls == (URL,)
    environment = {"PUSHSERVER_BROKER_URL": "redis://other", "PUSHSERVER_BROKER_NAME": "n1"}
    assert configure(parsed("--broker", URL), environment).broker == Broker(URL, name="n1")
    assert configure(parsed(), environment).broker.urls == ("redis://other",)
    assert (
        configure(parsed("--broker", ""), environment | {"PUSHSERVER_BROKER_NAME": ""}).broker.url
        == ""
    )


def test_option_completes_the_other_settings_of_the_broker(tmp_path: Path) -> None:
    environment = {"PUSHSERVER_BROKER_NAME": "n1"}
    assert configure(parsed("--broker", URL), environment).broker == Broker(URL, name="n1")
    path = tmp_path / "c.toml"
    path.write_text('[broker]\nname = "n2"\nshards = {chat = 1}')
    urls = ["redis://a", "redis://b"]
    options = parsed("--config", str(path), "--broker", urls[0], "--broker", urls[1])
    assert configure(options, {}).broker == Broker(urls, {"chat": 1}, name="n2")


def test_several_urls_may_be_in_each_of_them() -> None:
    urls = ("redis://a", "redis://b")
    assert loaded(f"[broker]\n{TWO}").broker.urls == urls
    assert loaded("", PUSHSERVER_BROKER_URL=" ".join(urls)).broker.urls == urls
    options = parsed("--broker", urls[0], "--broker", urls[1])
    assert configure(options, {"PUSHSERVER_BROKER_URL": "redis://c"}).broker.urls == urls
    assert loaded('[broker]\nurl = ["redis://a"]').broker.urls == ("redis://a",)
    assert loaded("", PUSHSERVER_BROKER_URL="").broker.urls == ()


def test_namespaces_may_have_their_shard() -> None:
    broker = loaded(f"[broker]\n{TWO}shards = {{a = 0, b = 1}}").broker
    assert [broker.placement(f"{name}:x") for name in ("a", "$b", "b")] == [0, 1, 1]


@pytest.mark.parametrize(
    ("prefix", "prefixes"),
    [("ps0", ("ps0", "ps1")), ("shop", ("shop", "shop1")), ("shop0", ("shop0", "shop1"))],
)
def test_keys_of_each_shard_begin_with_its_number(prefix: str, prefixes: tuple[str, str]) -> None:
    assert Broker(["redis://a", "redis://b"], prefix=prefix).prefixes == prefixes
    assert Broker("redis://a", prefix=prefix).prefixes == (prefix,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'url = "redis://me:secret@h/x"',
            "f: broker.url: invalid URL of a Redis server 'redis://.*@h/x'",
        ),
        ("url = 7", "f: broker.url: expected the URL of a Redis server, or a list of them, got 7"),
        ('urls = "x"', r"f: broker.urls: unknown key; did you mean url\?"),
        (
            'url = "redis://h"\nca = "c.pem"',
            "f: broker.ca: is for TLS: expected broker.url rediss://",
        ),
        ('url = "rediss://h"\nca = "/no/c.pem"', "f: broker.ca: '/no/c.pem': No such file"),
        (
            'url = "rediss://h"\nca = "/dev/null"',
            "f: broker.ca: '/dev/null': expected certificates",
        ),
        ("url = []", "f: broker.url: expected the URL of a Redis .* got an empty list"),
        ('ca = "c.pem"', "f: broker.url: must be set, as other settings of broker are"),
        ('name = "n"', "f: broker.url: must be set, as other settings of broker are"),
        ('url = ["redis://h", 7]', "f: broker.url: expected the URL of .* or a list of them"),
        ('url = ["redis://h", "redis://:x@h/y"]', "f: broker.url: invalid URL .*redis://...@h/y'"),
        ('url = ["redis://h", ""]', "f: broker.url: invalid URL of a Redis server ''"),
        ('url = ["redis://h", "redis://h:6379/0"]', "f: broker.url: h:6379 is there twice"),
        (
            f"url = {[f'redis://h{n}' for n in range(9)]}",
            "f: broker.url: expected a list of up to 8, got 9",
        ),
        ('url = "redis://h"\nshards = {a = 0}', "f: broker.shards: is for several Redis"),
        ("shards = {a = 0}", "f: broker.url: must be set"),
        (f"{TWO}shards = {{a = 2}}", "f: broker.shards.a: expected 0 to 1, .* has 2, got 2"),
        (f"{TWO}shards = {{a = -1}}", "f: broker.shards.a: expected 0 to 1, .* got -1"),
        (f'{TWO}shards = {{"a:b" = 1}}', "f: broker.shards: invalid namespace 'a:b'"),
        ('url = "redis://h"\nname = "a b"', "f: broker.name: .*'a b'"),
        ('url = "redis://h"\nprefix = "{a}"', "f: broker.prefix: .*'{a}'"),
        ('url = "redis://h"\nprefix = ""', "f: broker.prefix: "),
        (
            'url = "redis://h"\n[store]\npath = "x.db"',
            "f: broker.url: store.path is set too .'x.db'.",
        ),
    ],
)
def test_wrong_settings_are_named(text: str, problem: str) -> None:
    with pytest.raises(InvalidConfig, match=f"^{problem}") as refused:
        loaded(f"[broker]\n{text}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--broker", "redis://me:secret@h/x"], "--broker: invalid URL of a Redis server"),
        (["--broker", "redis://h", "--config", "c.toml"], "--broker: store.path is set too"),
        (["--broker", "", "--config", "named.toml"], "--broker: must be set, as other settings"),
    ],
)
def test_wrong_options_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text('[store]\npath = "x.db"')
    Path("named.toml").write_text('[broker]\nname = "n1"')
    with pytest.raises(StartFailed, match=re.escape(problem)) as refused:
        configure(parsed(*arguments), {})
    assert "secret" not in str(refused.value)


def test_certificates_are_checked_at_the_start(tmp_path: Path) -> None:
    _, path = certificate(tmp_path)
    assert loaded(f'[broker]\nurl = "rediss://h"\nca = "{path}"').broker.ca == str(path)


def test_no_text_of_the_settings_has_the_password() -> None:
    assert "secret" not in repr(loaded(f'[broker]\nurl = "{URL}"'))


def test_check_config_reports_the_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[broker]\nurl = "http://h"')
    assert main(["check-config", str(path)]) == 1
    assert "broker.url: invalid URL of a Redis server 'http://h'" in capsys.readouterr().err


def test_with_reload_redis_keeps_the_history() -> None:
    config = complete(parsed("--reload", "--broker", URL), {}, SourceTypes(), None)
    assert (config.store.path, config.broker.url) == ("", URL)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_parts, "LIBRARIES", ("hiredis", "no_such_library"))
    with pytest.raises(StartFailed, match=r"no_such_library is not installed: pip ") as raised:
        make(parsed("--broker", URL), {}, memory_reactor())
    assert "pip install 'pushserver[redis]', or in a clone: pip install '.[redis]'" in str(
        raised.value
    )


def test_check_config_names_missing_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_parts, "LIBRARIES", ("no_such", "nor_such"))
    path = tmp_path / "c.toml"
    path.write_text('[broker]\nurl = "redis://h"')
    with pytest.raises(StartFailed, match="no_such and nor_such are not installed"):
        main(["check-config", str(path)])


def test_run_of_an_application_has_it_too() -> None:
    with pytest.raises(StartFailed, match="--broker: invalid URL of a Redis server 'x'"):
        PushServer().run(port=0, broker="x")
