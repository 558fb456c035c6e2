"""Extended public keys and descriptors: which output script belongs to which index.

embit's key code is imported at the first use: a service that derives nothing does not carry it in memory.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Any

from lightipn.bitcoin.address import Address, address_of
from lightipn.bitcoin.network import Network
from lightipn.errors import RequestError

MAX_CHILD_INDEX = (1 << 31) - 1  # BIP-32: indexes above are hardened, and a public key has no hardened children
RECEIVE_BRANCH = 0  # BIP-44: 0 for addresses that are given to others, 1 for change
MAX_TEXT_CHARS = 4096
MOST_STEPS = 10
# Bitcoin Core: a witness script takes 20 keys; a redeem script of 520 bytes takes 15.
MOST_WSH_KEYS = 20
MOST_SH_KEYS = 15


class ScriptKind(enum.Enum):
    """What a single-key output script looks like."""

    P2PKH = "p2pkh"
    P2SH_P2WPKH = "p2sh-p2wpkh"
    P2WPKH = "p2wpkh"
    P2TR = "p2tr"


# SLIP-132: the version bytes choose the kind of script. Each with the networks it is used on.
_VERSIONS = {
    bytes.fromhex("0488b21e"): (ScriptKind.P2PKH, True),
    bytes.fromhex("049d7cb2"): (ScriptKind.P2SH_P2WPKH, True),
    bytes.fromhex("04b24746"): (ScriptKind.P2WPKH, True),
    bytes.fromhex("043587cf"): (ScriptKind.P2PKH, False),
    bytes.fromhex("044a5262"): (ScriptKind.P2SH_P2WPKH, False),
    bytes.fromhex("045f1cf6"): (ScriptKind.P2WPKH, False),
}
# BIP-44, BIP-49, BIP-84: the descriptor of each kind that a prefix can say.
_SHAPES = {ScriptKind.P2PKH: "pkh({})", ScriptKind.P2SH_P2WPKH: "sh(wpkh({}))", ScriptKind.P2WPKH: "wpkh({})"}


@dataclass(frozen=True, slots=True)
class AddressChain:
    """An ordered supply of addresses: child N of an extended key, or index N of a descriptor.

    Args:
        kind: of its scripts; None for a multisig.
        identity: 32 bytes; two texts that lead to the same addresses have the same.
    """

    network: Network
    kind: ScriptKind | None
    identity: bytes
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
        except (ValueError, ArithmeticError):
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
    text = _bounded(text)
    if "(" in text:
        return _parse_descriptor(text, network)
    key, kind = _parse_extended_key(text, network)
    return _probed(_chain_of(key, kind, network))


def parse_receive_chains(
    text: str, network: Network, *, kind: ScriptKind | None = None
) -> tuple[AddressChain, tuple[AddressChain, ...]]:
    """Read the key of an account, and return its supply of addresses for receiving.

    Args:
        text: an extended public key of an account, whose branch 0 is taken; or a descriptor, which says all by itself.
        kind: of the scripts; None takes what the key's prefix says.

    Returns:
        The supply, and all supplies that a wallet may have on the same key: one for each kind of script; of a
        descriptor the one alone.

    Raises:
        RequestError: ``bad-key``; ``bad-address-type`` where a descriptor already says another kind.

    Source:
        BIP-44, BIP-49, BIP-84, BIP-86, SLIP-132, BIP-380.
    """
    text = _bounded(text)
    if "(" in text:
        chain = _parse_descriptor(text, network)
        if kind is not None and kind is not chain.kind:
            raise RequestError("address_type contradicts the descriptor, leave it out", code="bad-address-type")
        return chain, (chain,)
    key, kind_of_prefix = _parse_extended_key(text, network)
    branch = _child_of(key, RECEIVE_BRANCH)
    chains = {each: _chain_of(branch, each, network) for each in ScriptKind}
    _probed(chains[ScriptKind.P2PKH])  # where one kind has addresses, all have
    return chains[kind or kind_of_prefix], tuple(chains.values())


def descriptor_of(text: str, network: Network, *, branch: int | None) -> str:
    """Return the descriptor of an extended public key's own children, or of those of one of its branches.

    Args:
        text: xpub, ypub, zpub, tpub, upub or vpub: the prefix chooses the kind of script.
        branch: 0 to 2,147,483,647; None for the children of the very key.

    Raises:
        RequestError: ``bad-key``, ``bad-index``.
    """
    key, kind = _parse_extended_key(_bounded(text), network)
    if branch is not None and not 0 <= branch <= MAX_CHILD_INDEX:
        raise RequestError(f"subchain index is {branch}, want 0 to {MAX_CHILD_INDEX}", code="bad-index")
    is_mainnet = network.name == "mainnet"
    plain = next(version for version, found in _VERSIONS.items() if found == (ScriptKind.P2PKH, is_mainnet))
    path = "*" if branch is None else f"{branch}/*"
    descriptor = _SHAPES[kind].format(f"{key.to_base58(version=plain)}/{path}")
    _parse_descriptor(descriptor, network)
    return descriptor


def _probed(chain: AddressChain) -> AddressChain:
    """Derive once: what has no first address would fail later, where no caller is left to be told."""
    chain.address_at(0)
    return chain


def _child_of(key: Any, index: int) -> Any:
    try:
        return key.child(index)
    except (ValueError, ArithmeticError):
        raise _refusal("is too deep to have children") from None


def _bounded(text: str) -> str:
    text = text.strip()
    if len(text) > MAX_TEXT_CHARS:
        raise _refusal(f"has {len(text)} characters, want at most {MAX_TEXT_CHARS}")
    return text


def _refusal(reason: str) -> RequestError:
    return RequestError(f"extended key {reason}", code="bad-key")


def _parse_extended_key(text: str, network: Network) -> tuple[Any, ScriptKind]:
    from embit import bip32
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
    return key, kind


def _chain_of(key: Any, kind: ScriptKind, network: Network) -> AddressChain:
    """Return the children of a public key as scripts of one kind."""
    from embit import script

    def script_of(index: int) -> Any:
        public_key = key.child(index).key
        match kind:
            case ScriptKind.P2PKH:
                return script.p2pkh(public_key)
            case ScriptKind.P2SH_P2WPKH:
                return script.p2sh(script.p2wpkh(public_key))
            case ScriptKind.P2WPKH:
                return script.p2wpkh(public_key)
            case ScriptKind.P2TR:
                return script.p2tr(public_key)

    return AddressChain(network, kind, _identity_of(key, kind), script_of)


def _identity_of(key: Any, kind: ScriptKind) -> bytes:
    return hashlib.sha256(b"/".join((kind.value.encode(), key.key.sec(), key.chain_code))).digest()


def _parse_descriptor(text: str, network: Network) -> AddressChain:
    from embit.base import EmbitError
    from embit.descriptor import Descriptor
    from embit.descriptor.checksum import checksum

    body, mark, stated_sum = text.partition("#")
    try:
        if mark and checksum(body) != stated_sum:
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
        _check_descriptor_key(key, network)
    kind = _kind_of_descriptor(descriptor)
    if kind is not None:
        return _probed(_chain_of(_parent_of(keys[0]), kind, network))
    return _multisig_of(descriptor, network)


def _multisig_of(descriptor: Any, network: Network) -> AddressChain:
    """Return the addresses of a multisig; other miniscripts are refused, for they may take any time to compile."""
    from embit.descriptor.miniscript import Multi

    if not isinstance(descriptor.miniscript, Multi):
        raise _refusal("descriptor is neither of a single key nor a multisig")
    most = MOST_WSH_KEYS if descriptor.wsh else MOST_SH_KEYS
    if len(descriptor.keys) > most:
        raise _refusal(f"descriptor has {len(descriptor.keys)} keys, want at most {most}")

    def script_of(index: int) -> Any:
        return descriptor.derive(index, branch_index=0).script_pubkey()

    # Its scripts say what it is, however it is spelled: in whatever order, with or without origins.
    unnamed = AddressChain(network, None, b"", script_of)
    identity = hashlib.sha256(b"scripts/" + unnamed.address_at(0).script + unnamed.address_at(1).script).digest()
    return AddressChain(network, None, identity, script_of)


def _check_descriptor_key(key: Any, network: Network) -> None:
    if key.is_private:
        raise _refusal("is a private one, want the public one; treat the private one as seen by others")
    version = getattr(key.key, "version", None)
    if version is not None and version not in _VERSIONS:
        raise _refusal("is for multisig or of an unknown kind, want a single-key one")
    steps = key.allowed_derivation.indexes if key.allowed_derivation else []
    if len(steps) > MOST_STEPS or any(isinstance(step, list) and None in step for step in steps):
        raise _refusal("descriptor cannot be read")
    if version is not None and key.is_wildcard and key.allowed_derivation.indexes[-1] is not None:
        raise _refusal("descriptor has a '*' that is not the last step")
    if version in _VERSIONS and _VERSIONS[version][1] != (network.name == "mainnet"):
        raise _refusal(f"in the descriptor belongs to another network, this service runs on {network.name}")


def _kind_of_descriptor(descriptor: Any) -> ScriptKind | None:
    """Return the kind of a descriptor of one key and nothing else; None for any other."""
    if descriptor.miniscript is not None or len(descriptor.keys) != 1:
        return None
    if descriptor.taproot:
        return None if descriptor.taptree else ScriptKind.P2TR
    if descriptor.wpkh:
        return ScriptKind.P2SH_P2WPKH if descriptor.sh else ScriptKind.P2WPKH
    return None if descriptor.sh or descriptor.wsh else ScriptKind.P2PKH


def _parent_of(key: Any) -> Any:
    """Return the key whose children a descriptor's ``*`` stands for; of several branches the first."""
    parent = key.key
    for index in key.allowed_derivation.indexes[:-1]:
        parent = _child_of(parent, index[0] if isinstance(index, list | tuple) else index)
    return parent
