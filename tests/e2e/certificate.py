"""A certificate for servers and proxies on this machine."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """A key and a self-signed certificate for 127.0.0.1 and these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    subjects = x509.SubjectAlternativeName([address, *map(x509.DNSName, names)])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(subjects, critical=False)
        .sign(key, hashes.SHA256())
    )
    key_path, path = folder / "key.pem", folder / "certificate.pem"
    pem = serialization.Encoding.PEM
    pkcs8, open_text = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(pem, pkcs8, open_text))
    path.write_bytes(signed.public_bytes(pem))
    return key_path, path
