"""Addresses to output scripts and back, for one network at a time.

The checks that embit leaves out are made here: the network, the payload's length, the letter case, and the match of
witness version and checksum kind. embit computes the checksums.
"""

from dataclasses import dataclass

from embit import base58, bech32

from lightipn.bitcoin.hashes import ScriptHash, scripthash_of
from lightipn.bitcoin.network import NETWORKS, Network
from lightipn.errors import RequestError

MAX_ADDRESS_CHARS = 90  # BIP-173
_BASE58_NETWORKS = {
    0x00: "mainnet",
    0x05: "mainnet",
    0x6F: "testnet4, signet or regtest",
    0xC4: "testnet4, signet or regtest",
}
_BECH32_NETWORKS = {"bc": "mainnet", "tb": "testnet4 or signet", "bcrt": "regtest"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address that was checked against its network.

    Args:
        text: the canonical spelling (bech32 in lower case).
        script: the output script it stands for.
    """

    text: str
    script: bytes

    @property
    def scripthash(self) -> ScriptHash:
        """The scripthash of the output script."""
        return scripthash_of(self.script)


def _refusal(reason: str) -> RequestError:
    return RequestError(f"address: {reason}", code="bad-address")


def parse_address(text: str, network: Network) -> Address:
    """Check an address and return it with its output script.

    Args:
        text: P2PKH, P2SH, P2WPKH, P2WSH or P2TR; bech32 may be all upper case. Surrounding blanks are ignored.

    Raises:
        RequestError: ``bad-address``: not an address, or one of another network (the message names both).

    Source:
        BIP-13, BIP-173, BIP-350, BIP-341.
    """
    text = text.strip()
    if not text:
        raise _refusal("is empty, want a bitcoin address")
    if len(text) > MAX_ADDRESS_CHARS:
        raise _refusal(f"has {len(text)} characters, want at most {MAX_ADDRESS_CHARS}")
    if not text.isascii() or not text.isprintable():
        raise _refusal("has characters that no address has")
    prefix = text.lower().rpartition("1")[0]
    if prefix in _BECH32_NETWORKS:
        return _parse_segwit(text, prefix, network)
    return _parse_base58(text, network)


def _wrong_network(found: str, network: Network) -> RequestError:
    return _refusal(f"belongs to {found}, this service runs on {network.name}")


def _parse_segwit(text: str, prefix: str, network: Network) -> Address:
    if prefix != network.bech32_prefix:
        raise _wrong_network(_BECH32_NETWORKS[prefix], network)
    encoding, _, data = bech32.bech32_decode(text)
    if data is None:
        raise _refusal("has a wrong bech32 checksum, or mixes upper and lower case")
    program = bech32.convertbits(data[1:], 5, 8, False) if data else None
    if program is None:
        raise _refusal("is cut short or padded wrongly")
    version, length = data[0], len(program)
    wanted = bech32.Encoding.BECH32 if version == 0 else bech32.Encoding.BECH32M
    if encoding != wanted:
        raise _refusal(f"uses the wrong checksum for witness version {version}")
    if (version, length) not in ((0, 20), (0, 32), (1, 32)):
        raise _refusal(f"has witness version {version} with {length} bytes, want P2WPKH, P2WSH or P2TR")
    opcode = 0x00 if version == 0 else 0x50 + version
    return Address(text=text.lower(), script=bytes([opcode, length, *program]))


def _parse_base58(text: str, network: Network) -> Address:
    try:
        payload = base58.decode_check(text)
    except ValueError:
        raise _refusal("is not a bitcoin address, or has a typing error in it") from None
    if len(payload) != 21 or payload[0] not in _BASE58_NETWORKS:
        raise _refusal("is not a bitcoin address (its base58 payload is of another kind)")
    version, digest = payload[0], payload[1:]
    if version == network.p2pkh_version:
        return Address(text=text, script=b"\x76\xa9\x14" + digest + b"\x88\xac")
    if version == network.p2sh_version:
        return Address(text=text, script=b"\xa9\x14" + digest + b"\x87")
    raise _wrong_network(_BASE58_NETWORKS[version], network)


def address_of(script: bytes, network: Network) -> str | None:
    """Return the address that stands for an output script, or None where there is none."""
    match len(script), script[:1]:
        case 25, b"\x76" if script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac":
            return str(base58.encode_check(bytes([network.p2pkh_version]) + script[3:23]))
        case 23, b"\xa9" if script[1] == 20 and script[22] == 0x87:
            return str(base58.encode_check(bytes([network.p2sh_version]) + script[2:22]))
        case ((22 | 34), (b"\x00" | b"\x51")) if script[1] == len(script) - 2:
            version = 0 if script[0] == 0 else 1
            if version == 1 and len(script) != 34:
                return None
            return str(bech32.encode(network.bech32_prefix, version, script[2:]))
        case _:
            return None


assert {network.bech32_prefix for network in NETWORKS.values()} == set(_BECH32_NETWORKS)
