"""Tokens and their keys, as the issuer of a test has them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import get_algorithm_by_name

NOW = 1_795_000_000.0
SECRET = "a secret of the test, long enough for HS256"
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


def private_key(algorithm: str, number: int = 0, bits: int = 2_048) -> Any:
    """The private key of this algorithm and number; for HS256 the secret."""
    return _private_key(algorithm, number, bits)


@cache
def _private_key(algorithm: str, number: int, bits: int) -> Any:
    if algorithm == "HS256":
        return SECRET.encode() + str(number or "").encode()
    if algorithm == "RS256":
        return generate_rsa(65_537, bits)
    return (
        generate_private_key(SECP256R1()) if algorithm == "ES256" else Ed25519PrivateKey.generate()
    )


def public_pem(algorithm: str, number: int = 0, bits: int = 2_048) -> str:
    """The public key of a private one."""
    public = private_key(algorithm, number, bits).public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def jwk(algorithm: str, kid: str = "", number: int = 0, **more: Any) -> dict[str, Any]:
    """The public key as a JSON Web Key."""
    public = private_key(algorithm, number).public_key()
    content: dict[str, Any] = get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return {**content, **({"kid": kid} if kid else {}), **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    """A set of keys."""
    return json.dumps({"keys": keys}).encode()


def token(
    claims: dict[str, Any] | bytes,
    algorithm: str = "HS256",
    number: int = 0,
    key: Any = None,
    **head: Any,
) -> str:
    """A token with these claims, or with this text in their place."""
    fields = {"typ": "JWT", "alg": algorithm} | head
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = base64(json.dumps(fields).encode()) + "." + base64(body)
    signer = get_algorithm_by_name(algorithm)
    signature = signer.sign(signed.encode(), key or private_key(algorithm, number))
    return f"{signed}.{base64(signature)}"


def base64(data: bytes) -> str:
    """The data in base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def of_user(user: str = "42", seconds: float = 60, **claims: Any) -> dict[str, Any]:
    """The claims of a connection of this user, which ends after `seconds`."""
    return {"sub": user, "exp": int(NOW + seconds), **claims}
