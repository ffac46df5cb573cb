from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_curve
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from jwt import get_algorithm_by_name

from pushserver.auth.jwks import MAX_JWKS_BYTES, MAX_JWKS_KEYS, read_jwks
from pushserver.auth.token_keys import (
    PUBLIC,
    check_names,
    key_of_jwk,
    public_key,
    secret_key,
)
from tests.unit.fakes.tokens import jwk, jwks, private_key, public_pem

ALL = frozenset(PUBLIC)


def pem(public: Any) -> str:
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


class TestSecrets:
    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_the_text_of_a_key_is_no_secret(self, algorithm: str) -> None:
        with pytest.raises(ValueError, match="got a public or private key"):
            secret_key(public_pem(algorithm))

    @pytest.mark.parametrize("secret", ["", "\ud800"])
    def test_a_secret_is_text(self, secret: str) -> None:
        with pytest.raises(ValueError, match="the secret is"):
            secret_key(secret)

    def test_the_key_does_not_show_its_secret(self) -> None:
        assert "s3cret" not in repr(secret_key("s3cret" * 6, "a"))


class TestPem:
    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_a_key_is_for_its_own_algorithm_only(self, algorithm: str) -> None:
        assert public_key(public_pem(algorithm), algorithm).algorithm == algorithm
        for other in ALL - {algorithm}:
            with pytest.raises(ValueError, match=f"for {other}, got an? "):
                public_key(public_pem(algorithm), other)

    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_a_private_key_is_refused(self, algorithm: str) -> None:
        text = private_key(algorithm).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        with pytest.raises(ValueError, match="this is a private key"):
            public_key(text.decode(), algorithm)

    @pytest.mark.parametrize("text", ["", "secret", "-----BEGIN PUBLIC KEY-----\nAAAA", "é"])
    def test_another_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected a public key in PEM"):
            public_key(text, "RS256")

    def test_other_curves_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"expected a P-256 key for ES256, got .* secp384r1"):
            public_key(pem(generate_curve(SECP384R1()).public_key()), "ES256")
        with pytest.raises(ValueError, match="expected an Ed25519 key for EdDSA, got a Ed448"):
            public_key(pem(Ed448PrivateKey.generate().public_key()), "EdDSA")

    def test_a_short_rsa_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match="an RSA key of 1024 bits, expected 2048 to 8192"):
            public_key(public_pem("RS256", bits=1_024), "RS256")


def test_two_keys_of_one_kid_are_refused() -> None:
    keys = [secret_key("a" * 32, "k1"), public_key(public_pem("ES256"), "ES256", "k1")]
    with pytest.raises(ValueError, match="two keys have the kid 'k1'"):
        check_names(keys)
    check_names([secret_key("a" * 32), secret_key("b" * 32)])


class TestJwk:
    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_it_verifies_what_its_private_key_signs(self, algorithm: str) -> None:
        key = key_of_jwk(jwk(algorithm, "k1", use="sig", alg=algorithm, x5t="a"))
        signature = get_algorithm_by_name(algorithm).sign(b"text", private_key(algorithm))
        assert (key.kid, key.algorithm) == ("k1", algorithm)
        assert key.verifies(b"text", signature)
        assert not key.verifies(b"test", signature)

    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_private_numbers_are_ignored(self, algorithm: str) -> None:
        signer = get_algorithm_by_name(algorithm)
        entry = signer.to_jwk(private_key(algorithm), as_dict=True)
        assert "d" in entry
        signature = signer.sign(b"text", private_key(algorithm))
        entry.pop("key_ops", None)
        assert key_of_jwk(entry).verifies(b"text", signature)

    @pytest.mark.parametrize(
        ("entry", "problem"),
        [
            ({}, "kty is None"),
            ({"kty": "oct", "k": "AAAA"}, "kty is 'oct', expected RSA or EC or OKP"),
            ({"kty": ["RSA"]}, "kty is"),
            (jwk("RS256") | {"use": "enc"}, "use is 'enc', expected sig"),
            (jwk("RS256") | {"key_ops": ["encrypt"]}, "key_ops is"),
            (jwk("RS256") | {"key_ops": "verify"}, "key_ops is"),
            (jwk("RS256") | {"alg": "RS512"}, "alg is 'RS512', expected RS256"),
            (jwk("RS256") | {"alg": "HS256"}, "alg is 'HS256', expected RS256"),
            (jwk("ES256") | {"alg": "RS256"}, "alg is 'RS256', expected ES256"),
            (jwk("RS256", "k" * 257), "kid is"),
            (jwk("RS256") | {"kid": 1}, "kid is 1"),
            (jwk("RS256") | {"n": None}, "RSA"),
            (jwk("RS256") | {"n": "***"}, "RSA"),
            (jwk("RS256") | {"n": "AQAB"}, "RSA"),
            (jwk("RS256") | {"e": "AQ"}, "RSA"),
            (jwk("RS256") | {"e": 65537}, "RSA"),
            (jwk("ES256") | {"crv": "P-384"}, "EC"),
            (jwk("ES256") | {"crv": "secp256k1"}, "EC"),
            (jwk("ES256") | {"x": "AAAA"}, "EC"),
            (jwk("ES256") | {"y": jwk("ES256")["x"]}, "EC"),
            (jwk("EdDSA") | {"crv": "X25519"}, "OKP"),
            (jwk("EdDSA") | {"crv": "Ed448"}, "OKP"),
            (jwk("EdDSA") | {"x": ""}, "OKP"),
        ],
    )  # fmt: skip
    def test_an_unusable_key_is_refused(self, entry: dict[str, Any], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            key_of_jwk(entry)

    def test_a_huge_rsa_key_is_refused(self) -> None:
        number = urlsafe_b64encode(b"\xff" * 2_049).rstrip(b"=").decode()
        with pytest.raises(ValueError, match="RSA"):
            key_of_jwk({"kty": "RSA", "e": "AQAB", "n": number})

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    )

    @given(
        st.sampled_from(PUBLIC),
        st.dictionaries(
            st.sampled_from(["kty", "kid", "use", "alg", "n", "e", "crv", "x", "y", "key_ops"]),
            json_values,
            max_size=4,
        ),
    )
    def test_no_key_raises_anything_else(self, algorithm: str, changes: dict[str, Any]) -> None:
        try:
            key = key_of_jwk(jwk(algorithm) | changes)
        except ValueError:
            return
        assert key.algorithm == algorithm


class TestSets:
    def test_unusable_entries_are_skipped_and_told(self) -> None:
        good = jwk("RS256", "a"), jwk("ES256", "a"), jwk("EdDSA", "b")
        found = read_jwks(jwks(good[0], {"kty": "oct"}, good[1], 7, good[2]), ALL)  # type: ignore[arg-type]
        assert [(key.kid, key.algorithm) for key in found.keys] == [
            ("a", "RS256"), ("a", "ES256"), ("b", "EdDSA")
        ]  # fmt: skip
        assert found.skipped == (
            "key 2: kty is 'oct', expected RSA or EC or OKP",
            "key 4: expected an object, got 7",
        )

    def test_keys_for_other_algorithms_are_skipped(self) -> None:
        found = read_jwks(jwks(jwk("RS256"), jwk("ES256")), frozenset({"ES256"}))
        assert [key.algorithm for key in found.keys] == ["ES256"]
        assert found.skipped == ("key 1: it is for RS256, which token_algorithms does not have",)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (b"", "not JSON"),
            (b"<html>", "not JSON"),
            (b"\xff", "not JSON"),
            (b"[]", "expected a set of keys"),
            (b'{"keys":{}}', "expected a set of keys"),
            (b'{"keys":[]}', "no usable key among 0"),
            (b'{"keys":[{"kty":"oct"}]}', r"no usable key among 1 \(key 1: kty is 'oct'"),
            (b'{"keys":[' + b"0," * MAX_JWKS_KEYS + b"0]}", "101 keys, expected 100 at most"),
            (b" " * (MAX_JWKS_BYTES + 1), "262145 bytes, expected 262144 at most"),
            (b"[" * 100_000, "not JSON"),
        ],
    )
    def test_a_text_that_is_no_set_is_refused(self, text: bytes, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            read_jwks(text, ALL)
