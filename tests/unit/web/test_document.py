"""Pages as answers: compressed, and sent only to clients that do not have them."""

from __future__ import annotations

import gzip

import jwt
import pytest

from pushserver.config.settings import Auth, Config
from tests.unit.fakes.web import BROWSER, Server

PATHS = ["/", "/channels/numbers", "/channels/"]


@pytest.mark.parametrize("path", PATHS)
def test_page_is_compressed_for_clients_that_accept_it(server: Server, path: str) -> None:
    plain = server.get(path, accept=BROWSER)
    assert plain["content-type"] == "text/html; charset=utf-8"
    assert "content-encoding" not in plain
    answer = server.get(path, accept=BROWSER, accept_encoding="gzip, deflate, br, zstd")
    assert answer["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == plain.body
    assert len(answer.body) < len(plain.body) / 2
    assert answer["content-length"] == str(len(answer.body))
    for one in (plain, answer):
        assert "Accept-Encoding" in one["vary"]
        assert one["cache-control"] == "no-cache"
    head = server.get(path, "HEAD", accept=BROWSER, accept_encoding="gzip")
    assert (head.rest, head["content-length"]) == (b"", answer["content-length"])
    assert head["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "header", ["", "identity", "br", "gzip;q=0", "*;q=0", "gzip;q=0.1,identity"]
)
def test_page_is_sent_as_it_is_to_others(server: Server, header: str) -> None:
    answer = server.get("/", accept=BROWSER, accept_encoding=header)
    assert answer.body.startswith(b"<!doctype html>")
    assert "content-encoding" not in answer


@pytest.mark.parametrize("path", PATHS)
def test_page_that_the_client_has_is_304_in_any_coding(server: Server, path: str) -> None:
    tag = server.get(path, accept=BROWSER)["etag"]
    for coding in ("", "gzip"):
        for method in ("GET", "HEAD"):
            answer = server.get(
                path, method, accept=BROWSER, accept_encoding=coding, if_none_match=tag
            )
            assert (answer.status, answer.rest, answer["etag"]) == (304, b"", tag)
            assert "content-length" not in answer
            assert "content-encoding" not in answer
            assert "Accept-Encoding" in answer["vary"]


def test_pages_that_differ_have_different_tags(server: Server) -> None:
    paths = ("/", "/channels/numbers", "/channels/other")
    assert len({server.get(path, accept=BROWSER)["etag"] for path in paths}) == 3


def test_page_of_an_error_is_not_compressed(server: Server) -> None:
    answer = server.get("/nothing", accept=BROWSER, accept_encoding="gzip")
    assert (answer.status, "content-encoding" in answer) == (404, False)
    assert answer.body.startswith(b"<!doctype html>")


KEY = "a-secret-key"
SECRET = "a secret of thirty-two characters"
TOKEN = jwt.encode({"sub": "secret-user"}, SECRET, "HS256")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {"x_api_key": KEY}),
        ("", {"authorization": f"ApiKey {KEY}"}),
        ("", {"authorization": f"Bearer {TOKEN}"}),
        ("", {"cookie": f"login={TOKEN}; other=secret"}),
        (f"?token={TOKEN}&other=secret", {}),
    ],
)
def test_page_has_no_secret_beside_the_name_of_its_channel(
    path: str, query: str, headers: dict[str, str]
) -> None:
    # An attacker who chooses the name could guess a secret from the compressed length.
    auth = Auth(api_keys=[KEY], token_secret=SECRET, token_cookie="login")
    answer = Server(config=Config(auth=auth)).get(path + query, accept=BROWSER, **headers)
    assert answer.status == 200
    for secret in (KEY, SECRET, TOKEN, "secret"):
        assert secret.encode() not in answer.body
