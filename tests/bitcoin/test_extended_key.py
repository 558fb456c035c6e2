"""Extended public keys and descriptors."""

from typing import Any

import pytest
from embit import base58, bip32
from embit.descriptor.checksum import add_checksum
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.address import parse_address
from lightipn.bitcoin.extended_key import MAX_CHILD_INDEX, parse_address_chain
from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST, SIGNET, TESTNET4, Network
from lightipn.errors import RequestError
from tests.builders import load_vectors

VECTORS = load_vectors("extended_keys")["rows"]
XPUB = VECTORS[0]["key"]
ZPUB = VECTORS[2]["key"]
TPUB = VECTORS[4]["key"]
PAYLOAD = base58.decode_check(XPUB)  # version 4, depth 1, fingerprint 4, child 4, chain code 32, public key 33
XPRV = bip32.HDKey.from_seed(bytes(64)).to_base58()
WIF = base58.encode_check(b"\x80" + bytes(31) + b"\x01\x01")
POINT = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"


def row_id(row: Any) -> str:
    """Name a vector."""
    return str(row["name"])


def with_version(version: str, payload: bytes = PAYLOAD) -> str:
    """Return an extended key with these version bytes in hex."""
    return str(base58.encode_check(bytes.fromhex(version) + payload[4:]))


def receive_chain_of(account: str) -> str:
    """Return child 0 of an account key: the chain of its receive addresses."""
    return str(bip32.HDKey.from_base58(account).child(0).to_base58())


def refusal_of(text: str, network: Network = MAINNET) -> str:
    """Parse what must be refused and return the reason, which repeats nothing of the text."""
    with pytest.raises(RequestError) as caught:
        parse_address_chain(text, network)
    assert caught.value.code == "bad-key"
    reason = str(caught.value)
    words = text.replace("(", " ").replace(")", " ").replace("/", " ").replace("#", " ").replace(",", " ").split()
    assert not [word for word in words if len(word) > 12 and word in reason]
    return reason


@pytest.mark.parametrize("row", [row for row in VECTORS if "86" not in row["name"]], ids=row_id)
def test_prefix_of_the_key_chooses_the_kind_of_address(row: Any) -> None:
    """An extended key gives the published addresses of its prefix: P2PKH, P2SH-P2WPKH or P2WPKH."""
    network = NETWORKS[row["network"]]
    chain = parse_address_chain(f" {receive_chain_of(row['key'])}\n", network)
    assert chain.address_at(0) == parse_address(row["first"], network)
    if row["second"]:
        assert chain.address_at(1) == parse_address(row["second"], network)


@pytest.mark.parametrize("row", VECTORS, ids=row_id)
def test_descriptors_give_the_published_addresses(row: Any) -> None:
    """A descriptor over an account key gives the account's published receive addresses, with and without checksum."""
    network = NETWORKS[row["network"]]
    plain = with_version("0488b21e" if network is MAINNET else "043587cf", base58.decode_check(row["key"]))
    descriptor = row["descriptor"].replace("KEY", f"[73c5da0a/84h/0h/0h]{plain}")
    for text in (descriptor, add_checksum(descriptor)):
        chain = parse_address_chain(text, network)
        assert chain.address_at(0) == parse_address(row["first"], network)
        if row["second"]:
            assert chain.address_at(1) == parse_address(row["second"], network)


def test_children_are_of_the_key_itself() -> None:
    """Index N is child N of the key as given, not of a receive chain below it."""
    address = parse_address_chain(ZPUB, MAINNET).address_at(5).text
    child = parse_address_chain(ZPUB, MAINNET)
    assert address == child.address_at(5).text
    assert address != parse_address_chain(receive_chain_of(ZPUB), MAINNET).address_at(5).text
    assert address == parse_address_chain(f"wpkh({XPUB_OF_ZPUB}/*)", MAINNET).address_at(5).text


XPUB_OF_ZPUB = with_version("0488b21e", base58.decode_check(ZPUB))


@pytest.mark.parametrize("network", [TESTNET4, SIGNET, REGTEST], ids=lambda network: network.name)
def test_test_networks_share_their_keys(network: Network) -> None:
    """A key of the test networks serves each of them, and its addresses are that network's."""
    address = parse_address_chain(with_version("045f1cf6"), network).address_at(0)
    assert address.text.startswith(f"{network.bech32_prefix}1q")


@pytest.mark.parametrize("text", [XPUB, f"wpkh({XPUB}/0/*)"], ids=["key", "descriptor"])
@pytest.mark.parametrize("index", [-1, MAX_CHILD_INDEX + 1, 1 << 32])
def test_index_outside_the_public_children_is_refused(text: str, index: int) -> None:
    """Negative and hardened indexes are the caller's mistake."""
    with pytest.raises(RequestError, match=f"index is {index}, want 0 to 2147483647") as caught:
        parse_address_chain(text, MAINNET).address_at(index)
    assert caught.value.code == "bad-index"


@pytest.mark.parametrize("text", [XPUB, f"wpkh({XPUB}/0/*)"], ids=["key", "descriptor"])
def test_last_public_child_is_derived(text: str) -> None:
    """The highest index that is not hardened has an address of its own."""
    chain = parse_address_chain(text, MAINNET)
    assert chain.address_at(MAX_CHILD_INDEX).text != chain.address_at(MAX_CHILD_INDEX - 1).text


UNREADABLE = [
    pytest.param("", id="empty"),
    pytest.param("xpub", id="prefix alone"),
    pytest.param(XPUB[:-1], id="one character short"),
    pytest.param(XPUB[:-1] + ("k" if XPUB[-1] != "k" else "m"), id="bad checksum"),
    pytest.param(XPUB + " " + XPUB, id="two keys"),
    pytest.param("xpub\u00e9", id="not ASCII"),
    pytest.param(base58.encode_check(b""), id="empty payload"),
    pytest.param(base58.encode_check(PAYLOAD[:3]), id="3 bytes"),
    pytest.param(base58.encode_check(PAYLOAD[:40]), id="40 bytes"),
    pytest.param(base58.encode_check(PAYLOAD[:-1]), id="77 bytes"),
    pytest.param(base58.encode_check(PAYLOAD + b"\x00"), id="79 bytes"),
    pytest.param(base58.encode_check(PAYLOAD[:45] + b"\x02" + b"\xff" * 32), id="no point of the curve"),
    pytest.param(base58.encode_check(PAYLOAD[:45] + b"\x05" + PAYLOAD[46:]), id="odd first byte of the point"),
    pytest.param(base58.encode_check(PAYLOAD[:45] + b"\x04" + PAYLOAD[46:]), id="uncompressed point"),
    pytest.param(base58.encode_check(PAYLOAD[:45] + bytes(33)), id="private key zero under a public version"),
    pytest.param(with_version("0488ade4", PAYLOAD[:45] + bytes(33)), id="private key zero"),
    pytest.param(with_version("0488ade4", PAYLOAD[:45] + b"\x00" + b"\xff" * 32), id="private key above the order"),
    pytest.param(base58.encode_check(PAYLOAD[:4] + b"\x00" + PAYLOAD[5:]), id="depth 0 with a parent"),
    pytest.param(with_version("01020304"), id="unknown version"),
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_key_is_refused(text: str) -> None:
    """Whatever cannot be read as an extended public key is the caller's mistake, and the reason says what is wanted."""
    assert "want xpub, ypub, zpub, tpub, upub, vpub or a descriptor" in refusal_of(text)


MULTISIG_VERSIONS = {"Ypub": "0295b43f", "Zpub": "02aa7ed3", "Upub": "024289ef", "Vpub": "02575483"}


@pytest.mark.parametrize("name", MULTISIG_VERSIONS)
def test_multisig_keys_are_refused(name: str) -> None:
    """A key that is marked for multisig is refused: alone it leads to addresses that nobody watches."""
    network = MAINNET if name in ("Ypub", "Zpub") else TESTNET4
    assert "is for multisig" in refusal_of(with_version(MULTISIG_VERSIONS[name]), network)


@pytest.mark.parametrize("name", MULTISIG_VERSIONS)
def test_multisig_keys_are_refused_in_single_key_descriptors(name: str) -> None:
    """A descriptor does not make a multisig key a single one, and on another network it is refused anyway."""
    refusal_of(f"wpkh({with_version(MULTISIG_VERSIONS[name])}/0/*)")


PRIVATE = [
    pytest.param(XPRV, id="xprv"),
    pytest.param(f"wpkh({XPRV}/0/*)", id="xprv in a descriptor"),
    pytest.param(f"wpkh([73c5da0a/84h/0h/0h]{XPRV}/0/*)", id="xprv with its origin"),
    pytest.param(f"wsh(multi(1,{XPUB}/*,{XPRV}/*))", id="xprv as second key"),
    pytest.param(f"wsh(multi(1,{WIF},{XPUB}/*))", id="WIF beside an xpub"),
]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_keys_are_refused_and_never_repeated(text: str) -> None:
    """A private key is refused wherever it stands, and its owner is told that it was seen."""
    assert "want the public one; treat the private one as seen by others" in refusal_of(text)


WRONG_NETWORKS = [
    pytest.param(TPUB, MAINNET, id="tpub on mainnet"),
    pytest.param(with_version("045f1cf6"), MAINNET, id="vpub on mainnet"),
    pytest.param(XPUB, REGTEST, id="xpub on regtest"),
    pytest.param(ZPUB, TESTNET4, id="zpub on testnet4"),
    pytest.param(f"wpkh({TPUB}/0/*)", MAINNET, id="descriptor with tpub on mainnet"),
    pytest.param(f"wpkh({XPUB}/0/*)", SIGNET, id="descriptor with xpub on signet"),
    pytest.param(f"wsh(multi(1,{XPUB}/0/*,{TPUB}/0/*))", MAINNET, id="descriptor with both"),
]


@pytest.mark.parametrize(("text", "network"), WRONG_NETWORKS)
def test_keys_of_another_network_are_refused(text: str, network: Network) -> None:
    """A key of another network is refused, and the reason names the network of this service."""
    assert f"this service runs on {network.name}" in refusal_of(text, network)


UNREADABLE_DESCRIPTORS = [
    pytest.param("(", id="one parenthesis"),
    pytest.param("()", id="no function"),
    pytest.param("wpkh()", id="no key"),
    pytest.param(f"wpkh({XPUB}/0/*", id="not closed"),
    pytest.param(f"wpkh({XPUB}/0/*)x", id="something behind"),
    pytest.param(f"combo({XPUB}/0/*)", id="unknown function"),
    pytest.param("addr(1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa)", id="addr"),
    pytest.param("raw(00)", id="raw"),
    pytest.param(f"pk({XPUB}/0/*)", id="script without an address"),
    pytest.param(f"wpkh({XPUB}/0h/*)", id="hardened step"),
    pytest.param(f"wpkh({XPUB}/0/*h)", id="hardened wildcard"),
    pytest.param(f"wpkh({XPUB}/x/*)", id="step that is no number"),
    pytest.param(f"wpkh({XPUB}/-1/*)", id="negative step"),
    pytest.param(f"wpkh({XPUB}/4294967296/*)", id="step above 32 bits"),
    pytest.param(f"wpkh({XPUB}/*/*)", id="two wildcards"),
    pytest.param(f"wpkh([zz]{XPUB}/*)", id="origin that is no hex"),
    pytest.param(f"wpkh([dead]{XPUB}/*)", id="origin of two bytes"),
    pytest.param(f"wpkh([deadbeef/x]{XPUB}/*)", id="origin with a bad path"),
    pytest.param(f"wpkh({XPUB}/*)\u00e9", id="not ASCII"),
    pytest.param("wsh(" * 300 + ")" * 300, id="nested 300 deep"),
    pytest.param(f"tr({XPUB}/*," + "{" * 2000, id="tree nested 2000 deep"),
]


@pytest.mark.parametrize("text", UNREADABLE_DESCRIPTORS)
def test_unreadable_descriptor_is_refused(text: str) -> None:
    """Whatever cannot be read as a descriptor is the caller's mistake."""
    assert "descriptor cannot be read" in refusal_of(text)


@pytest.mark.parametrize("text", [f"wpkh({XPUB})", f"wpkh({XPUB}/0/1)", f"wpkh({POINT})"])
def test_descriptor_without_wildcard_is_refused(text: str) -> None:
    """A descriptor of one fixed address is no supply of addresses."""
    assert "descriptor has no '*'" in refusal_of(text)


def test_wildcard_stands_last() -> None:
    """A wildcard in the middle of the path is refused: other wallets do not know such addresses (BIP-380)."""
    refusal_of(f"wpkh({XPUB}/*/0)")


def test_checksum_of_a_descriptor_is_checked() -> None:
    """A descriptor whose checksum does not fit its text has a typing error in it and is refused."""
    right = add_checksum(f"wpkh({XPUB}/0/*)")
    assert parse_address_chain(right, MAINNET).address_at(0)
    for wrong in (
        right[:-1] + ("q" if right[-1] != "q" else "p"),
        right[:-1],
        right + "q",
        right.replace("/0/", "/1/"),
    ):
        assert "descriptor has a wrong checksum" in refusal_of(wrong)


@pytest.mark.parametrize(
    "template", ["KEY", "wpkh(KEY/*)", "wpkh(KEY/0/*)"], ids=["key", "descriptor", "descriptor with a step"]
)
def test_key_too_deep_to_derive_from_is_a_bad_key(template: str) -> None:
    """A key whose depth leaves no room for its children is refused like any other bad key, at the latest when used."""
    deepest = base58.encode_check(PAYLOAD[:4] + b"\xff" + PAYLOAD[5:])
    with pytest.raises(RequestError) as caught:
        parse_address_chain(template.replace("KEY", deepest), MAINNET).address_at(0)
    assert caught.value.code == "bad-key"


KEY_TEXTS = st.one_of(
    st.text(max_size=40),
    st.builds(
        lambda head, body: base58.encode_check(head + body),
        st.sampled_from([PAYLOAD[:4], PAYLOAD[:13], PAYLOAD[:45], PAYLOAD[:46], bytes.fromhex("0488ade4")]),
        st.binary(max_size=75),
    ),
    st.builds(
        lambda text, at, junk: text[: at % len(text)] + junk + text[at % len(text) + 1 :],
        st.sampled_from([f"wpkh({XPUB}/0/*)", f"tr([73c5da0a/86h/0h/0h]{XPUB}/<0;1>/*)", f"wsh(multi(1,{XPUB}/*))"]),
        st.integers(0, 200),
        st.text("0*/h'<>;,()[]{}#:kz\u00e9", max_size=3),
    ),
)


@pytest.mark.slow
@given(KEY_TEXTS)
@settings(deadline=None, max_examples=200)
def test_any_text_is_a_supply_of_addresses_or_a_bad_key(text: str) -> None:
    """Any text at all either leads to an address at index 0, or is the caller's mistake."""
    try:
        address = parse_address_chain(text, MAINNET).address_at(0)
    except RequestError as error:
        code = error.code
    else:
        code = "" if parse_address(address.text, MAINNET) == address else "another address"
    assert code in ("", "bad-key")
