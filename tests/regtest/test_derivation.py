"""Addresses of a wallet's own descriptors: bitcoind derives the same ones."""

from itertools import combinations

import pytest

from lightipn.bitcoin.extended_key import (
    MAX_CHILD_INDEX,
    AddressChain,
    ScriptKind,
    parse_address_chain,
    parse_receive_chains,
)
from lightipn.bitcoin.network import REGTEST
from tests.regtest.nodes import AddressKind, Bitcoind

WALLET = "receiver"
FUNCTIONS = {
    ScriptKind.P2PKH: "pkh(",
    ScriptKind.P2SH_P2WPKH: "sh(wpkh(",
    ScriptKind.P2WPKH: "wpkh(",
    ScriptKind.P2TR: "tr(",
}
ADDRESS_KINDS: dict[ScriptKind, AddressKind] = {
    ScriptKind.P2PKH: "legacy",
    ScriptKind.P2SH_P2WPKH: "p2sh-segwit",
    ScriptKind.P2WPKH: "bech32",
    ScriptKind.P2TR: "bech32m",
}
COUNT = 50
RANGES = ((0, COUNT - 1), (1_000_000_000, 1_000_000_004), (MAX_CHILD_INDEX - 4, MAX_CHILD_INDEX - 1))


async def descriptors_of(bitcoind: Bitcoind, kind: ScriptKind) -> dict[bool, str]:
    """Return the wallet's descriptors of one kind, by whether they are for change."""
    listed = (await bitcoind.rpc("listdescriptors", wallet=WALLET))["descriptors"]
    found = {each["internal"]: each["desc"] for each in listed if each["desc"].startswith(FUNCTIONS[kind])}
    assert set(found) == {False, True}
    return found


async def with_checksum(bitcoind: Bitcoind, body: str) -> str:
    """Return a descriptor with bitcoind's checksum."""
    return f"{body}#{(await bitcoind.rpc('getdescriptorinfo', body))['checksum']}"


async def assert_same(bitcoind: Bitcoind, descriptor: str, chain: AddressChain, *, branch: int | None = None) -> None:
    """Compare addresses at low, high and the highest indexes, and the script of one, with bitcoind's.

    Args:
        branch: which of a descriptor's several branches; None where it has but one.
    """
    for first, last in RANGES:
        theirs = await bitcoind.rpc("deriveaddresses", descriptor, [first, last])
        theirs = theirs if branch is None else theirs[branch]
        ours = [chain.address_at(index) for index in range(first, last + 1)]
        assert [address.text for address in ours] == theirs
        told = await bitcoind.rpc("validateaddress", theirs[-1])
        assert ours[-1].script.hex() == told["scriptPubKey"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ScriptKind)
async def test_wallet_descriptors_give_bitcoinds_addresses(bitcoind: Bitcoind, kind: ScriptKind) -> None:
    """The wallet's own descriptors, for receiving and for change, give the addresses that bitcoind derives of them."""
    for descriptor in (await descriptors_of(bitcoind, kind)).values():
        chain, _ = parse_receive_chains(descriptor, REGTEST)
        assert chain.kind is kind
        await assert_same(bitcoind, descriptor, chain)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ScriptKind)
async def test_wallet_accounts_give_bitcoinds_addresses(bitcoind: Bitcoind, kind: ScriptKind) -> None:
    """The bare account key with the kind asked for gives what bitcoind derives of the descriptor, and is the same."""
    descriptor = (await descriptors_of(bitcoind, kind))[False]
    chain, siblings = parse_receive_chains(await bitcoind.account_key(ADDRESS_KINDS[kind]), REGTEST, kind=kind)
    assert chain.identity == parse_receive_chains(descriptor, REGTEST)[0].identity
    assert len(siblings) == len(ScriptKind)
    await assert_same(bitcoind, descriptor, chain)


@pytest.mark.slow
async def test_wallet_owns_what_is_derived(bitcoind: Bitcoind) -> None:
    """The wallet knows the first derived addresses of its descriptors as its own, so it can spend what they receive."""
    for kind in ScriptKind:
        chain = parse_address_chain((await descriptors_of(bitcoind, kind))[False], REGTEST)
        told = await bitcoind.rpc("getaddressinfo", chain.address_at(0).text, wallet=WALLET)
        assert (told["ismine"], told["solvable"]) == (True, True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ScriptKind)
async def test_first_of_several_branches_is_bitcoinds_first(bitcoind: Bitcoind, kind: ScriptKind) -> None:
    """Of ``<0;1>`` our addresses are the ones that bitcoind derives of the first branch (BIP-389)."""
    descriptor = (await descriptors_of(bitcoind, kind))[False]
    body = descriptor.partition("#")[0]
    chain = parse_address_chain(descriptor, REGTEST)
    for branches, place in (("<0;1>", 0), ("<1;0>", 1)):
        several = await with_checksum(bitcoind, body.replace("/0/*", f"/{branches}/*"))
        found = parse_address_chain(several, REGTEST)
        assert (found.identity == chain.identity) == (place == 0)
        await assert_same(bitcoind, several, found, branch=0)
        await assert_same(bitcoind, several, chain, branch=place)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["sh({})", "wsh({})", "sh(wsh({}))"])
@pytest.mark.parametrize("name", ["multi", "sortedmulti"])
async def test_multisig_gives_bitcoinds_addresses(bitcoind: Bitcoind, template: str, name: str) -> None:
    """A multisig descriptor of the wallet's accounts gives the addresses that bitcoind derives of it."""
    keys = [await bitcoind.account_key(ADDRESS_KINDS[kind]) for kind in ScriptKind]
    for count, pair in enumerate(combinations(keys[:3], 2)):
        inner = f"{name}({1 + count % 2},{','.join(f'{key}/0/*' for key in pair)})"
        descriptor = await with_checksum(bitcoind, template.format(inner))
        chain = parse_address_chain(descriptor, REGTEST)
        assert chain.kind is None
        await assert_same(bitcoind, descriptor, chain)
