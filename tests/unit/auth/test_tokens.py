from __future__ import annotations

import hmac
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.identity import Grant, Identity
from pushserver.auth.token_keys import ALGORITHMS, TokenKey, public_key, secret_key
from pushserver.auth.tokens import MAX_USER, MOST_TRIED, TokenRules, Verifier
from pushserver.errors import ExpiredToken, InvalidToken, UnknownKeyId
from tests.unit.fakes.tokens import (
    NOW,
    SECRET,
    base64,
    of_user,
    private_key,
    public_pem,
    token,
)

RULES = TokenRules(frozenset(ALGORITHMS))


def key_for(algorithm: str, kid: str = "", number: int = 0) -> TokenKey:
    if algorithm == "HS256":
        return secret_key(private_key(algorithm, number).decode(), kid)
    return public_key(public_pem(algorithm, number), algorithm, kid)


def verifier(*keys: TokenKey, **rules: Any) -> Verifier:
    return Verifier(replace(RULES, **rules), keys or [key_for("HS256")])


def connect(claims: dict[str, Any] | bytes, **rules: Any) -> Identity:
    return verifier(**rules).connection(token(claims), NOW)


def refusal(claims: dict[str, Any] | bytes, **rules: Any) -> str:
    with pytest.raises(InvalidToken) as caught:
        connect(claims, **rules)
    assert not isinstance(caught.value, UnknownKeyId)
    return str(caught.value)


class TestSignature:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_token_of_each_algorithm_proves_its_user(self, algorithm: str) -> None:
        found = verifier(key_for(algorithm)).connection(token(of_user(), algorithm), NOW)
        assert found == Identity(user="42", expires=NOW + 60, token=True)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_token_of_another_key_is_refused(self, algorithm: str) -> None:
        with pytest.raises(InvalidToken, match="the signature is not that of a key"):
            verifier(key_for(algorithm)).connection(token(of_user(), algorithm, 1), NOW)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_any_changed_character_is_refused(self, algorithm: str) -> None:
        text = token(of_user(), algorithm)
        for at in range(0, len(text), 7):
            other = "B" if text[at] == "A" else "A"
            # The last character of a part has bits that mean nothing.
            if text[at] == "." or text[at + 1 : at + 2] in (".", ""):
                continue
            with pytest.raises(InvalidToken):
                verifier(key_for(algorithm)).connection(text[:at] + other + text[at + 1 :], NOW)

    @pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, 1, ["HS256"], {}])
    def test_a_token_without_a_signature_is_refused(self, name: object) -> None:
        head = base64(json.dumps({"alg": name}).encode())
        for signature in ("", "AAAA"):
            text = f"{head}.{base64(json.dumps(of_user()).encode())}.{signature}"
            with pytest.raises(InvalidToken, match=r"alg is|three parts"):
                verifier().connection(text, NOW)

    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
    def test_the_text_of_a_public_key_is_no_secret(self, algorithm: str) -> None:
        """The classic confusion: HS256 with the public key, which all know."""
        signed = base64(b'{"alg":"HS256"}') + "." + base64(json.dumps(of_user()).encode())
        for key in (public_pem(algorithm), public_pem(algorithm).strip()):
            signature = hmac.digest(key.encode(), signed.encode(), sha256)
            with pytest.raises(InvalidToken, match="signature"):
                verifier(key_for(algorithm)).connection(f"{signed}.{base64(signature)}", NOW)

    def test_only_the_configured_algorithms_are_accepted(self) -> None:
        both = [key_for("HS256"), key_for("ES256")]
        only = Verifier(TokenRules(frozenset({"ES256"})), both)
        assert only.connection(token(of_user(), "ES256"), NOW).user == "42"
        with pytest.raises(InvalidToken, match=r'alg is "HS256", expected ES256 \(auth.token_alg'):
            only.connection(token(of_user()), NOW)

    def test_extensions_that_must_be_understood_are_refused(self) -> None:
        with pytest.raises(InvalidToken, match=r'crit is \["b64"\]'):
            verifier().connection(token(of_user(), crit=["b64"], b64=False), NOW)


class TestKeys:
    def test_the_kid_chooses_the_key(self) -> None:
        several = verifier(*(key_for("RS256", f"k{n}", n) for n in range(3)))
        for number in range(3):
            text = token(of_user(), "RS256", number, kid=f"k{number}")
            assert several.connection(text, NOW).user == "42"
            wrong = token(of_user(), "RS256", number, kid=f"k{(number + 1) % 3}")
            with pytest.raises(InvalidToken, match="signature"):
                several.connection(wrong, NOW)

    def test_an_unknown_kid_is_named(self) -> None:
        with pytest.raises(UnknownKeyId, match="kid is 'new'"):
            verifier(key_for("HS256", "old")).connection(token(of_user(), kid="new"), NOW)

    def test_a_key_without_a_kid_verifies_tokens_of_any(self) -> None:
        assert verifier().connection(token(of_user(), kid="any"), NOW).user == "42"
        with pytest.raises(UnknownKeyId):
            verifier().connection(token(of_user(), number=1, kid="any"), NOW)

    def test_a_token_without_a_kid_is_tried_on_a_few_keys(self) -> None:
        keys = [key_for("HS256", f"k{n}", n) for n in range(MOST_TRIED + 1)]
        last = token(of_user(), number=MOST_TRIED - 1)
        assert verifier(*keys[:MOST_TRIED]).connection(last, NOW).user == "42"
        with pytest.raises(InvalidToken, match="kid is missing, and this server has 9 keys"):
            verifier(*keys).connection(last, NOW)

    def test_published_keys_take_the_place_of_earlier_ones(self) -> None:
        keys = verifier(key_for("HS256"))
        first, second = (token(of_user(), "ES256", n, kid=f"k{n}") for n in (1, 2))
        keys.set_published([key_for("ES256", "k1", 1)])
        assert keys.connection(first, NOW).user == "42"
        keys.set_published([key_for("ES256", "k2", 2)])
        assert keys.connection(second, NOW).user == "42"
        assert keys.connection(token(of_user()), NOW).user == "42"
        with pytest.raises(UnknownKeyId):
            keys.connection(first, NOW)

    @pytest.mark.parametrize("kid", [1, None, ["a"], {"a": 1}])
    def test_a_kid_is_a_text(self, kid: object) -> None:
        with pytest.raises(InvalidToken, match="kid is"):
            verifier().connection(token(of_user(), kid=kid), NOW)


class TestForm:
    @pytest.mark.parametrize(
        "text",
        ["", ".", "..", "...", "a.b", "a.b.c.d", "a.b.c=", "a b.c.d", "é.b.c", "a\n.b.c", "\0.b.c",
         "a.b.c\n", "invalid_token", "a+/.b.c", "\ud800.b.c"],
    )  # fmt: skip
    def test_a_text_of_another_form_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidToken, match="expected a JSON Web Token"):
            verifier().connection(text, NOW)

    @given(st.text() | st.from_regex(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}", fullmatch=True))
    def test_no_text_raises_anything_else(self, text: str) -> None:
        with pytest.raises(InvalidToken):
            verifier().connection(text, NOW)

    @given(st.binary(max_size=60), st.binary(max_size=60))
    def test_no_head_and_no_claims_raise_anything_else(self, head: bytes, body: bytes) -> None:
        for text in (f"{base64(head)}.{base64(body)}.AAAA", token(body)):
            with pytest.raises(InvalidToken):
                verifier().connection(text, NOW)

    def test_a_token_has_a_bounded_length(self) -> None:
        text = token(of_user(info="a" * 100_000))
        with pytest.raises(InvalidToken, match=r"characters, expected 16384 at most \(limits.tok"):
            verifier().connection(text, NOW)

    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (b'{"sub":"1","exp":2e9,"sub":"2"}', "the key 'sub' appears twice"),
            (b'{"exp":1,"exp":2000000000}', "the key 'exp' appears twice"),
            (b'{"sub":"1","exp":2e9,"info":{"a":1,"a":2}}', "the key 'a' appears twice"),
            (b'{"sub":"1","exp":2e9,"info":' + b"[" * 150 + b"]" * 150 + b"}", "nested deeper"),
            (b'{"sub":"1","exp":NaN}', "NaN is not JSON"),
            (b'{"sub":"1","exp":1e999}', "beyond the range"),
            (b'{"sub":"\\ud800","exp":2e9}', "a lone surrogate"),
            (b'{"sub":"\xff","exp":2e9}', "invalid UTF-8"),
            (b"[]", "its claims is [], expected an object"),
            (b'"text"', 'its claims is "text", expected an object'),
            (b"", "its claims cannot be read"),
        ],
    )
    def test_claims_that_readers_read_differently_are_refused(
        self, body: bytes, problem: str
    ) -> None:
        if not body:
            with pytest.raises(InvalidToken, match="three parts"):
                verifier().connection(token(body), NOW)
            return
        assert problem in refusal(body)

    def test_a_head_with_a_key_twice_is_refused(self) -> None:
        head = base64(b'{"alg":"none","alg":"HS256"}')
        with pytest.raises(InvalidToken, match="its head cannot be read: the key 'alg' appears"):
            verifier().connection(f"{head}.{base64(b'{}')}.AAAA", NOW)

    def test_no_error_has_the_token(self) -> None:
        texts = [token(of_user(exp=1)), token(of_user(), number=1), token({"sub": 7}), "a.b.c-d"]
        for text in texts:
            with pytest.raises(InvalidToken) as caught:
                verifier().connection(text, NOW)
            assert not any(part in str(caught.value) for part in text.split(".") if len(part) > 3)


class TestTimes:
    def test_a_token_ends_at_its_exp(self) -> None:
        with pytest.raises(ExpiredToken, match="exp is 1794999999, 1 s ago") as caught:
            connect(of_user(seconds=-1))
        assert (caught.value.centrifuge_code, caught.value.http_status) == (109, 401)
        with pytest.raises(ExpiredToken):
            connect(of_user(seconds=0))
        assert connect(of_user(seconds=1)).expires == NOW + 1

    def test_the_leeway_is_for_clocks_that_differ(self) -> None:
        assert connect(of_user(seconds=-4), leeway=5).expires == NOW + 1
        assert connect(of_user(seconds=1), leeway=5).expires == NOW + 1
        with pytest.raises(ExpiredToken):
            connect(of_user(seconds=-5), leeway=5)
        assert connect(of_user(nbf=NOW + 5), leeway=5).user == "42"
        assert "nbf is 1795000006, in 6 s" in refusal(of_user(nbf=NOW + 6), leeway=5)

    def test_a_signature_counts_before_the_end(self) -> None:
        with pytest.raises(InvalidToken) as caught:
            verifier().connection(token(of_user(seconds=-1), number=1), NOW)
        assert not isinstance(caught.value, ExpiredToken)

    @pytest.mark.parametrize("claims", [{"exp": NOW - 9}, {"exp": NOW + 9, "expire_at": NOW - 9}])
    def test_an_expired_token_says_so_and_asks_for_a_new_one(self, claims: dict[str, Any]) -> None:
        [*_, claim] = claims
        with pytest.raises(ExpiredToken) as caught:
            connect({"sub": "42", **claims})
        assert str(caught.value) == (
            f"the token has expired: {claim} is {NOW - 9:.0f}, 9 s ago; get a new one"
        )

    def test_a_token_needs_an_end_unless_the_setting_says_otherwise(self) -> None:
        assert "exp is missing" in refusal({"sub": "42"})
        assert "(auth.token_requires_exp)" in refusal({"sub": "42", "exp": None})
        assert connect({"sub": "42"}, requires_exp=False).expires == 0.0

    @pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "expire_at"])
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("1795000060", 'is "1795000060", expected a number of Unix seconds'),
            (True, "is true, expected a number of Unix seconds"),
            (False, "is false, expected a number of Unix seconds"),
            ([1795000060], "is [1795000060], expected a number of Unix seconds"),
            ({}, "is {}, expected a number of Unix seconds"),
            (
                1795000060000,
                "is 1795000060000, expected a number of Unix seconds, not milliseconds",
            ),
            (1.7e300, "is 1.7e300, expected a number of Unix seconds, not milliseconds"),
            (-1, "is -1, expected a number of Unix seconds"),
            (10**300, "not milliseconds"),
        ],
    )
    def test_a_time_is_a_number_of_seconds(self, claim: str, value: object, shown: str) -> None:
        problem = refusal(of_user() | {claim: value})
        assert problem.startswith(f"invalid token: {claim} is ")
        assert shown in problem

    def test_a_time_may_have_a_fraction(self) -> None:
        assert connect(of_user(exp=NOW + 0.5)).expires == NOW + 0.5
        with pytest.raises(ExpiredToken):
            connect(of_user(exp=NOW - 0.5))

    def test_iat_in_the_future_is_accepted(self) -> None:
        assert connect(of_user(iat=NOW + 1000)).user == "42"

    def test_expire_at_ends_the_connection_in_place_of_exp(self) -> None:
        assert connect(of_user(expire_at=NOW + 1000)).expires == NOW + 1000
        assert connect(of_user(expire_at=0)).expires == 0.0
        with pytest.raises(ExpiredToken, match="expire_at is 1794999990, 10 s ago"):
            connect(of_user(expire_at=NOW - 10))
        with pytest.raises(ExpiredToken, match="exp is"):
            connect(of_user(seconds=-1, expire_at=NOW + 1000))


class TestParties:
    @pytest.mark.parametrize("audience", ["push", ["push"], ["other", "push"], ["live"]])
    def test_one_of_the_audience_suffices(self, audience: object) -> None:
        assert connect(of_user(aud=audience), audience=("push", "live")).user == "42"

    @pytest.mark.parametrize("audience", ["", "pus", "push ", ["other"], [], None])
    def test_another_audience_is_refused(self, audience: object) -> None:
        problem = refusal(of_user(aud=audience), audience=("push",))
        assert "expected 'push' (auth.token_audience)" in problem

    @pytest.mark.parametrize("audience", [1, True, {"push": 1}, [1], ["push", None]])
    def test_an_audience_is_a_text_or_texts(self, audience: object) -> None:
        assert "aud is" in refusal(of_user(aud=audience), audience=("push",))

    def test_a_token_for_an_audience_needs_the_setting(self) -> None:
        """It may be for another service of the same issuer (RFC 7519, 4.1.3)."""
        problem = 'aud is "shop", expected none while auth.token_audience is empty'
        assert problem in refusal(of_user(aud="shop"))

    def test_a_missing_claim_is_called_missing(self) -> None:
        assert "aud is missing, expected 'push'" in refusal(of_user(), audience=("push",))
        assert "iss is missing, expected 'https://id'" in refusal(of_user(), issuer="https://id")

    def test_the_issuer_is_compared(self) -> None:
        assert connect(of_user(iss="https://id"), issuer="https://id").user == "42"
        assert connect(of_user(iss="anyone")).user == "42"
        for other in ("https://id/", None, 1, ["https://id"]):
            assert "(auth.token_issuer)" in refusal(of_user(iss=other), issuer="https://id")


class TestClaims:
    @given(
        st.text(
            st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=MAX_USER
        )
    )
    def test_a_user_may_have_any_characters(self, user: str) -> None:
        assert connect(of_user(user)).user == user

    @pytest.mark.parametrize(
        ("user", "problem"),
        [
            (42, 'sub is 42, expected a text, such as "42"'),
            (True, "sub is true, expected a text"),
            (None, "sub is null, expected a text"),
            (["42"], 'sub is ["42"], expected a text'),
            ("a\0b", "sub has a NUL character"),
            ("a" * 256, "sub has 256 characters, expected a text of 255"),
            ("\U0001f600" * 256, "sub has 256 characters"),
        ],
    )
    def test_a_user_is_a_text(self, user: Any, problem: str) -> None:
        assert problem in refusal(of_user(user))

    def test_a_token_without_a_user_is_of_an_anonymous_one(self) -> None:
        found = connect({"exp": NOW + 60})
        assert (found.user, found.token) == ("", True)

    def test_the_user_may_be_in_another_claim(self) -> None:
        claims = of_user("id", email="a@b.example")
        assert connect(claims, user_claim="email").user == "a@b.example"
        assert "email is 1" in refusal(of_user(email=1), user_claim="email")

    def test_info_is_json_text(self) -> None:
        assert (
            connect(of_user(info={"name": "Zoë", "n": 1})).info == '{"name":"Zoë","n":1}'.encode()
        )
        assert connect(of_user(info=None)).info == b""
        assert connect(of_user(info=0)).info == b"0"

    def test_channels_are_patterns(self) -> None:
        found = connect(of_user(channels=["news", "chat:*"]))
        assert [found.covers(name) for name in ("news", "chat:1", "new", "x")] == [
            True, True, False, False
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("channels", "problem"),
        [
            ("news", 'channels is "news", expected a list of texts'),
            ({"news": {}}, "expected a list of texts"),
            (["news", 1], "expected a list of texts"),
            ([""], "channels: ''"),
            (["a b"], "channels: 'a b'"),
            (["a" * 200], "channels: "),
            ([f"c{n}" for n in range(10_000)], "characters, expected 16384 at most"),
            (["c"] * 129, "channels has 129 channels, expected 128 at most"),
        ],
    )
    def test_channels_that_cannot_be_are_refused(self, channels: Any, problem: str) -> None:
        assert problem in refusal(of_user(channels=channels))

    def test_ten_thousand_channels_are_refused_in_a_longer_token_too(self) -> None:
        claims = of_user(channels=[f"c{n}" for n in range(10_000)])
        assert "10000 channels, expected 128" in refusal(claims, max_bytes=1_000_000)

    def test_subs_have_their_info_data_and_override(self) -> None:
        subs = {
            "news": {},
            "chat:1": {
                "info": {"role": "host"},
                "data": [1],
                "override": {"force_push_join_leave": {"value": True}},
            },
        }
        assert connect(of_user(subs=subs)).subs == {
            "news": Grant("news"),
            "chat:1": Grant(
                "chat:1", b'{"role":"host"}', b"[1]", override={"force_push_join_leave": True}
            ),
        }

    @pytest.mark.parametrize(
        ("subs", "problem"),
        [
            (["news"], "expected an object with channels as its keys"),
            ({"a b": {}}, "subs: invalid channel name 'a b'"),
            ({"chat:*": {}}, "subs: invalid channel name 'chat:*'"),
            ({"news": 1}, "subs: news is 1, expected an object"),
            ({"news": None}, "subs: news is null, expected an object"),
            ({"news": {"b64info": "e30="}}, "subs: news: b64info is not supported"),
            ({"news": {"override": []}}, "subs: news: override is [], expected an object"),
            ({"news": {"override": {"x": {"value": True}}}}, "override.x is unknown"),
            ({"news": {"override": {"presence": True}}}, 'expected {"value": true}'),
            ({"news": {"override": {"presence": {"value": 1}}}}, 'expected {"value": true}'),
            ({"news": {"override": {"presence": {"value": False}}}}, "every subscription of this"),
            ({f"c{n}": {} for n in range(129)}, "subs has 129 channels, expected 128 at most"),
        ],
    )
    def test_subs_that_cannot_be_are_refused(self, subs: Any, problem: str) -> None:
        assert problem in refusal(of_user(subs=subs))

    def test_each_user_may_have_a_channel(self) -> None:
        assert connect(of_user()).subs == {}
        assert connect(of_user(), personal=True).subs == {"#42": Grant("#42")}
        own = {"#42": {"data": 1}}
        assert connect(of_user(subs=own), personal=True).subs["#42"].data == b"1"
        for user in ("", "a,b", "Zoë", "a" * 128):
            assert connect(of_user(user), personal=True).subs == {}

    @pytest.mark.parametrize("name", ["b64info", "b64data"])
    def test_bytes_in_place_of_json_are_refused(self, name: str) -> None:
        expected = f"{name} is not supported, expected {name.removeprefix('b64')} with JSON"
        assert expected in refusal(of_user() | {name: "e30="})
        text = token(of_user(channel="news") | {name: "e30="})
        with pytest.raises(InvalidToken, match=expected):
            verifier().subscription(text, "news", "42", NOW)

    def test_unknown_claims_are_ignored(self) -> None:
        assert connect(of_user(jti="1", scope="a b", nested={"a": [1]})).user == "42"


class TestSubscription:
    def grant(self, claims: dict[str, Any], channel: str = "news", user: str = "42") -> Grant:
        return verifier().subscription(token(claims), channel, user, NOW)

    def refusal(self, claims: dict[str, Any], user: str = "42") -> str:
        with pytest.raises(InvalidToken) as caught:
            self.grant(claims, user=user)
        return str(caught.value)

    def test_it_permits_its_channel_until_its_end(self) -> None:
        claims = of_user(channel="news", info={"a": 1}, override={"join_leave": {"value": True}})
        expected = Grant("news", b'{"a":1}', b"", NOW + 60, {"join_leave": True})
        assert self.grant(claims) == expected
        assert self.grant(of_user(channel="news", expire_at=0)).expires == 0.0
        assert self.grant(of_user(channel="news", expire_at=NOW + 9)).expires == NOW + 9

    def test_a_token_of_another_channel_or_user_is_refused(self) -> None:
        assert 'channel is "chat", expected "news"' in self.refusal(of_user(channel="chat"))
        assert 'sub is "43", expected the user of the connection, "42"' in self.refusal(
            of_user("43", channel="news")
        )
        assert "channel is null" in self.refusal(of_user(channel=None))
        assert "channel is [" in self.refusal(of_user(channel=["news"]))

    def test_a_token_without_a_user_is_for_anonymous_connections(self) -> None:
        claims = {"channel": "news", "exp": NOW + 60}
        assert self.grant(claims, user="").channel == "news"
        assert 'sub is ""' in self.refusal(claims)

    def test_it_is_no_token_of_a_connection(self) -> None:
        assert "a token of a subscription" in refusal(of_user(channel="news"))
        assert "needs the claim channel" in self.refusal(of_user())

    def test_an_expired_one_has_the_code_109(self) -> None:
        with pytest.raises(ExpiredToken) as caught:
            self.grant(of_user(seconds=-1, channel="news"))
        assert caught.value.centrifuge_code == 109


def test_codes_of_the_errors() -> None:
    assert (InvalidToken("a").http_status, InvalidToken("a").centrifuge_code) == (401, 103)
    assert SECRET not in repr(key_for("HS256"))
