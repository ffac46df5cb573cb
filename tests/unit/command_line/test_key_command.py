from __future__ import annotations

import tomllib

import pytest

from pushserver.auth.keys import Keys
from pushserver.cli import main
from pushserver.config.keys import make_keys
from pushserver.config.loader import load
from pushserver.sources.registry import SourceTypes

Capture = pytest.CaptureFixture[str]


def made(text: str) -> Keys:
    return make_keys(load(text, "push.toml", {}, SourceTypes()).auth)


def test_the_lines_of_a_new_key_allow_it(capsys: Capture) -> None:
    arguments = ["--name", "shop", "--channels", "orders:*", "news", "--may", "publish,admin"]
    assert main(["key", "new", *arguments]) == 0
    text, _, lines = capsys.readouterr().out.partition("\n")
    assert text not in lines
    key = made(lines).find(text)
    assert key is not None
    assert (key.name, key.channels.texts) == ("shop", ("orders:*", "news"))
    assert key.may == {"publish", "admin"}


def test_a_new_key_without_options_may_publish_and_read(capsys: Capture) -> None:
    names = set()
    for _ in range(2):
        assert main(["key", "new"]) == 0
        text, _, lines = capsys.readouterr().out.partition("\n")
        key = made(lines).find(text)
        assert key is not None
        assert key.channels.texts == ("*",)
        assert key.may == {"publish", "read"}
        names.add(key.name)
        assert [key.name] == list(tomllib.loads(lines)["auth"]["keys"])
    assert len(names) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--may", "write"], "--may: 'write', expected publish, read or admin"),
        (["--may", ","], "--may: expected publish, read or admin, got nothing"),
        (["--name", "a.b"], "invalid name of a key 'a.b'"),
        (["--channels", "a b"], "'a b' is no pattern of channels"),
    ],
)
def test_a_wrong_option_makes_no_key(capsys: Capture, arguments: list[str], message: str) -> None:
    assert main(["key", "new", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
