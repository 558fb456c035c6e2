"""Signatures of callbacks: what is taken as a key, and what verifies."""

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.errors import RequestError
from lightipn.outbox.signature import check_private_key, check_public_key, is_signed, public_key_of, sign
from tests.dialects.blockcypher.keys import private_pem, public_pem

MESSAGE = b'{"event":"unconfirmed-tx"}'
# FIPS 186-4 P-256 with SHA-256, RFC 6979 appendix A.2.5.
RFC_6979_KEY = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
RFC_6979 = {
    b"sample": (
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    ),
    b"test": (
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
}


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, form: serialization.PrivateFormat) -> str:
    """Return a private key as unencrypted PEM."""
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


P256 = ec.derive_private_key(7, ec.SECP256R1())
LOCKED = P256.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
).decode()
ED25519 = pem_of(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), serialization.PrivateFormat.PKCS8)


@pytest.mark.parametrize("message", RFC_6979)
def test_signatures_are_those_of_the_rfc(message: bytes) -> None:
    """A signature is deterministic ECDSA over P-256 with SHA-256: the RFC's own examples come out."""
    pem = pem_of(ec.derive_private_key(RFC_6979_KEY, ec.SECP256R1()), serialization.PrivateFormat.PKCS8)
    assert decode_dss_signature(base64.b64decode(sign(pem, message))) == RFC_6979[message]


@settings(deadline=None, max_examples=30)
@given(message=st.binary(max_size=200))
def test_signatures_verify_with_other_hands(message: bytes) -> None:
    """What is signed verifies with a library, and with ours; the same message gives the same signature."""
    signature = sign(private_pem(), message)
    assert signature == sign(private_pem(), message)
    key = serialization.load_pem_public_key(public_pem().encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(signature), message, ec.ECDSA(hashes.SHA256()))
    assert is_signed(public_pem(), message, signature)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(signature), message + b" ", ec.ECDSA(hashes.SHA256()))


def test_other_message_or_key_is_not_signed() -> None:
    """A signature holds for its own message and key alone."""
    signature = sign(private_pem(), MESSAGE)
    assert not is_signed(public_pem(), MESSAGE + b" ", signature)
    assert not is_signed(public_pem(), b"", signature)
    assert not is_signed(public_pem(2), MESSAGE, signature)


def test_signature_of_a_hash_is_not_one_of_the_message() -> None:
    """Hashing twice, as a known consumer does, is another message."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(MESSAGE)
    assert not is_signed(public_pem(), MESSAGE, sign(private_pem(), digest.finalize()))


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param("", id="empty"),
        pytest.param("test", id="no DER"),
        pytest.param("AAAA", id="zeros"),
        pytest.param("not base64!", id="no base64"),
        pytest.param("A", id="one letter"),
        pytest.param("MEUCIQ===", id="padding"),
        pytest.param("MAYCAQACAQA=", id="r and s are zero"),
        pytest.param("é", id="no ASCII"),
        pytest.param("signature\x00", id="NUL"),
        pytest.param("A" * 60_000, id="long"),
    ],
)
def test_what_is_no_signature_is_wrong_and_raises_nothing(signature: str) -> None:
    """A header may hold anything: what is no base64 DER signature is simply a wrong one."""
    assert is_signed(public_pem(), MESSAGE, signature) is False


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_both_spellings_of_an_ec_key_are_taken(form: serialization.PrivateFormat) -> None:
    """``BEGIN PRIVATE KEY`` and ``BEGIN EC PRIVATE KEY`` are both keys; blanks around them do not matter."""
    for text in (pem_of(P256, form), f"\n{pem_of(P256, form)}\n\n"):
        check_private_key(text)
        assert is_signed(public_key_of(text), MESSAGE, sign(text, MESSAGE))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("preset", id="preset"),
        pytest.param("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", id="broken"),
        pytest.param(private_pem(curve=ec.SECP256K1), id="secp256k1"),
        pytest.param(private_pem(curve=ec.SECP384R1), id="P-384"),
        pytest.param(ED25519, id="Ed25519"),
        pytest.param(LOCKED, id="encrypted"),
        pytest.param(public_pem(), id="public"),
        pytest.param("\ud800", id="no text"),
    ],
)
def test_other_keys_are_refused_and_not_repeated(text: str) -> None:
    """What is no plain P-256 private key is refused, and the error says no word of it."""
    with pytest.raises(RequestError) as caught:
        check_private_key(text)
    assert (caught.value.code, caught.value.status_hint) == ("bad-signkey", 400)
    assert str(caught.value) == "signkey is no PEM of an unencrypted P-256 private key, want one or preset"
    assert caught.value.__cause__ is None


def test_public_half_is_pem() -> None:
    """The public half is what a receiver's library reads."""
    assert public_key_of(private_pem()) == public_pem()
    assert public_pem().startswith("-----BEGIN PUBLIC KEY-----\n")
    check_public_key(public_pem())


@pytest.mark.parametrize(
    "text", ["", "x", private_pem(), public_pem(curve=ec.SECP256K1), public_pem(curve=ec.SECP384R1)]
)
def test_other_public_keys_are_refused(text: str) -> None:
    """A key to verify with is a P-256 public key, and nothing else."""
    for use in (check_public_key, lambda pem: is_signed(pem, MESSAGE, sign(private_pem(), MESSAGE))):
        with pytest.raises(ValueError, match="want PEM of a P-256 public key"):
            use(text)
