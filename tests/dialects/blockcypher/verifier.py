"""A receiver's own check of both signature headers, written from the drafts' text: nothing of it is the service's.

Source:
    draft-cavage-http-signatures-12, sections 2.1 to 2.5; RFC 3230, section 4.3.2 (``Digest``).
"""

import base64
import hashlib
import re
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ALGORITHM = "sha256-ecdsa"


def parameters_of(header: str) -> dict[str, str]:
    """Read the parameters of a signature header: names, and values in quotes, separated by commas."""
    found = {}
    for part in re.split(r",(?=\w+=)", header):
        name, _, value = part.partition("=")
        assert value[0] == value[-1] == '"'
        assert name not in found
        found[name] = value[1:-1]
    return found


def check_request(public_pem: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> str:
    """Check the ``Signature`` header of a request as it arrived, and return its key id.

    Args:
        target: path and query as they stood in the request's first line.

    Raises:
        cryptography.exceptions.InvalidSignature: it is no signature of this key over this request.
    """
    arrived = {name.lower(): value for name, value in headers.items()}
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert arrived["digest"] == f"SHA-256={digest}"
    parameters = parameters_of(arrived["signature"])
    assert set(parameters) == {"keyId", "algorithm", "headers", "signature"}
    assert parameters["algorithm"] == ALGORITHM
    names = parameters["headers"].split(" ")
    assert {"(request-target)", "digest", "date"} <= set(names)
    lines = [
        f"(request-target): {method.lower()} {target}" if name == "(request-target)" else f"{name}: {arrived[name]}"
        for name in names
    ]
    _verify(public_pem, parameters["signature"], "\n".join(lines).encode("ascii"))
    return parameters["keyId"]


def check_body(public_pem: str, headers: Mapping[str, str], body: bytes) -> str:
    """Check the ``X-BlockCypher-Signature`` header over the raw body, and return its key id.

    Raises:
        cryptography.exceptions.InvalidSignature: it is no signature of this key over this body.
    """
    parameters = parameters_of(headers["X-BlockCypher-Signature"])
    assert set(parameters) == {"keyId", "algorithm", "signature"}
    assert parameters["algorithm"] == ALGORITHM
    _verify(public_pem, parameters["signature"], body)
    return parameters["keyId"]


def _verify(public_pem: str, signature: str, message: bytes) -> None:
    key = serialization.load_pem_public_key(public_pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(signature, validate=True), message, ec.ECDSA(hashes.SHA256()))
