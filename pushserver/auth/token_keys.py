"""The keys that verify tokens: secrets, and public keys in PEM or as JSON Web Keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import InvalidKeyError, get_algorithm_by_name

SECRET_BYTES = 32
"""The bytes that a secret for HS256 should have (RFC 7518, 3.2)."""
MAX_KID = 256
RSA_BITS = (2_048, 8_192)
"""The sizes of RSA keys: RFC 7518 (3.3) has the lower bound, and larger keys verify slowly."""

SECRET = "HS256"
PUBLIC = ("RS256", "ES256", "EdDSA")
ALGORITHMS = (SECRET, *PUBLIC)

_FORMS = {"RS256": "an RSA key", "ES256": "a P-256 key", "EdDSA": "an Ed25519 key"}
# All that the numbers of an unusable key raise in PyJWT, cryptography and the code below.
_UNUSABLE = (ValueError, TypeError, KeyError, OverflowError, InvalidKeyError, UnsupportedAlgorithm)
_OF_A_JWK = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key with the one algorithm that it is for.

    `kid` names it in the heads of tokens; a key without it verifies tokens of any `kid`.
    """

    kid: str
    algorithm: str
    material: Any = field(repr=False)

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Whether the signature of these bytes is made by this key; takes constant time."""
        return get_algorithm_by_name(self.algorithm).verify(signed, self.material, signature)


def secret_key(secret: str, kid: str = "") -> TokenKey:
    """A secret for HS256; raises ValueError if it is empty, or the text of a public key."""
    if not secret:
        raise ValueError("the secret is empty")
    try:
        material = get_algorithm_by_name(SECRET).prepare_key(secret.encode())
    except UnicodeEncodeError:
        raise ValueError("the secret is not text in UTF-8") from None
    except InvalidKeyError:
        raise ValueError(
            "expected a secret for HS256, got a public or private key: its algorithm is one of"
            f" {', '.join(PUBLIC)}"
        ) from None
    return TokenKey(kid, SECRET, material)


def public_key(pem: str, algorithm: str, kid: str = "") -> TokenKey:
    """A public key in PEM; raises ValueError if it is not one for this algorithm."""
    if "PRIVATE KEY-----" in pem:
        raise ValueError(
            "this is a private key, which belongs to the program that makes the tokens: expected"
            " the public key, in PEM (-----BEGIN PUBLIC KEY-----)"
        )
    try:
        material = load_pem_public_key(pem.encode())
    except _UNUSABLE:
        raise ValueError(
            "expected a public key in PEM (-----BEGIN PUBLIC KEY-----), got another text"
        ) from None
    if algorithm_of(material) != algorithm:
        problem = f"expected {_FORMS[algorithm]} for {algorithm}, got {_form(material)}"
        raise ValueError(problem)
    _check_size(material)
    return TokenKey(kid, algorithm, material)


def key_of_jwk(jwk: Mapping[str, Any]) -> TokenKey:
    """The key of a JSON Web Key (RFC 7517); raises ValueError if it verifies no tokens here."""
    kid, kind = jwk.get("kid", ""), jwk.get("kty")
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        raise ValueError(f"kid is {kid!r:.40}, expected a text of {MAX_KID} characters at most")
    if not isinstance(kind, str) or kind not in _OF_A_JWK:
        raise ValueError(f"kty is {kind!r:.40}, expected {' or '.join(_OF_A_JWK)}")
    if jwk.get("use", "sig") != "sig":
        raise ValueError(f"use is {jwk['use']!r:.40}, expected sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError(f"key_ops is {operations!r:.40}, expected verify in it")
    # Only the public numbers: a set may have private ones by mistake.
    numbers = {"kty": kind, **{name: jwk.get(name) for name in _OF_A_JWK[kind]}}
    reader = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[kind]
    try:
        material = get_algorithm_by_name(reader).from_jwk(numbers)
    except _UNUSABLE as error:
        raise ValueError(f"{kind}: {error}" if str(error) else f"{kind}: not a key") from None
    algorithm = algorithm_of(material)
    if algorithm is None:
        raise ValueError(f"{_form(material)}, expected {', '.join(_FORMS.values())}")
    if jwk.get("alg", algorithm) != algorithm:
        raise ValueError(f"alg is {jwk['alg']!r:.40}, expected {algorithm} for {_form(material)}")
    _check_size(material)
    return TokenKey(kid, algorithm, material)


def algorithm_of(material: object) -> str | None:
    """The algorithm of tokens for which this public key is used."""
    if isinstance(material, RSAPublicKey):
        return "RS256"
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(material, Ed25519PublicKey) else None


def check_names(keys: Iterable[TokenKey]) -> None:
    """Raise ValueError for two keys of one `kid`."""
    seen: set[str] = set()
    for key in keys:
        if key.kid and key.kid in seen:
            raise ValueError(f"two keys have the kid {key.kid!r:.80}")
        seen.add(key.kid)


def _check_size(material: object) -> None:
    least, most = RSA_BITS
    if isinstance(material, RSAPublicKey) and not least <= material.key_size <= most:
        raise ValueError(f"an RSA key of {material.key_size} bits, expected {least} to {most}")


def _form(material: object) -> str:
    algorithm = algorithm_of(material)
    if algorithm is not None:
        return _FORMS[algorithm]
    curve = getattr(getattr(material, "curve", None), "name", "")
    return f"a key of the curve {curve}" if curve else f"a {type(material).__name__}"
