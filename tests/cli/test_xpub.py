"""``lightipn xpub``."""

import pytest

from lightipn.bitcoin.extended_key import parse_receive_chains
from lightipn.bitcoin.network import REGTEST
from lightipn.service.scanning import GAP_LIMIT
from lightipn.store import ledger, supplies
from lightipn.store.database import Database
from tests.builders import entry_of
from tests.cli.conftest import Run, write
from tests.service.rig import URL
from tests.service.supply import DESCRIPTOR, OTHER_TPUB, TPUB, texts_of
from tests.store.rows import NOW

HOSTILE_URL = "https://shop.example/?a=[bold]\x1b[31m"


def supply(db: Database, key: str = TPUB, *, scanned_to: int = 20, used_to: int = -1, ahead: int = 20) -> int:
    """Write a key that was scanned, and return its number."""
    chain, _ = parse_receive_chains(key, REGTEST)
    kind = "" if chain.kind is None else chain.kind.value
    supplies.add_supply(db, identity=chain.identity, kind=kind, source=key, now=NOW)
    record = supplies.load_supply(db, chain.identity)
    assert record is not None
    supplies.save_scan(db, record.chain_id, scanned_to=scanned_to, used_to=used_to, ahead=ahead)
    return record.chain_id


def give(db: Database, count: int, *, key: str = TPUB, owner: str = "shop", url: str = URL) -> None:
    """Give a key's next addresses away."""
    chain, _ = parse_receive_chains(key, REGTEST)
    for _ in range(count):
        record = supplies.load_supply(db, chain.identity)
        assert record is not None
        index = record.next_index
        address = chain.address_at(index)
        supplies.save_issued(db, record, index=index, address=address, owner=owner, url=url, now=NOW + index)


def pay(db: Database, index: int) -> None:
    """Pay an address of the first key."""
    chain, _ = parse_receive_chains(TPUB, REGTEST)
    ledger.add_script(db, chain.address_at(index))
    ledger.save_entries(db, chain.address_at(index).scripthash, [entry_of(index)])


def fill(db: Database) -> None:
    """Write a key with three addresses given away of which the second was paid, and one that is being scanned."""
    supply(db)
    give(db, 3)
    pay(db, 1)
    supply(db, OTHER_TPUB, scanned_to=40, used_to=33)


def test_keys_are_listed(run: Run) -> None:
    """The list says of each key what it gives away, how far it is, and how much is left."""
    write(fill)
    first, second = run("xpub", "list", "--json").json
    assert first == {
        "id": 1,
        "key": TPUB,
        "addresses": "p2pkh",
        "next_index": 3,
        "gap": 1,
        "left": GAP_LIMIT - 1,
        "scanned": True,
        "scanned_to": 20,
        "used_to": -1,
    }
    assert (second["scanned"], second["used_to"], second["next_index"]) == (False, 33, 34)
    heading, *rows = run("xpub", "list").out.splitlines()
    assert heading.split() == ["ID", "KEY", "ADDRESSES", "NEXT", "INDEX", "GAP", "LEFT"]
    assert rows[0].split() == ["1", f"{TPUB[:12]}...{TPUB[-8:]}", "p2pkh", "3", "1", "19"]
    assert rows[1].endswith("being scanned")


def test_key_that_nobody_was_given_of_is_not_listed(run: Run) -> None:
    """Kinds of addresses that were looked at, and that the wallet does not use, are in no list."""
    write(supply)
    assert run("xpub", "list", "--json").json == []
    assert run("xpub", "list").out == "No key was used yet.\n"


def test_descriptor_of_another_shape_is_listed(run: Run) -> None:
    """A descriptor that is no single key's is listed as one."""

    def work(db: Database) -> None:
        text = f"wsh(multi(1,{TPUB}/0/*,{OTHER_TPUB}/0/*))"
        supply(db, text)
        give(db, 1, key=text)

    write(work)
    assert run("xpub", "list", "--json").json[0]["addresses"] == "descriptor"
    assert "descriptor" in run("xpub", "list").out


def test_gap_is_shown(run: Run) -> None:
    """The gap of a key is told in words and as JSON; a key that is being scanned says how far."""
    write(fill)
    shown = run("xpub", "gap", "1").out
    for part in (TPUB, "p2pkh", "20 addresses", "1 addresses since the last one that was paid", "19 more"):
        assert part in shown
    assert run("xpub", "gap", "1", "--json").json == run("xpub", "list", "--json").json[0]
    assert "40 addresses, not finished" in run("xpub", "gap", "2").out


@pytest.mark.parametrize(("count", "left"), [(GAP_LIMIT, 0), (GAP_LIMIT + 5, 0), (GAP_LIMIT - 1, 1)])
def test_nothing_is_left_behind_the_limit(run: Run, count: int, left: int) -> None:
    """Where a caller raised the limit nothing is left: never less than that."""

    def work(db: Database) -> None:
        supply(db)
        give(db, count)

    write(work)
    found = run("xpub", "gap", "1", "--json").json
    assert (found["gap"], found["left"]) == (count, left)


def test_addresses_are_listed_newest_first(run: Run) -> None:
    """Each address that was given away stands with its index, its owner, its URL, and whether it was paid."""
    write(fill)
    write(lambda db: give(db, 1, owner="other"))
    found = run("xpub", "addresses", "1", "--json").json
    wanted = [
        {"index": index, "address": text, "owner": "shop", "url": URL, "issued_at": NOW + index, "paid": index == 1}
        for index, text in enumerate(texts_of(range(4)))
    ]
    wanted[3]["owner"] = "other"
    assert found == wanted[::-1]
    assert [one["index"] for one in run("xpub", "addresses", "1", "--json", "--limit", "2").json] == [3, 2]
    heading, *rows = run("xpub", "addresses", "1").out.splitlines()
    assert heading.split() == ["INDEX", "ADDRESS", "PAID", "OWNER", "URL", "GIVEN", "AWAY"]
    assert ["paid" in row.split() for row in rows] == [False, False, True, False]
    assert texts_of([3])[0] in rows[0]


def test_key_without_addresses_says_so(run: Run) -> None:
    """A key of which nothing was given away has an empty list."""
    write(fill)
    assert run("xpub", "addresses", "2").out == "No address was given away.\n"
    assert run("xpub", "addresses", "2", "--json").json == []


def test_foreign_text_does_not_steer_the_terminal(run: Run) -> None:
    """A URL that somebody registered is shown, never obeyed."""

    def work(db: Database) -> None:
        supply(db, DESCRIPTOR)
        give(db, 1, key=DESCRIPTOR, url=HOSTILE_URL)

    write(work)
    shown = run("xpub", "addresses", "1").out
    assert "\x1b" not in shown
    assert "[bold]\\x1b[31m" in shown
