"""The supply for receiving on an account key: its kinds, its branch, and by what it is known again."""

import hashlib
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest
from embit import base58
from embit.descriptor.checksum import add_checksum
from embit.hashes import hash160
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.address import parse_address
from lightipn.bitcoin.extended_key import ScriptKind, parse_address_chain, parse_receive_chains
from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST
from lightipn.errors import RequestError
from tests.bitcoin.keys import (
    BIP32,
    PAYLOAD,
    POINT,
    TPUB,
    VECTORS,
    XPUB,
    ZPUB,
    branch_of,
    plain_of,
    row_id,
    supply_of,
    with_version,
)

KINDS = {
    "BIP-44": ScriptKind.P2PKH,
    "BIP-49": ScriptKind.P2SH_P2WPKH,
    "BIP-84": ScriptKind.P2WPKH,
    "BIP-86": ScriptKind.P2TR,
}
FUNCTIONS = {
    ScriptKind.P2PKH: "pkh(KEY)",
    ScriptKind.P2SH_P2WPKH: "sh(wpkh(KEY))",
    ScriptKind.P2WPKH: "wpkh(KEY)",
    ScriptKind.P2TR: "tr(KEY)",
}
VERSIONS = {"xpub": "0488b21e", "ypub": "049d7cb2", "zpub": "04b24746"}
ZPUB_OF_XPUB = with_version(VERSIONS["zpub"])
SECOND_KEY = VECTORS[3]["key"]
ORIGIN = "[73c5da0a/84h/0h/0h]"


def kind_of(row: Any) -> ScriptKind:
    """Return the kind of script that the wallet of a vector uses."""
    return KINDS[row["name"].split()[0]]


@pytest.mark.parametrize("row", [row for row in VECTORS if "86" not in row["name"]], ids=row_id)
def test_supply_is_branch_0_of_the_kind_that_the_prefix_says(row: Any) -> None:
    """An account key gives the account's published receive addresses, of the kind of its prefix, and no change."""
    network = NETWORKS[row["network"]]
    chain = supply_of(f"\t{row['key']}\n", network)
    assert chain.kind is kind_of(row)
    assert chain.address_at(0) == parse_address(row["first"], network)
    if row["second"]:
        assert chain.address_at(1) == parse_address(row["second"], network)


@pytest.mark.parametrize("row", VECTORS, ids=row_id)
@pytest.mark.parametrize("name", VERSIONS)
def test_kind_that_is_asked_for_wins_over_the_prefix(row: Any, name: str) -> None:
    """With a kind asked for, P2TR among them, the key gives addresses of that kind whatever its prefix says."""
    network = NETWORKS[row["network"]]
    versions = VERSIONS if network is MAINNET else {"xpub": "043587cf", "ypub": "044a5262", "zpub": "045f1cf6"}
    key = with_version(versions[name], base58.decode_check(row["key"]))
    chain, _ = parse_receive_chains(key, network, kind=kind_of(row))
    assert chain.kind is kind_of(row)
    assert chain.address_at(0) == parse_address(row["first"], network)
    if row["second"]:
        assert chain.address_at(1) == parse_address(row["second"], network)


@pytest.mark.parametrize("row", [row for row in VECTORS if row["change"]], ids=row_id)
def test_change_is_branch_1(row: Any) -> None:
    """The published change address is on branch 1, which only a descriptor leads to."""
    text = row["descriptor"].replace("KEY/0", f"{plain_of(row)}/1")
    assert supply_of(text, MAINNET).address_at(0) == parse_address(row["change"], MAINNET)


def test_branch_is_derived_as_published() -> None:
    """Branch 0 of BIP-32's second master key is its published child 0, whose children are given away."""
    [step] = [row for row in BIP32["steps"] if row["name"] == "m/0"]
    branch = parse_address_chain(step["child"], MAINNET)
    supply = supply_of(step["parent"], MAINNET)
    assert supply.identity == branch.identity
    assert [supply.address_at(index) for index in range(5)] == [branch.address_at(index) for index in range(5)]


@pytest.mark.parametrize("kind", [None, *ScriptKind])
def test_supplies_of_a_key_are_one_of_each_kind(kind: ScriptKind | None) -> None:
    """Beside the supply come all four of the same branch, whichever is asked for; the supply is one of them."""
    chain, siblings = parse_receive_chains(ZPUB, MAINNET, kind=kind)
    assert {each.kind for each in siblings} == set(ScriptKind)
    assert len(siblings) == len({each.identity for each in siblings}) == len(ScriptKind)
    [same] = [each for each in siblings if each.identity == chain.identity]
    assert same.kind is chain.kind is (kind or ScriptKind.P2WPKH)
    found = {each.kind: each.address_at(0) for each in siblings}
    for wanted, function in FUNCTIONS.items():
        text = function.replace("KEY", f"{with_version('0488b21e', base58.decode_check(ZPUB))}/0/*")
        assert found[wanted] == parse_address_chain(text, MAINNET).address_at(0)


@pytest.mark.parametrize("kind", ScriptKind)
def test_spellings_of_one_supply_have_one_identity(kind: ScriptKind) -> None:
    """A supply is known again by its key, branch and kind: prefix, origin, checksum and way of asking do not matter."""
    keys = [with_version(version) for version in VERSIONS.values()]
    steps = ["/0/*", "/<0;1>/*", "/{0,1}/*"]
    descriptors = [FUNCTIONS[kind].replace("KEY", f"{origin}{XPUB}{step}") for origin in ("", ORIGIN) for step in steps]
    descriptors.append(FUNCTIONS[kind].replace("KEY", f"[73C5DA0A/84'/0'/0']{XPUB}/0/*"))
    descriptors.append(FUNCTIONS[kind].replace("KEY", f"{ZPUB_OF_XPUB}/0/*"))
    descriptors.append(FUNCTIONS[kind].replace("KEY", f"{branch_of(XPUB, 0)}/*"))
    chains = [parse_receive_chains(key, MAINNET, kind=kind)[0] for key in keys]
    chains += [supply_of(text, MAINNET) for text in descriptors]
    chains += [supply_of(add_checksum(text), MAINNET) for text in descriptors]
    chains += [parse_address_chain(text, MAINNET) for text in descriptors]
    chains += [parse_receive_chains(text, MAINNET, kind=kind)[0] for text in descriptors]
    assert {chain.kind for chain in chains} == {kind}
    assert len({chain.identity for chain in chains}) == 1
    assert len(chains[0].identity) == 32
    assert len({chain.address_at(7) for chain in chains}) == 1


def test_where_a_key_stands_does_not_change_its_identity() -> None:
    """Depth, parent and number of a key lead to no other addresses, so they make no other supply."""
    moved = base58.encode_check(PAYLOAD[:4] + b"\x03" + b"\xaa" * 4 + b"\x80\x00\x00\x07" + PAYLOAD[13:])
    assert supply_of(moved, MAINNET).identity == supply_of(XPUB, MAINNET).identity


def test_each_part_of_a_supply_counts_for_its_identity() -> None:
    """Another branch, kind, public key or chain code makes another supply."""
    other_code = base58.encode_check(PAYLOAD[:13] + bytes(32) + PAYLOAD[45:])
    other_point = base58.encode_check(PAYLOAD[:45] + bytes.fromhex(POINT))
    chains = [parse_address_chain(f"wpkh({XPUB}{steps}/*)", MAINNET) for steps in ("", "/0", "/1", "/0/0", "/<2;1>")]
    for key in (XPUB, other_code, other_point, SECOND_KEY):
        chains += [parse_receive_chains(key, MAINNET, kind=ScriptKind.P2PKH)[0]]
        chains += [parse_receive_chains(key, MAINNET, kind=ScriptKind.P2TR)[0]]
    assert len({chain.identity for chain in chains}) == len(chains)
    assert len({chain.address_at(0) for chain in chains}) == len(chains)


def test_first_of_several_branches_is_taken() -> None:
    """Of ``<1;0>`` the first branch counts, for the addresses and for the identity alike."""
    chosen, plain = (supply_of(f"wpkh({XPUB}/{step}/*)", MAINNET) for step in ("<1;0>", "1"))
    assert (chosen.identity, chosen.address_at(0)) == (plain.identity, plain.address_at(0))


@dataclass(frozen=True)
class Spelling:
    """One way to write a supply down."""

    key: str
    branch: int
    kind: ScriptKind
    origin: str
    is_multipath: bool

    @property
    def text(self) -> str:
        """The descriptor."""
        step = f"<{self.branch};9>" if self.is_multipath else str(self.branch)
        return FUNCTIONS[self.kind].replace("KEY", f"{self.origin}{self.key}/{step}/*")


SPELLINGS = st.builds(
    Spelling,
    key=st.sampled_from([XPUB, ZPUB_OF_XPUB, SECOND_KEY]),
    branch=st.sampled_from([0, 1]),
    kind=st.sampled_from(ScriptKind),
    origin=st.sampled_from(["", ORIGIN]),
    is_multipath=st.booleans(),
)


@given(SPELLINGS, SPELLINGS)
@settings(deadline=None, max_examples=50)
def test_same_identity_is_same_addresses(one: Spelling, other: Spelling) -> None:
    """Two descriptors of one key have the same identity exactly where they have the same addresses."""
    first, second = (supply_of(spelling.text, MAINNET) for spelling in (one, other))
    assert (first.identity == second.identity) == (first.address_at(3) == second.address_at(3))


def test_descriptor_has_no_other_supplies() -> None:
    """A descriptor says its kind itself, so its supply is the only one; an equal kind may be asked for, no other."""
    text = f"sh(wpkh({XPUB}/0/*))"
    chain, siblings = parse_receive_chains(text, MAINNET)
    assert siblings == (chain,)
    assert parse_receive_chains(text, MAINNET, kind=ScriptKind.P2SH_P2WPKH)[0].identity == chain.identity
    for kind in set(ScriptKind) - {ScriptKind.P2SH_P2WPKH}:
        with pytest.raises(RequestError, match="contradicts the descriptor") as caught:
            parse_receive_chains(text, MAINNET, kind=kind)
        assert caught.value.code == "bad-address-type"


MULTISIG = [
    pytest.param("sh(multi(2,{0},{1}))", id="P2SH"),
    pytest.param("wsh(multi(2,{0},{1}))", id="P2WSH"),
    pytest.param("sh(wsh(multi(2,{0},{1})))", id="P2WSH in P2SH"),
    pytest.param("wsh(sortedmulti(1,{0},{1}))", id="sorted"),
]


@pytest.mark.parametrize("template", MULTISIG)
def test_multisig_is_a_supply_of_its_own(template: str) -> None:
    """A multisig descriptor has no kind, an identity that no checksum changes, and contradicts any kind."""
    text = template.format(f"{ORIGIN}{XPUB}/0/*", f"{SECOND_KEY}/<0;1>/*")
    chain, siblings = parse_receive_chains(text, MAINNET)
    assert (chain.kind, siblings) == (None, (chain,))
    assert len(chain.identity) == 32
    assert supply_of(add_checksum(text), MAINNET).identity == chain.identity
    assert supply_of(f" {text} ", MAINNET).identity == chain.identity
    assert chain.address_at(0) != chain.address_at(1)
    for kind in ScriptKind:
        with pytest.raises(RequestError) as caught:
            parse_receive_chains(text, MAINNET, kind=kind)
        assert caught.value.code == "bad-address-type"


PAIRS = [f"{XPUB}/0/*,{SECOND_KEY}/0/*", f"{XPUB}/0/*,{XPUB}/1/*"]


def test_multisig_supplies_differ() -> None:
    """Whatever changes a multisig's addresses changes its identity."""
    texts = [f"wsh({name}({count},{pair}))" for name in ("multi", "sortedmulti") for count in (1, 2) for pair in PAIRS]
    texts += [f"sh({texts[0]})", f"sh(multi(1,{PAIRS[0]}))"]
    chains = [supply_of(text, MAINNET) for text in texts]
    assert {chain.kind for chain in chains} == {None}
    assert len({chain.identity for chain in chains}) == len(texts)
    # Several indexes, for the keys may happen to be sorted at one of them.
    assert len({tuple(chain.address_at(index) for index in range(16)) for chain in chains}) == len(texts)
    singles = {each.identity for each in parse_receive_chains(XPUB, MAINNET)[1]}
    assert not singles & {chain.identity for chain in chains}


def test_multisig_pays_to_the_keys_at_the_index() -> None:
    """Address N of a P2WSH multisig is the hash of the script with child N of every key, in the order written."""
    found = supply_of(f"wsh(multi(2,{XPUB}/0/*,{SECOND_KEY}/0/*))", MAINNET).address_at(9)
    points = [child_point(key, 9) for key in (XPUB, SECOND_KEY)]
    witness_script = b"\x52" + b"".join(b"\x21" + point for point in points) + b"\x52\xae"
    assert found.script == b"\x00\x20" + hashlib.sha256(witness_script).digest()


def child_point(account: str, index: int) -> bytes:
    """Return the public key of child ``index`` of branch 0."""
    return bytes(base58.decode_check(branch_of(branch_of(account, 0), index))[45:])


def test_sorted_multisig_does_not_mind_the_order() -> None:
    """``sortedmulti`` sorts its keys at each index, ``multi`` keeps their order (BIP-67)."""
    keys = [f"{XPUB}/0/*", f"{SECOND_KEY}/0/*", f"{XPUB}/1/*"]
    orders = [",".join(order) for order in permutations(keys)]
    for name, count in (("sortedmulti", 1), ("multi", 6)):
        addresses = {supply_of(f"wsh({name}(2,{order}))", MAINNET).address_at(4) for order in orders}
        assert len(addresses) == count


def test_supply_is_of_the_network_of_the_service() -> None:
    """The same test key leads to addresses of the network that the service runs on."""
    chain = parse_receive_chains(TPUB, REGTEST, kind=ScriptKind.P2WPKH)[0]
    assert chain.network is REGTEST
    assert chain.address_at(0).text.startswith("bcrt1q")
    assert chain.address_at(0).script == b"\x00\x14" + hash160(child_point(TPUB, 0))
