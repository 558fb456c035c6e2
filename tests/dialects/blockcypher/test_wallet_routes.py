"""``/wallets`` as clients call it: given and derived addresses, and the hooks that are about them."""

from typing import Any

import pytest

from lightipn.bitcoin.extended_key import descriptor_of, parse_address_chain
from lightipn.bitcoin.network import REGTEST
from lightipn.store import supplies
from lightipn.store.database import Database
from tests.builders import SEEN_AT, payment
from tests.dialects.blockcypher.rig import (
    HOOKS,
    UNKNOWN_ID,
    URL,
    V1,
    happen,
    hook,
    live_addresses,
    paid_at,
    refused,
    shown,
    told,
    watched,
)
from tests.dialects.receive.rig import TPRV, TPUB, VPUB
from tests.dialects.rig import ADDRESS, TIP, Caller
from tests.store.rows import regtest_address

WALLETS = f"{V1}/wallets"
ONE, TWO, THREE = (regtest_address(number) for number in (1, 2, 3))


async def wallet(caller: Caller, *addresses: str, name: str = "shop") -> dict[str, Any]:
    """Make a wallet of these addresses."""
    return dict(await caller.call("POST", WALLETS, json={"name": name, "addresses": list(addresses)}))


async def scanned(caller: Caller, key: str, *branches: int | None) -> None:
    """Have a key's branches be looked at already, and nothing be found."""

    def work(db: Database) -> None:
        for branch in branches:
            source = descriptor_of(key, REGTEST, branch=branch)
            chain = parse_address_chain(source, REGTEST)
            assert chain.kind is not None
            supplies.add_supply(db, identity=chain.identity, kind=chain.kind.value, source=source, now=SEEN_AT)
            record = supplies.load_supply(db, chain.identity)
            assert record is not None
            supplies.save_scan(db, record.chain_id, scanned_to=200, used_to=-1, ahead=20)

    await caller.store.transact(work)


async def derived(caller: Caller, *branches: int, key: str = VPUB, name: str = "till") -> dict[str, Any]:
    """Make a wallet of a key that was looked at."""
    await scanned(caller, key, *(branches or (None,)))
    fields = {"name": name, "extended_public_key": key, "subchain_indexes": list(branches)}
    return dict(await caller.call("POST", f"{WALLETS}/hd", json=fields))


def address_at(branch: int | None, index: int, key: str = VPUB) -> str:
    """Return an address of a key's branch."""
    return parse_address_chain(descriptor_of(key, REGTEST, branch=branch), REGTEST).address_at(index).text


async def derive(caller: Caller, name: str = "till", **more: Any) -> list[tuple[str, str]]:
    """Derive addresses, and return each with its path."""
    made = await caller.call("POST", f"{WALLETS}/hd/{name}/addresses/derive", json=more)
    return [(one["address"], one["path"]) for chain in made["chains"] for one in chain["chain_addresses"]]


# --- given addresses ---------------------------------------------------------------------------------------------


async def test_wallet_of_given_addresses(caller: Caller) -> None:
    """A wallet is 201 with its name, token and addresses; it is shown under both of its paths, and listed."""
    answer = await caller.client.post(
        WALLETS, params={"token": caller.secret}, json={"name": "shop", "addresses": [TWO.text, ONE.text]}
    )
    assert answer.status_code == 201
    assert answer.json() == {"name": "shop", "addresses": [TWO.text, ONE.text], "token": caller.secret}
    found = {"name": "shop", "addresses": [TWO.text, ONE.text]}
    for path in (f"{WALLETS}/shop", f"{WALLETS}/shop/", f"{WALLETS}/shop/addresses"):
        assert await caller.call("GET", path) == found
    await wallet(caller, name="empty")
    assert await caller.call("GET", WALLETS) == {"wallet_names": ["empty", "shop"]}
    assert await caller.call("GET", f"{WALLETS}/hd") == {"wallet_names": []}
    assert await watched(caller, ONE)


async def test_addresses_come_and_go(caller: Caller) -> None:
    """Addresses are added once, and taken out by query or body; what nobody wants is not watched any more."""
    await wallet(caller, ONE.text)
    found = await caller.call("POST", f"{WALLETS}/shop/addresses", json={"addresses": [TWO.text, ONE.text, THREE.text]})
    assert sorted(found["addresses"]) == sorted([ONE.text, TWO.text, THREE.text])
    path = f"{WALLETS}/shop/addresses"
    answer = await caller.client.delete(path, params={"address": f"{ONE.text};{TWO.text}"}, headers=caller.key)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await caller.call("GET", path))["addresses"] == [THREE.text]
    body = {"addresses": [THREE.text]}
    answer = await caller.client.request("DELETE", path, json=body, headers=caller.key)
    assert answer.status_code == 204
    assert (await caller.call("GET", path))["addresses"] == []
    assert [await watched(caller, address) for address in (ONE, TWO, THREE)] == [False] * 3


async def test_removed_wallet_is_gone_with_its_hooks(caller: Caller) -> None:
    """With a wallet go the hooks about it; what others want stays watched; the name is free again."""
    await wallet(caller, ONE.text, TWO.text)
    hook_id = await hook(caller, wallet_name="shop")
    await hook(caller, address=TWO.text)
    answer = await caller.client.delete(f"{WALLETS}/shop", headers=caller.key)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await refused(caller, "GET", f"{WALLETS}/shop"))[0] == 404
    assert (await refused(caller, "GET", f"{HOOKS}/{hook_id}"))[0] == 404
    assert await live_addresses(caller) == [TWO.text]
    assert [await watched(caller, ONE), await watched(caller, TWO)] == [False, True]
    assert (await wallet(caller))["addresses"] == []


async def test_wallets_are_their_owners(caller: Caller) -> None:
    """Another owner has wallets of its own under the same names, and sees no other's."""
    await wallet(caller, ONE.text)
    other = await caller.foreign_key()
    for method, path, body in (
        ("GET", "/shop", None),
        ("GET", "/shop/addresses", None),
        ("POST", "/shop/addresses", {"addresses": [TWO.text]}),
        ("DELETE", f"/shop/addresses?address={ONE.text}", None),
        ("DELETE", "/shop", None),
    ):
        answer = await caller.client.request(method, WALLETS + path, json=body, headers=other)
        assert (answer.status_code, answer.json()) == (404, {"error": "there is no wallet 'shop'"})
    wish = {"event": "unconfirmed-tx", "url": URL, "wallet_name": "shop"}
    assert (await caller.client.post(HOOKS, json=wish, headers=other)).status_code == 404
    assert (await caller.client.get(WALLETS, headers=other)).json() == {"wallet_names": []}
    assert (await caller.client.post(WALLETS, json={"name": "shop"}, headers=other)).status_code == 201
    assert (await caller.call("GET", f"{WALLETS}/shop"))["addresses"] == [ONE.text]


@pytest.mark.parametrize("name", ["", "x" * 26, "a/b", "hd", "addresses", "\u00e4", "a\nb", "\x00"])
async def test_odd_names_are_refused(caller: Caller, name: str) -> None:
    """A name is 1 to 25 printable characters, and none that is a path of the API."""
    status, text = await refused(caller, "POST", WALLETS, json={"name": name})
    assert (status, "wallet name is" in text) == (400, True)
    assert await caller.call("GET", WALLETS) == {"wallet_names": []}


@pytest.mark.parametrize("name", ["a", "x" * 25, "my wallet; no. 1", "new-block", UNKNOWN_ID[:25]])
async def test_other_names_are_taken(caller: Caller, name: str) -> None:
    """Any other name is taken, and found again."""
    await wallet(caller, ONE.text, name=name)
    assert (await caller.call("GET", f"{WALLETS}/{name}"))["addresses"] == [ONE.text]


async def test_name_is_used_once(caller: Caller) -> None:
    """A second wallet of the name, of whatever kind, is 409, and changes nothing."""
    await wallet(caller, ONE.text)
    for path, more in (("", {"addresses": [TWO.text]}), ("/hd", {"extended_public_key": VPUB})):
        status, text = await refused(caller, "POST", WALLETS + path, json={"name": "shop"} | more)
        assert (status, text) == (409, "there is a wallet shop already")
    assert (await caller.call("GET", f"{WALLETS}/shop"))["addresses"] == [ONE.text]
    assert not await watched(caller, TWO)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"addresses": [ONE.text, "x"]}, "address: is not a bitcoin address"),
        ({"addresses": ONE.text}, "addresses has the wrong type"),
        ({"addresses": [5]}, "addresses[0] has the wrong type"),
        ({"name": ["shop"]}, "name has the wrong type"),
        ({"addresses": [ONE.text] * 1001}, "there are 1001 addresses, want at most 1000"),
    ],
)
async def test_wrong_field_is_named_and_nothing_is_made(caller: Caller, fields: dict[str, Any], reason: str) -> None:
    """What is wrong is refused with its field's name; no half of a wallet is left."""
    status, text = await refused(caller, "POST", WALLETS, json={"name": "shop"} | fields)
    assert status == 400
    assert reason in text
    assert await caller.call("GET", WALLETS) == {"wallet_names": []}
    assert not await watched(caller, ONE)


@pytest.mark.slow
async def test_wallet_holds_a_thousand_addresses(caller: Caller) -> None:
    """The thousand-and-first address is refused, and the thousand stay."""
    await wallet(caller, *[regtest_address(number).text for number in range(1000)])
    status, text = await refused(caller, "POST", f"{WALLETS}/shop/addresses", json={"addresses": [ADDRESS.text]})
    assert (status, text) == (400, "a wallet has at most 1000 addresses")
    assert len((await caller.call("GET", f"{WALLETS}/shop"))["addresses"]) == 1000


# --- hooks about wallets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["wallet_name", "address"])
async def test_hook_by_name_is_about_all_addresses(caller: Caller, field: str) -> None:
    """A hook is about a wallet under ``wallet_name``, and also where its name stands as the address."""
    await wallet(caller, ONE.text, TWO.text)
    hook_id = await hook(caller, "unconfirmed-tx", **{field: "shop"})
    found = await shown(caller, hook_id)
    assert (found["wallet_name"], found["filter"]) == ("shop", "addr=shop&event=unconfirmed-tx")
    assert "address" not in found
    for number, address in ((1, ONE), (2, TWO)):
        await happen(caller, payment(number, script=address.script), address=address)
    bodies = await told(caller)
    assert [body["address"] for body in bodies] == [ONE.text, TWO.text]


async def test_address_that_is_one_is_no_wallet(caller: Caller) -> None:
    """Where an address is meant an address is taken; a name that no wallet has is a wrong address."""
    hook_id = await hook(caller, address=ONE.text)
    assert (await shown(caller, hook_id))["address"] == ONE.text
    status, text = await refused(caller, "POST", HOOKS, json={"event": "confirmed-tx", "url": URL, "address": "nobody"})
    assert (status, "address: is not a bitcoin address" in text) == (400, True)


async def test_hook_follows_its_wallet(caller: Caller) -> None:
    """Addresses that come later are told from then on, those that go are told no more, and the others stay."""
    await wallet(caller, ONE.text)
    await hook(caller, "unconfirmed-tx", wallet_name="shop")
    await caller.call("POST", f"{WALLETS}/shop/addresses", json={"addresses": [TWO.text]})
    await happen(caller, payment(1, script=ONE.script), address=ONE)
    await caller.client.delete(f"{WALLETS}/shop/addresses?address={ONE.text}", headers=caller.key)
    assert await live_addresses(caller) == [TWO.text]
    await happen(caller, payment(2, script=TWO.script), address=TWO)
    assert [body["address"] for body in await told(caller)] == [TWO.text]


async def test_address_in_two_wallets_is_told_for_each(caller: Caller) -> None:
    """An address of two wallets is told to both hooks; taken out of one, to the other."""
    for name in ("one", "two"):
        await wallet(caller, ONE.text, name=name)
        await hook(caller, "unconfirmed-tx", wallet_name=name, url=f"https://{name}.example/")
    await caller.client.delete(f"{WALLETS}/one/addresses?address={ONE.text}", headers=caller.key)
    await happen(caller, payment(1, script=ONE.script), address=ONE)
    assert [request.url for request in await caller.send()] == ["https://two.example/"]


async def test_address_that_comes_back_is_told_again(caller: Caller) -> None:
    """Taken out and added again an address is told from then on; what was deep before is of the past."""
    await wallet(caller, ONE.text)
    await hook(caller, "confirmed-tx", wallet_name="shop")
    await paid_at(caller, 1)
    await caller.client.delete(f"{WALLETS}/shop/addresses?address={ONE.text}", headers=caller.key)
    await caller.call("POST", f"{WALLETS}/shop/addresses", json={"addresses": [ONE.text]})
    assert await live_addresses(caller) == [ONE.text]
    assert await told(caller) == []


async def test_hook_about_an_empty_wallet_waits_for_addresses(caller: Caller) -> None:
    """A wallet may be filled after the hook was made."""
    await wallet(caller)
    await hook(caller, "unconfirmed-tx", wallet_name="shop")
    assert await live_addresses(caller) == []
    await caller.call("POST", f"{WALLETS}/shop/addresses", json={"addresses": [ONE.text]})
    assert await live_addresses(caller) == [ONE.text]


async def test_removed_hook_of_a_wallet_leaves_the_wallet(caller: Caller) -> None:
    """Removing the hook ends it for all addresses, which stay in the wallet and watched."""
    await wallet(caller, ONE.text, TWO.text)
    hook_id = await hook(caller, wallet_name="shop")
    await caller.client.delete(f"{HOOKS}/{hook_id}", headers=caller.key)
    assert await live_addresses(caller) == []
    assert len((await caller.call("GET", f"{WALLETS}/shop"))["addresses"]) == 2
    assert [await watched(caller, ONE), await watched(caller, TWO)] == [True, True]


# --- derived addresses -------------------------------------------------------------------------------------------


async def test_wallet_of_a_key(caller: Caller) -> None:
    """A derived wallet shows its key and its branches, each with its addresses and their paths."""
    made = await derived(caller, 1, 0)
    wanted: dict[str, Any] = {
        "name": "till",
        "hd": True,
        "extended_public_key": VPUB,
        "chains": [{"chain_addresses": [], "index": 0}, {"chain_addresses": [], "index": 1}],
    }
    assert made == wanted
    assert await derive(caller) == [(address_at(0, 0), "m/0/0")]
    assert await derive(caller, count=2, subchain_index=1) == [
        (address_at(1, 0), "m/1/0"),
        (address_at(1, 1), "m/1/1"),
    ]
    assert await derive(caller, count=1) == [(address_at(0, 1), "m/0/1")]
    for path in (f"{WALLETS}/hd/till", f"{WALLETS}/hd/till/addresses"):
        found = await caller.call("GET", path)
        assert [[one["path"] for one in chain["chain_addresses"]] for chain in found["chains"]] == [
            ["m/0/0", "m/0/1"],
            ["m/1/0", "m/1/1"],
        ]
    assert await caller.call("GET", f"{WALLETS}/hd") == {"wallet_names": ["till"]}
    assert await caller.call("GET", WALLETS) == {"wallet_names": []}


async def test_wallet_without_branches_derives_children_of_the_key(caller: Caller) -> None:
    """Without branches the key's own children are the addresses, and no branch is shown."""
    assert (await derived(caller))["chains"] == [{"chain_addresses": []}]
    assert await derive(caller, count=2) == [(address_at(None, 0), "m/0"), (address_at(None, 1), "m/1")]


async def test_derived_addresses_are_told_by_the_wallets_hooks(caller: Caller) -> None:
    """A hook about a derived wallet is about each address from the moment at which it is derived."""
    await derived(caller, 0)
    await hook(caller, "unconfirmed-tx", wallet_name="till")
    ((text, _),) = await derive(caller)
    assert await live_addresses(caller) == [text]
    address = parse_address_chain(descriptor_of(VPUB, REGTEST, branch=0), REGTEST).address_at(0)
    await happen(caller, payment(1, script=address.script), address=address, tip_height=TIP)
    assert [body["address"] for body in await told(caller)] == [text]


async def test_wallets_of_one_key_share_no_address(caller: Caller) -> None:
    """No index is given twice, whichever wallet asks: the counter is the key's."""
    await derived(caller, 0, name="one")
    await derived(caller, 0, name="two")
    found = [await derive(caller, name) for name in ("one", "two", "one")]
    assert [path for one in found for _, path in one] == ["m/0/0", "m/0/1", "m/0/2"]


@pytest.mark.parametrize("key", [TPUB, VPUB])
async def test_prefix_chooses_the_kind_of_address(caller: Caller, key: str) -> None:
    """The key's prefix says which addresses are derived."""
    await derived(caller, 0, key=key)
    ((address, _),) = await derive(caller)
    assert address == address_at(0, 0, key)
    assert address.startswith("bcrt1q" if key == VPUB else ("m", "n"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"extended_public_key": ""}, "extended_public_key is missing"),
        ({"extended_public_key": TPRV}, "extended key is a private one"),
        ({"extended_public_key": "xpub"}, "extended key"),
        ({"extended_public_key": [VPUB]}, "extended_public_key has the wrong type"),
        ({"subchain_indexes": [-1]}, "subchain index is -1"),
        ({"subchain_indexes": [2**31]}, "subchain index is 2147483648"),
        ({"subchain_indexes": [10**30]}, "subchain index is"),
        ({"subchain_indexes": "0"}, "subchain_indexes has the wrong type"),
        ({"subchain_indexes": list(range(21))}, "there are 21 subchains, want at most 20"),
        ({"name": ""}, "wallet name is ''"),
    ],
)
async def test_wrong_key_is_refused(caller: Caller, fields: dict[str, Any], reason: str) -> None:
    """A derived wallet needs a public key of this network, and branches that there are; nothing private is repeated."""
    wish = {"name": "till", "extended_public_key": VPUB, "subchain_indexes": [0]} | fields
    status, text = await refused(caller, "POST", f"{WALLETS}/hd", json=wish)
    assert status == 400
    assert reason in text
    assert TPRV[:20] not in text
    assert await caller.call("GET", f"{WALLETS}/hd") == {"wallet_names": []}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"count": 0}, "count is 0, want 1 to 100"),
        ({"count": 101}, "count is 101, want 1 to 100"),
        ({"count": 10**30}, "want 1 to 100"),
        ({"count": "many"}, "count has the wrong type"),
        ({"subchain_index": 7}, "the wallet has no subchain 7"),
        ({"subchain_index": -1}, "the wallet has no subchain -1"),
    ],
)
async def test_wrong_derivation_is_refused_and_uses_no_index_up(
    caller: Caller, fields: dict[str, Any], reason: str
) -> None:
    """What cannot be derived is refused by name, and the next address is the first."""
    await derived(caller, 0)
    status, text = await refused(caller, "POST", f"{WALLETS}/hd/till/addresses/derive", json=fields)
    assert (status, reason in text) == (400, True)
    assert await derive(caller) == [(address_at(0, 0), "m/0/0")]


async def test_kinds_of_wallets_are_kept_apart(caller: Caller) -> None:
    """A given wallet cannot be derived from, a derived one takes no address; each is found under its own path."""
    await wallet(caller, ONE.text)
    await derived(caller, 0)
    for method, path in (
        ("GET", "/hd/shop"),
        ("DELETE", "/hd/shop"),
        ("POST", "/hd/shop/addresses/derive"),
        ("GET", "/hd/nobody"),
        ("POST", "/nobody/addresses"),
    ):
        assert (await refused(caller, method, WALLETS + path))[0] == 404
    await hook(caller, wallet_name="till")
    answer = await caller.client.delete(f"{WALLETS}/hd/till", headers=caller.key)
    assert answer.status_code == 204
    assert await caller.call("GET", HOOKS) == []


async def test_key_that_is_being_scanned_derives_nothing(caller: Caller, autojump_clock: Any) -> None:
    """While nobody knows what was used of a key the answer is 503, and no address is given."""
    wish = {"name": "till", "extended_public_key": VPUB, "subchain_indexes": [0]}
    await caller.call("POST", f"{WALLETS}/hd", json=wish)
    status, text = await refused(caller, "POST", f"{WALLETS}/hd/till/addresses/derive")
    assert (status, "ask again" in text) == (503, True)
    assert (await caller.call("GET", f"{WALLETS}/hd/till"))["chains"] == [{"chain_addresses": [], "index": 0}]
