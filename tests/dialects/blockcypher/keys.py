"""Signing keys for tests, which are the same in every run."""

from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@cache
def private_pem(number: int = 1, *, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> str:
    """Return the PEM of a private key that differs for every number."""
    key = ec.derive_private_key(0xA5A5_0000 + number, curve())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@cache
def public_pem(number: int = 1, *, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> str:
    """Return the PEM of its public half."""
    key = ec.derive_private_key(0xA5A5_0000 + number, curve()).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
