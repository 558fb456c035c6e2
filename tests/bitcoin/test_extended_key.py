"""Extended public keys and descriptors."""

import sys
from types import FrameType
from typing import Any

import pytest
from embit import base58
from embit.descriptor.checksum import add_checksum
from embit.hashes import hash160
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.address import parse_address
from lightipn.bitcoin.extended_key import MAX_CHILD_INDEX, MAX_TEXT_CHARS, parse_address_chain
from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST, SIGNET, TESTNET4, Network
from lightipn.errors import RequestError
from tests.bitcoin.keys import (
    BIP32,
    PAYLOAD,
    POINT,
    TPUB,
    VECTORS,
    WIF,
    XPRV,
    XPUB,
    ZPUB,
    at_depth,
    branch_of,
    plain_of,
    refusal_of,
    refusals_of,
    row_id,
    supply_of,
    with_version,
)


@pytest.mark.parametrize("row", BIP32["steps"], ids=row_id)
def test_children_are_the_published_ones(row: Any) -> None:
    """Address N of an extended key pays to the public key of its published child N."""
    script = b"\x76\xa9\x14" + hash160(base58.decode_check(row["child"])[45:]) + b"\x88\xac"
    assert parse_address_chain(row["parent"], MAINNET).address_at(row["index"]).script == script


@pytest.mark.parametrize("row", BIP32["invalid"], ids=row_id)
def test_published_invalid_keys_are_refused(row: Any) -> None:
    """Every key that BIP-32 calls invalid is refused, alone and in a descriptor."""
    refusal_of(row["key"])
    refusal_of(f"wpkh({row['key']}/0/*)")


@pytest.mark.parametrize("row", [row for row in VECTORS if "86" not in row["name"]], ids=row_id)
def test_prefix_of_the_key_chooses_the_kind_of_address(row: Any) -> None:
    """An extended key gives the published addresses of its prefix: P2PKH, P2SH-P2WPKH or P2WPKH."""
    network = NETWORKS[row["network"]]
    chain = parse_address_chain(f" {branch_of(row['key'], 0)}\n", network)
    assert chain.address_at(0) == parse_address(row["first"], network)
    if row["second"]:
        assert chain.address_at(1) == parse_address(row["second"], network)


@pytest.mark.parametrize("row", VECTORS, ids=row_id)
def test_descriptors_give_the_published_addresses(row: Any) -> None:
    """A descriptor over an account key gives the account's published receive addresses, with and without checksum."""
    network = NETWORKS[row["network"]]
    descriptor = row["descriptor"].replace("KEY", f"[73c5da0a/84h/0h/0h]{plain_of(row)}")
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
    assert address != parse_address_chain(branch_of(ZPUB, 0), MAINNET).address_at(5).text
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


PRIVATE_VERSIONS = {
    "xprv": "0488ade4",
    "yprv": "049d7878",
    "zprv": "04b2430c",
    "Yprv": "0295b005",
    "Zprv": "02aa7a99",
    "tprv": "04358394",
    "uprv": "044a4e28",
    "vprv": "045f18bc",
    "Uprv": "024285b5",
    "Vprv": "02575048",
}
PRIVATE = [
    *[pytest.param(row["private"], id=f"{row['name']} account") for row in VECTORS if row["private"]],
    *[
        pytest.param(with_version(version, PAYLOAD[:45] + bytes(32) + b"\x01"), id=name)
        for name, version in PRIVATE_VERSIONS.items()
    ],
    *[
        pytest.param(
            f"wpkh({with_version(version, PAYLOAD[:45] + bytes(32) + b'X')}/0/*)", id=f"{name} in a descriptor"
        )
        for name, version in PRIVATE_VERSIONS.items()
    ],
    pytest.param(f"wpkh([73c5da0a/84h/0h/0h]{XPRV}/0/*)", id="xprv with its origin"),
    pytest.param(f"wpkh({XPRV}/84h/0h/0h/0/*)", id="xprv with hardened steps"),
    pytest.param(f"wpkh({XPRV}/0/<0;1>/*)", id="xprv with branches"),
    pytest.param(add_checksum(f"tr({XPRV}/0/*)"), id="xprv with a checksum"),
    pytest.param(f"tr({XPUB}/0/*,pk({XPRV}/0/*))", id="xprv in a tree"),
    pytest.param(f"wsh(multi(1,{XPUB}/*,{XPRV}/*))", id="xprv as second key"),
    pytest.param(f"wsh(multi(1,{WIF},{XPUB}/*))", id="WIF beside an xpub"),
]


@pytest.mark.parametrize("text", PRIVATE)
@pytest.mark.parametrize("network", [MAINNET, REGTEST], ids=lambda network: network.name)
def test_private_keys_are_refused_and_never_repeated(text: str, network: Network) -> None:
    """A private key is refused wherever it stands and on any network, and its owner is told that it was seen."""
    text = text.replace(XPUB, XPUB if network is MAINNET else TPUB)
    assert "want the public one; treat the private one as seen by others" in refusal_of(text, network)


HIDDEN_SECRETS = [
    pytest.param(WIF, id="WIF"),
    pytest.param(f"wpkh({WIF})", id="WIF in a descriptor"),
    pytest.param(XPRV[:-1], id="xprv cut short"),
    pytest.param(f"({XPRV}", id="xprv behind a parenthesis"),
    pytest.param(f"wpkh({XPRV[:-1]}/0/*)", id="xprv cut short in a descriptor"),
    pytest.param(f"wpkh([{XPRV}]{XPUB}/0/*)", id="xprv as an origin"),
    pytest.param(f"wpkh({XPUB}/{XPRV}/*)", id="xprv as a step"),
    pytest.param(f"wpkh({XPUB}/0/*)#{XPRV}", id="xprv as a checksum"),
    pytest.param(f"wpkh({XPUB}/0/*){XPRV}", id="xprv behind a descriptor"),
    pytest.param(f"{XPRV}({XPUB}/0/*)", id="xprv as a function"),
    pytest.param(f"{XPUB},{XPRV}", id="xprv behind an xpub"),
    pytest.param("abandon abandon abandon abandon", id="words"),
    pytest.param("c9bdb49cfbaedca21c4b1f3a7803c34636b1d7dc55a717132443fc3f4c5867e8", id="hex"),
]


@pytest.mark.parametrize("text", HIDDEN_SECRETS)
def test_secrets_that_are_not_recognised_are_not_repeated(text: str) -> None:
    """A secret in a place where none is looked for makes the text unreadable, and stays out of the reason."""
    refusal_of(text)


def test_too_long_text_is_refused() -> None:
    """A text is read up to 4,096 characters, not counting the blanks around it; a longer one is refused unread."""
    longest = "(" + XPUB * (MAX_TEXT_CHARS // len(XPUB))
    longest += "x" * (MAX_TEXT_CHARS - len(longest))
    assert "cannot be read" in refusal_of(longest)
    assert "has 4097 characters, want at most 4096" in refusal_of(longest + "x")
    assert "has 1000000 characters, want at most 4096" in refusal_of("(" * 1_000_000)
    padded = f"{' ' * MAX_TEXT_CHARS}{XPUB}{' ' * MAX_TEXT_CHARS}"
    assert parse_address_chain(padded, MAINNET).identity == parse_address_chain(XPUB, MAINNET).identity


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
    "text",
    [
        pytest.param(at_depth(255), id="key"),
        pytest.param(f"wpkh({at_depth(255)}/*)", id="descriptor"),
        pytest.param(f"wpkh({at_depth(255)}/0/*)", id="descriptor with a step"),
        pytest.param(f"wpkh({at_depth(254)}/0/*)", id="descriptor with the last step"),
        pytest.param(f"wpkh({at_depth(1)}{'/0' * 254}/*)", id="descriptor with 254 steps"),
        pytest.param(f"wsh(multi(1,{XPUB}/*,{at_depth(255)}/*))", id="second key of a multisig"),
    ],
)
def test_key_too_deep_to_derive_from_is_a_bad_key(text: str) -> None:
    """A key whose depth leaves no room for its children is refused when it is read, not when it is first used."""
    refusals_of(text)


def test_account_too_deep_for_its_branch_is_a_bad_key() -> None:
    """An account key of depth 254 has children, but its branch for receiving has none: as an account it is refused."""
    assert parse_address_chain(at_depth(254), MAINNET).address_at(0)
    with pytest.raises(RequestError) as caught:
        supply_of(at_depth(254), MAINNET)
    assert caught.value.code == "bad-key"
    assert supply_of(at_depth(253), MAINNET).address_at(0)


WITHOUT_ADDRESSES = [
    pytest.param(f"wsh(multi(1,{XPUB}/0/*,{XPUB}/<*;1>))", id="wildcard among branches"),
    pytest.param(f"wsh(and_v(v:pkh({'z' * 40}),pk({XPUB}/*)))", id="hash that is no hex"),
]


@pytest.mark.parametrize("text", WITHOUT_ADDRESSES)
def test_descriptor_without_addresses_is_refused(text: str) -> None:
    """What leads to no address is refused when it is read: who works on it later could not tell the caller."""
    refusal_of(text)


class TooMuchWorkError(BaseException):
    """More functions were called than any honest text needs; no ``Exception``, so that nobody swallows it."""


def derive_within(text: str, calls: int) -> None:
    """Read a text and derive its first address, or let it be refused, within so many calls of Python functions."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"
        if count > calls:
            sys.setprofile(None)
            raise TooMuchWorkError

    sys.setprofile(profile)
    try:
        supply_of(text, MAINNET).address_at(0)
    except RequestError:
        pass
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"sh(wsh(sortedmulti(8,{','.join([f'[73c5da0a/48h]{XPUB}/0/*'] * 15)})))", id="8 of 15"),
        pytest.param(f"tr({XPUB}/0/*,{{pk({XPUB}/1/*),pk({XPUB}/2/*)}})", id="tree"),
        pytest.param(f"wsh({'n' * 200}:pk({XPUB}/*))", id="200 wrappers"),
        pytest.param(f"wsh({'n' * 350}:pk({XPUB}/*))", id="350 wrappers"),
        pytest.param(f"wsh({'tv' * 40}:pk({XPUB}/*))", id="40 verifying wrappers"),
        pytest.param("wsh(" * 300 + ")" * 300, id="nested 300 deep"),
        pytest.param("(" * MAX_TEXT_CHARS, id="parentheses"),
        pytest.param("1" * MAX_TEXT_CHARS, id="ones"),
        pytest.param("z" * MAX_TEXT_CHARS, id="letters"),
    ],
)
def test_work_for_a_text_is_bounded(text: str) -> None:
    """Any text leads to an address or a refusal within some ten thousand calls: no caller can stop the service."""
    derive_within(text, 30_000)


PARTS = st.sampled_from(
    [
        f"{XPUB}/0/*",
        f"{XPUB}/<0;1>/*",
        f"{XPUB}/*",
        f"{TPUB}/*",
        f"{XPRV}/*",
        ZPUB,
        POINT,
        POINT[2:],
        WIF,
        "a" * 40,
        "1",
    ]
)
FUNCTIONS = ["wpkh", "pkh", "sh", "wsh", "tr", "pk", "multi", "sortedmulti", "v:pk", "and_v", "or_i", "older", "sha256"]
DESCRIPTORS = st.recursive(
    PARTS,
    lambda inner: st.builds(
        lambda function, arguments: f"{function}({','.join(arguments)})",
        st.sampled_from(FUNCTIONS),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)
KEY_TEXTS = st.one_of(
    st.text(max_size=40),
    st.builds(
        lambda head, body: base58.encode_check(head + body),
        st.sampled_from([PAYLOAD[:4], PAYLOAD[:13], PAYLOAD[:45], PAYLOAD[:46], bytes.fromhex("0488ade4")]),
        st.binary(max_size=75),
    ),
    st.builds(at_depth, st.integers(0, 255)),
    DESCRIPTORS,
    st.builds(add_checksum, DESCRIPTORS),
    st.builds(
        lambda text, at, junk: text[: at % len(text)] + junk + text[at % len(text) + 1 :],
        st.sampled_from([f"wpkh({XPUB}/0/*)", f"tr([73c5da0a/86h/0h/0h]{XPUB}/<0;1>/*)", f"wsh(multi(1,{XPUB}/*))"]),
        st.integers(0, 200),
        st.text("0*/h'<>;,()[]{}#:kz\u00e9", max_size=3),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("parse", [parse_address_chain, supply_of], ids=["key", "account"])
@given(text=KEY_TEXTS)
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_supply_of_addresses_or_a_bad_key(parse: Any, text: str) -> None:
    """Any text at all either has an address at the first and the last index, or is the caller's mistake when read."""
    try:
        chain = parse(text, MAINNET)
    except RequestError as error:
        code = error.code
    else:
        code = ""
        for index in (0, MAX_CHILD_INDEX):
            address = chain.address_at(index)
            assert parse_address(address.text, MAINNET) == address
    assert code in ("", "bad-key")
