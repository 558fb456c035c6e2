"""Signatures of callbacks: ECDSA over P-256 with SHA-256, deterministic, so that signing is pure.

``cryptography`` is imported at the first use: a service without signed callbacks does not carry it in memory.
"""

import base64
from functools import lru_cache
from typing import Any

from lightipn.errors import RequestError

MAX_PEM_CHARS = 1000  # one of P-256 has less than 400


def check_private_key(pem: str) -> None:
    """Refuse what is no key to sign with. Its text is never repeated in an error.

    Raises:
        RequestError: ``bad-signkey``: no PEM of an unencrypted EC private key, or of another curve than P-256.
    """
    _private_key_of(pem)


def sign(private_key_pem: str, message: bytes) -> str:
    """Sign a message.

    Args:
        private_key_pem: one that ``check_private_key`` took.

    Returns:
        The DER signature in base64.

    Source:
        FIPS 186-5 (ECDSA), RFC 6979 (deterministic nonces).
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    return base64.b64encode(_private_key_of(private_key_pem).sign(message, algorithm)).decode()


def is_signed(public_key_pem: str, message: bytes, signature: str) -> bool:
    """Tell whether a base64 DER signature is one of this key over the message.

    Raises:
        ValueError: the key is no PEM of a P-256 public key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    public_key = _public_key_of(public_key_pem)
    try:
        public_key.verify(base64.b64decode(signature, validate=True), message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):  # binascii's own is one; text that is no ASCII raises the plain one
        return False
    return True


def public_key_of(private_key_pem: str) -> str:
    """Return the public half as PEM."""
    from cryptography.hazmat.primitives import serialization

    public = _private_key_of(private_key_pem).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return str(pem.decode())


def check_public_key(pem: str) -> None:
    """Refuse what is no key to verify with.

    Raises:
        ValueError: no PEM of a P-256 public key.
    """
    _public_key_of(pem)


@lru_cache(maxsize=64)
def _private_key_of(pem: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if len(pem) > MAX_PEM_CHARS:  # a large RSA key takes half a minute to be read
        raise _refusal()
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _refusal() from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refusal()
    return key


def _refusal() -> RequestError:
    return RequestError("signkey is no PEM of an unencrypted P-256 private key, want one or preset", code="bad-signkey")


@lru_cache(maxsize=4)
def _public_key_of(pem: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if len(pem) > MAX_PEM_CHARS:
        raise ValueError("want PEM of a P-256 public key")
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("want PEM of a P-256 public key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("want PEM of a P-256 public key")
    return key
