from __future__ import annotations

import os
from pathlib import Path

import pytest

from pushserver.auth.keys import Keys, hash_of
from pushserver.config.keys import make_keys
from pushserver.config.loader import load, warnings
from pushserver.config.secret_files import MAX_SECRET_BYTES, read_secret
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.errors import InvalidConfig
from pushserver.sources.registry import SourceTypes

FILE = "push.toml"
SECRET = "s3cret-that-is-long-enough"
TABLE = "[auth.keys.shop]\n"


def loaded(text: str, **environment: str) -> Config:
    return load(text, FILE, environment, SourceTypes())


def keys(text: str, **environment: str) -> Keys:
    return make_keys(loaded(text, **environment).auth)


def problem(text: str, **environment: str) -> str:
    with pytest.raises(InvalidConfig) as caught:
        loaded(text, **environment)
    message = str(caught.value)
    assert "s3cret" not in message
    assert "\n" not in message
    return message


def lines(text: str, **environment: str) -> list[str]:
    found = list(warnings(environment, SourceTypes(), loaded(text, **environment)))
    assert "s3cret" not in "".join(found)
    return found


def secret_file(tmp_path: Path, content: str | bytes = SECRET, mode: int = 0o600) -> Path:
    path = tmp_path / "key"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


class TestAKey:
    """Where the secret of a named key may be."""

    def test_may_stand_in_the_configuration(self) -> None:
        key = keys(f'{TABLE}key = "{SECRET}"\nchannels = ["orders:*"]\nmay = ["admin"]').find(
            SECRET
        )
        assert key is not None
        assert (key.name, key.channels.texts) == ("shop", ("orders:*",))
        assert key.may == {"admin"}

    def test_may_publish_and_read_everywhere_by_default(self) -> None:
        key = keys(f'{TABLE}key = "{SECRET}"').find(SECRET)
        assert key is not None
        assert key.channels.texts == ("*",)
        assert key.may == {"publish", "read"}

    def test_may_be_a_hash(self) -> None:
        key = keys(f'{TABLE}hash = "{hash_of(SECRET)}"').find(SECRET)
        assert key is not None
        assert key.name == "shop"

    @pytest.mark.parametrize(
        "content", [SECRET, f"{SECRET}\n", f" {SECRET}\r\n", f"\ufeff{SECRET}"]
    )
    def test_may_be_in_a_file(self, tmp_path: Path, content: str) -> None:
        path = secret_file(tmp_path, content)
        assert keys(f'{TABLE}file = "{path}"').find(SECRET)

    def test_may_be_a_credential(self, tmp_path: Path) -> None:
        secret_file(tmp_path)
        text = f'{TABLE}credential = "key"'
        assert keys(text, CREDENTIALS_DIRECTORY=str(tmp_path)).find(SECRET)

    def test_without_a_name_may_do_everything(self) -> None:
        found = keys("", PUSHSERVER_AUTH_API_KEYS=f"other {SECRET}")
        key = found.find(SECRET)
        assert key is not None
        assert (key.name, key.channels.texts) == ("", ("*",))
        assert key.may == {"publish", "read", "admin"}
        assert len(found) == 2

    def test_may_stand_twice_in_the_list_without_names(self) -> None:
        assert len(keys(f'[auth]\napi_keys = ["{SECRET}", "{SECRET}"]')) == 1


class TestAnError:
    """Names the key and its setting, and never shows the secret."""

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            (TABLE, ["auth.keys.shop: expected one of key, hash, file", "got none"]),
            (
                f'{TABLE}key = "{SECRET}"\nfile = "/x"',
                ["auth.keys.shop: expected one of", "got key and file"],
            ),
            (f'{TABLE}ke = "{SECRET}"', ["auth.keys.shop.ke: unknown key; did you mean key?"]),
            (f'{TABLE}key = ["{SECRET}"]', ["auth.keys.shop.key: expected a text, got a list"]),
            (f'{TABLE}key = "{SECRET} "', ["auth.keys.shop: the key cannot be sent in a header"]),
            (f'{TABLE}key = "{SECRET}\\n1"', ["auth.keys.shop: the key cannot be sent"]),
            (f'{TABLE}key = "{hash_of(SECRET)}"', ["auth.keys.shop: the key is a hash"]),
            (f'[auth]\napi_keys = ["{hash_of(SECRET)}"]', ["auth.api_keys: key 1 is a hash"]),
            (f'{TABLE}hash = "{SECRET}"', ["auth.keys.shop.hash: expected sha256: and 64"]),
            (f'{TABLE}key = "{SECRET}"\nchannels = []', ["auth.keys.shop.channels", "length >= 1"]),
            (
                f'{TABLE}key = "{SECRET}"\nchannels = ["a b"]',
                ["auth.keys.shop.channels: 'a b' is no pattern of channels"],
            ),
            (
                f'{TABLE}key = "{SECRET}"\nchannels = "a"',
                ['auth.keys.shop.channels: expected a list, such as ["..."], got a text'],
            ),
            (
                f'{TABLE}key = "{SECRET}"\nmay = ["write"]',
                ["auth.keys.shop.may: 'write', expected publish, read or admin"],
            ),
            (f'[auth.keys]\nshop = "{SECRET}"', ["auth.keys.shop: expected a table, got a text"]),
            (f'[auth]\nkeys = ["{SECRET}"]', ["auth.keys: expected a table of tables, got a list"]),
            (f'[auth.keys."a.b"]\nkey = "{SECRET}"', ["invalid name of a key 'a.b'"]),
            (f'{TABLE}key = "{SECRET}"\n{TABLE}', ["Cannot declare", "line 3"]),
            (f'{TABLE}credential = "../key"', ["auth.keys.shop.credential", "without a path"]),
            (
                f'{TABLE}credential = "key"',
                ["CREDENTIALS_DIRECTORY is not set", "LoadCredential=key"],
            ),
            (f'{TABLE}file = "/no/such"', ["auth.keys.shop.file: '/no/such': No such file"]),
            (f'{TABLE}file = "such"', [f"'such' in {os.getcwd()}: No such file"]),
            (f'{TABLE}file = "/"', ["auth.keys.shop.file: '/': Is a directory"]),
            (f'{TABLE}file = "a\\u0000"', ["auth.keys.shop.file", "null byte"]),
        ],
    )
    def test_names_the_setting_and_what_was_expected(self, text: str, parts: list[str]) -> None:
        message = problem(text)
        assert message.startswith(f"{FILE}: "), message
        for part in parts:
            assert part in message, message

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ("", "got an empty file"),
            (" \n", "got an empty file"),
            (b"s3cret\xff", "expected UTF-8"),
            ("s3cret" * MAX_SECRET_BYTES, "expected at most 65536 bytes"),
            ("s3cret\nmore", "cannot be sent in a header"),
            (hash_of(SECRET), "is a hash"),
        ],
    )
    def test_for_the_content_of_a_file_does_not_show_it(
        self, tmp_path: Path, content: str | bytes, part: str
    ) -> None:
        path = secret_file(tmp_path, content)
        assert part in problem(f'{TABLE}file = "{path}"')

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            (f'key = "{SECRET}"', f'key = "{SECRET}"'),
            (f'key = "{SECRET}"', f'hash = "{hash_of(SECRET)}"'),
            (f'hash = "{hash_of(SECRET)}"', f'hash = "{hash_of(SECRET).upper()}"'),
        ],
    )
    def test_is_raised_for_one_secret_with_two_names(self, one: str, two: str) -> None:
        message = problem(f"[auth.keys.first]\n{one}\n[auth.keys.second]\n{two}")
        assert message == (
            f"{FILE}: auth.keys.second: it is the same key as in auth.keys.first, expected another"
            " one"
        )

    def test_is_raised_for_one_secret_with_and_without_a_name(self, tmp_path: Path) -> None:
        path = secret_file(tmp_path)
        text = f'{TABLE}file = "{path}"'
        message = problem(text, PUSHSERVER_AUTH_API_KEYS=SECRET)
        assert "auth.keys.shop: it is the same key as in auth.api_keys" in message

    def test_is_raised_for_a_table_in_the_environment(self) -> None:
        message = problem("", PUSHSERVER_AUTH_KEYS=SECRET)
        assert message.startswith("PUSHSERVER_AUTH_KEYS: ")
        assert "auth.keys: unknown key; did you mean api_keys?" in message
        message = problem("", PUSHSERVER_AUTH_KEYS_SHOP_KEY=SECRET)
        assert "auth.keys_shop_key: unknown key" in message

    def test_of_settings_in_code_is_the_same(self) -> None:
        for key in (KeySettings(), KeySettings(key=SECRET, hash=hash_of(SECRET))):
            with pytest.raises(
                InvalidConfig, match=r"^auth.keys.shop: expected either key or hash"
            ):
                make_keys(Auth(keys={"shop": key}))


def test_settings_do_not_show_secrets() -> None:
    auth = Auth(api_keys=[SECRET], keys={"shop": KeySettings(key=SECRET)})
    assert "s3cret" not in repr(auth)
    assert hash_of(SECRET) not in repr(KeySettings(hash=hash_of(SECRET)))


class TestAWarning:
    """A dubious key is named at the start, without its text."""

    def test_names_weak_keys(self, tmp_path: Path) -> None:
        path = secret_file(tmp_path, "s3cret-of-a-file")
        found = lines(
            f'[auth]\napi_keys = ["{SECRET}", "s3cret"]\n[auth.keys.a]\nkey = "s3cret-15-chars"\n'
            f'[auth.keys.b]\nkey = "s3cret-16-chars."\n[auth.keys.c]\nfile = "{path}"\n'
            f'[auth.keys.d]\nhash = "{hash_of("short")}"'
        )
        assert [line.partition(" has")[0] for line in found] == [
            "auth.api_keys: key 2",
            "auth.keys.a: the key",
        ]
        assert all("fewer than 16 characters" in line for line in found)

    @pytest.mark.parametrize(("mode", "count"), [(0o600, 0), (0o640, 0), (0o604, 1), (0o644, 1)])
    def test_names_a_file_that_all_users_can_read(
        self, tmp_path: Path, mode: int, count: int
    ) -> None:
        path = secret_file(tmp_path, SECRET, mode)
        found = lines(f'{TABLE}file = "{path}"')
        assert len(found) == count
        for line in found:
            assert line == (
                f"auth.keys.shop.file: all users of this machine can read {str(path)!r};"
                " chmod o-r takes that away"
            )


def test_an_endless_file_is_read_up_to_its_bound() -> None:
    if not os.path.exists("/dev/zero"):
        return
    with pytest.raises(ValueError, match="expected at most 65536 bytes"):
        read_secret("/dev/zero", or_pipe=True)
