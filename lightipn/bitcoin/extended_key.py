"""Extended public keys and descriptors: which output script belongs to which index.

embit's key code is imported at the first use: a service that derives nothing does not carry it in memory.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from lightipn.bitcoin.address import Address, address_of
from lightipn.bitcoin.network import Network
from lightipn.errors import RequestError

MAX_CHILD_INDEX = (1 << 31) - 1  # BIP-32: indexes above are hardened, and a public key has no hardened children


class ScriptKind(enum.Enum):
    """What a single-key output script looks like."""

    P2PKH = "p2pkh"
    P2SH_P2WPKH = "p2sh-p2wpkh"
    P2WPKH = "p2wpkh"


# SLIP-132: the version bytes choose the kind of script. Each with the networks it is used on.
_VERSIONS = {
    bytes.fromhex("0488b21e"): (ScriptKind.P2PKH, True),
    bytes.fromhex("049d7cb2"): (ScriptKind.P2SH_P2WPKH, True),
    bytes.fromhex("04b24746"): (ScriptKind.P2WPKH, True),
    bytes.fromhex("043587cf"): (ScriptKind.P2PKH, False),
    bytes.fromhex("044a5262"): (ScriptKind.P2SH_P2WPKH, False),
    bytes.fromhex("045f1cf6"): (ScriptKind.P2WPKH, False),
}


@dataclass(frozen=True, slots=True)
class AddressChain:
    """An ordered supply of addresses: child N of an extended key, or index N of a descriptor."""

    network: Network
    _script_of: Any  # index -> embit Script; embit ships no types

    def address_at(self, index: int) -> Address:
        """Derive the address with this index.

        Args:
            index: 0 to 2,147,483,647.

        Raises:
            RequestError: ``bad-index``.
        """
        if not 0 <= index <= MAX_CHILD_INDEX:
            raise RequestError(f"index is {index}, want 0 to {MAX_CHILD_INDEX}", code="bad-index")
        try:
            script = bytes(self._script_of(index).data)
        except ValueError:
            raise RequestError("the key has no child with this index", code="bad-key") from None
        text = address_of(script, self.network)
        if text is None:
            raise RequestError("the key does not lead to an address", code="bad-key")
        return Address(text=text, script=script)


def parse_address_chain(text: str, network: Network) -> AddressChain:
    """Read an extended public key or an output descriptor. Its text is never repeated in an error.

    Args:
        text: xpub, ypub, zpub (mainnet), tpub, upub, vpub (other networks): children 0, 1, 2 ... of that very key; or
            a descriptor such as ``wpkh([fingerprint/84h/0h/0h]xpub.../0/*)``.

    Raises:
        RequestError: ``bad-key``: no such key, a private one, or one of another network.

    Source:
        BIP-32, SLIP-132, BIP-380.
    """
    text = text.strip()
    if "(" in text:
        return _parse_descriptor(text, network)
    return _parse_extended_key(text, network)


def _refusal(reason: str) -> RequestError:
    return RequestError(f"extended key {reason}", code="bad-key")


def _parse_extended_key(text: str, network: Network) -> AddressChain:
    from embit import bip32, script
    from embit.base import EmbitError

    try:
        key = bip32.HDKey.from_base58(text)
    except (ValueError, IndexError, ArithmeticError, EmbitError):
        raise _refusal("cannot be read, want xpub, ypub, zpub, tpub, upub, vpub or a descriptor") from None
    if key.is_private:
        raise _refusal("is a private one, want the public one; treat the private one as seen by others")
    if key.version not in _VERSIONS:
        raise _refusal("is for multisig or of an unknown kind, want a single-key one")
    kind, is_mainnet = _VERSIONS[key.version]
    if is_mainnet != (network.name == "mainnet"):
        found = "mainnet" if is_mainnet else "a test network"
        raise _refusal(f"belongs to {found}, this service runs on {network.name}")

    def script_of(index: int) -> Any:
        public_key = key.child(index).key
        match kind:
            case ScriptKind.P2PKH:
                return script.p2pkh(public_key)
            case ScriptKind.P2SH_P2WPKH:
                return script.p2sh(script.p2wpkh(public_key))
            case ScriptKind.P2WPKH:
                return script.p2wpkh(public_key)

    return AddressChain(network, script_of)


def _parse_descriptor(text: str, network: Network) -> AddressChain:
    from embit.base import EmbitError
    from embit.descriptor import Descriptor
    from embit.descriptor.checksum import checksum

    body, _, stated_sum = text.partition("#")
    try:
        if stated_sum and checksum(body) != stated_sum:
            raise _refusal("descriptor has a wrong checksum")
        descriptor = Descriptor.from_string(body)
        keys = list(descriptor.keys)
    except (
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        TypeError,
        AssertionError,
        RecursionError,
        EmbitError,
    ):
        raise _refusal("descriptor cannot be read") from None
    if not descriptor.is_wildcard:
        raise _refusal("descriptor has no '*', so it stands for a single address")
    for key in keys:
        if key.is_private:
            raise _refusal("is a private one, want the public one; treat the private one as seen by others")
        version = getattr(key.key, "version", None)
        if version is not None and version not in _VERSIONS:
            raise _refusal("is for multisig or of an unknown kind, want a single-key one")
        if version is not None and key.is_wildcard and key.allowed_derivation.indexes[-1] is not None:
            raise _refusal("descriptor has a '*' that is not the last step")
        if version in _VERSIONS and _VERSIONS[version][1] != (network.name == "mainnet"):
            raise _refusal(f"in the descriptor belongs to another network, this service runs on {network.name}")
    return AddressChain(network, lambda index: descriptor.derive(index, branch_index=0).script_pubkey())
