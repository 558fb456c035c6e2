"""Addresses to output scripts and back."""

from typing import Any

import pytest
from embit import base58, bech32
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.address import Address, address_of, parse_address
from lightipn.bitcoin.hashes import scripthash_of
from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST, SIGNET, TESTNET4, Network
from lightipn.errors import RequestError
from tests.builders import load_vectors

VECTORS = load_vectors("segwit_addresses")
GENESIS_ADDRESS = "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"
P2WPKH = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"
P2TR = "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"

SCRIPTS = {
    "p2pkh": b"\x76\xa9\x14" + bytes(range(20)) + b"\x88\xac",
    "p2sh": b"\xa9\x14" + bytes(range(20)) + b"\x87",
    "p2wpkh": b"\x00\x14" + bytes(range(20)),
    "p2wsh": b"\x00\x20" + bytes(range(32)),
    "p2tr": b"\x51\x20" + bytes(range(32)),
}


def row_id(row: Any) -> str:
    """Name a vector by its reason, or by its address."""
    return str(row.get("reason", row["address"]))


def refusal_of(text: str, network: Network) -> RequestError:
    """Parse what must be refused and return the error."""
    with pytest.raises(RequestError) as caught:
        parse_address(text, network)
    assert (caught.value.code, caught.value.status_hint) == ("bad-address", 400)
    return caught.value


@pytest.mark.parametrize("row", VECTORS["valid"], ids=row_id)
def test_published_addresses_give_their_published_scripts(row: Any) -> None:
    """Each valid address of BIP-350 that pays a known kind of script parses to that script, spelled in lower case."""
    script = bytes.fromhex(row["script"])
    address = parse_address(row["address"], NETWORKS[row["network"]])
    assert address == Address(text=row["address"].lower(), script=script)
    assert address.scripthash == scripthash_of(script)


@pytest.mark.parametrize("row", VECTORS["valid_but_not_payable"], ids=row_id)
def test_future_witness_versions_are_refused(row: Any) -> None:
    """A well-formed address of a witness version without rules is refused: anyone could spend what it receives."""
    assert "want P2WPKH, P2WSH or P2TR" in str(refusal_of(row["address"], NETWORKS[row["network"]]))


@pytest.mark.parametrize("row", VECTORS["invalid"], ids=row_id)
def test_published_invalid_addresses_are_refused(row: Any) -> None:
    """Each invalid address of BIP-350 is refused."""
    refusal_of(row["address"], NETWORKS[row["network"]])


def test_bech32m_is_demanded_from_version_1_on() -> None:
    """A taproot address with the older checksum is refused, and the reason names the checksum."""
    older = bech32.bech32_encode(bech32.Encoding.BECH32, "bc", [1, *bech32.convertbits(bytes(32), 8, 5)])
    assert "wrong checksum for witness version 1" in str(refusal_of(older, MAINNET))


def test_version_1_with_20_bytes_is_refused() -> None:
    """Only 32 bytes make a taproot address: what is shorter has no rules, and anyone could spend it."""
    short = bech32.bech32_encode(bech32.Encoding.BECH32M, "bc", [1, *bech32.convertbits(bytes(20), 8, 5)])
    assert "witness version 1 with 20 bytes" in str(refusal_of(short, MAINNET))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
@pytest.mark.parametrize("kind", SCRIPTS)
def test_every_kind_of_address_is_the_inverse_of_its_script(kind: str, network: Network) -> None:
    """On each network, all five kinds of script have an address, and that address gives the script back."""
    text = address_of(SCRIPTS[kind], network)
    assert text is not None
    assert parse_address(text, network) == Address(text=text, script=SCRIPTS[kind])


def test_first_address_ever_paid_has_its_known_script() -> None:
    """A base58 address gives the script that its hash stands in."""
    script = bytes.fromhex("76a91462e907b15cbf27d5425399ebf6f0fb50ebb88f1888ac")
    assert parse_address(GENESIS_ADDRESS, MAINNET) == Address(text=GENESIS_ADDRESS, script=script)


@pytest.mark.parametrize("text", [f" {P2WPKH}", f"{P2WPKH}\n", f"\t{P2WPKH} \r\n", P2WPKH.upper()])
def test_blanks_around_and_upper_case_do_not_matter(text: str) -> None:
    """A copied address may have blanks around it, and bech32 may be all upper case."""
    assert parse_address(text, MAINNET).text == P2WPKH


WRONG_NETWORKS = [
    pytest.param(GENESIS_ADDRESS, REGTEST, "mainnet", id="p2pkh of mainnet"),
    pytest.param("37VucYSaXLCAsxYyAPfbSi9eh4iEcbShgf", SIGNET, "mainnet", id="p2sh of mainnet"),
    pytest.param("mkpZhYtJu2r87Js3pDiWJDmPte2NRZ8bJV", MAINNET, "testnet4, signet or regtest", id="p2pkh of testnets"),
    pytest.param("2Mww8dCYPUpKHofjgcXcBCEGmniw9CoaiD2", MAINNET, "testnet4, signet or regtest", id="p2sh of testnets"),
    pytest.param(P2WPKH, TESTNET4, "mainnet", id="p2wpkh of mainnet"),
    pytest.param(P2TR.upper(), REGTEST, "mainnet", id="p2tr of mainnet in upper case"),
    pytest.param("tb1q6rz28mcfaxtmd6v789l9rrlrusdprr9pqcpvkl", MAINNET, "testnet4 or signet", id="p2wpkh of testnets"),
    pytest.param("tb1q6rz28mcfaxtmd6v789l9rrlrusdprr9pqcpvkl", REGTEST, "testnet4 or signet", id="tb on regtest"),
    pytest.param(address_of(SCRIPTS["p2wpkh"], REGTEST), SIGNET, "regtest", id="bcrt on signet"),
]


@pytest.mark.parametrize(("text", "network", "found"), WRONG_NETWORKS)
def test_address_of_another_network_names_both(text: str, network: Network, found: str) -> None:
    """The refusal of another network's address says where it belongs and where this service runs."""
    reason = str(refusal_of(text, network))
    assert reason == f"address: belongs to {found}, this service runs on {network.name}"


REFUSED = [
    pytest.param("", "is empty", id="empty"),
    pytest.param(" \t\n", "is empty", id="only blanks"),
    pytest.param("1" * 91, "has 91 characters, want at most 90", id="91 characters"),
    pytest.param("bc1" + "q" * 88, "has 91 characters, want at most 90", id="91 characters of bech32"),
    pytest.param("1" * 90, "is not a bitcoin address", id="90 characters"),
    pytest.param(P2WPKH[:-1], "wrong bech32 checksum", id="one character short"),
    pytest.param(P2WPKH[:-1] + "5", "wrong bech32 checksum", id="one character wrong"),
    pytest.param("BC" + P2WPKH[2:], "mixes upper and lower case", id="mixed case"),
    pytest.param(P2WPKH[:20] + " " + P2WPKH[20:], "", id="blank inside"),
    pytest.param(P2WPKH[:20] + "\0" + P2WPKH[20:], "characters that no address has", id="NUL inside"),
    pytest.param(P2WPKH[:-1] + "\u0442", "characters that no address has", id="cyrillic letter"),
    pytest.param("\U0001f4b0", "characters that no address has", id="emoji"),
    pytest.param("bc1", "", id="prefix alone"),
    pytest.param("1", "is not a bitcoin address", id="one character"),
    pytest.param(GENESIS_ADDRESS[:-1] + "b", "typing error", id="base58 typing error"),
    pytest.param(GENESIS_ADDRESS.lower(), "typing error", id="base58 in lower case"),
    pytest.param("ltc1qg82u8my75w4q8k4s4w9q3k6v7d9s8g0jxk8vkr", "is not a bitcoin address", id="litecoin bech32"),
    pytest.param(base58.encode_check(b"\x30" + bytes(20)), "of another kind", id="litecoin p2pkh"),
    pytest.param(base58.encode_check(b"\x80" + bytes(32)), "of another kind", id="a private key"),
    pytest.param(base58.encode_check(b"\x00" + bytes(19)), "of another kind", id="hash of 19 bytes"),
    pytest.param(base58.encode_check(b"\x00" + bytes(21)), "of another kind", id="hash of 21 bytes"),
    pytest.param(base58.encode_check(b""), "of another kind", id="empty payload"),
    pytest.param(f"bitcoin:{GENESIS_ADDRESS}", "is not a bitcoin address", id="payment URI"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_is_no_address_is_refused_with_its_reason(text: str, reason: str) -> None:
    """Whatever is not an address is refused, and the reason helps whoever typed it."""
    assert reason in str(refusal_of(text, MAINNET))


NO_ADDRESS = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\x6a\x04test", id="OP_RETURN"),
    pytest.param(b"\x21\x02" + bytes(32) + b"\xac", id="bare public key"),
    pytest.param(SCRIPTS["p2pkh"][:-1] + b"\xad", id="p2pkh with another last opcode"),
    pytest.param(b"\x76\xa9\x13" + bytes(20) + b"\x88\xac", id="p2pkh with another push"),
    pytest.param(SCRIPTS["p2sh"][:-1] + b"\x88", id="p2sh with another last opcode"),
    pytest.param(b"\x00\x13" + bytes(20), id="v0 with another push"),
    pytest.param(b"\x00\x15" + bytes(21), id="v0 of 21 bytes"),
    pytest.param(b"\x51\x14" + bytes(20), id="v1 of 20 bytes"),
    pytest.param(b"\x52\x20" + bytes(32), id="v2"),
]


@pytest.mark.parametrize("script", NO_ADDRESS)
def test_scripts_of_other_kinds_have_no_address(script: bytes) -> None:
    """A script that none of the five kinds of address stands for has no address."""
    assert address_of(script, MAINNET) is None


@given(st.sampled_from(sorted(SCRIPTS)), st.binary(min_size=32, max_size=32), st.sampled_from(sorted(NETWORKS)))
@settings(deadline=None)
def test_address_and_script_are_inverse_for_any_hash(kind: str, digest: bytes, name: str) -> None:
    """Whatever the hash, the address of a script parses back to that script."""
    script = SCRIPTS[kind].replace(bytes(range(32)), digest).replace(bytes(range(20)), digest[:20])
    text = address_of(script, NETWORKS[name])
    assert text is not None
    assert parse_address(text, NETWORKS[name]).script == script


BECH32_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BASE58_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def bech32_text(values: list[int], prefix: str, encoding: int) -> str:
    """Return a bech32 text with a right checksum over any values."""
    return str(bech32.bech32_encode(encoding, prefix, values))


ALMOST_ADDRESSES = st.one_of(
    st.text(),
    st.text(BASE58_ALPHABET, max_size=60),
    st.text(BECH32_ALPHABET, max_size=90).map("bc1".__add__),
    st.builds(
        bech32_text,
        st.lists(st.integers(0, 31), max_size=80),
        st.sampled_from(["bc", "tb", "bcrt", "ltc"]),
        st.sampled_from([bech32.Encoding.BECH32, bech32.Encoding.BECH32M]),
    ),
    st.binary(max_size=40).map(base58.encode_check),
)


@pytest.mark.slow
@given(ALMOST_ADDRESSES, st.sampled_from(sorted(NETWORKS)))
@settings(deadline=None, max_examples=150)
def test_any_text_either_parses_or_is_a_bad_address(text: str, name: str) -> None:
    """Any text at all is either an address that survives the way back, or the caller's mistake."""
    network = NETWORKS[name]
    try:
        address = parse_address(text, network)
    except RequestError:
        refusal_of(text, network)
    else:
        assert address_of(address.script, network) == address.text
