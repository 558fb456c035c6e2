"""Forwards on disk: input addresses, and the coins that came to them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.verifier import Confirmed
from lightipn.ledger.entries import GONE, ScriptPayments
from lightipn.store import ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTerms:
    """What a forward does with its coins.

    Args:
        process_address: gets a share before the destination; empty for none.
        process_sat: the share as a fixed amount; None where ``process_share`` says it.
        process_share: a decimal number from 0 to 1, as text; None for none.
        mining_fee_sat: a fixed fee; None follows the fee rate.
        tells_confirmations: the callback is called again at each of the first confirmations.
    """

    destination: str
    url: str = ""
    process_address: str = ""
    process_sat: int | None = None
    process_share: str | None = None
    mining_fee_sat: int | None = None
    tells_confirmations: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A forward.

    Args:
        subscription_id: whose messages its callbacks are; None without a URL.
        hold_reason: why the last look passed nothing on; empty if it did.
    """

    forward_id: str
    owner: str
    address_index: int
    address: str
    scripthash: ScriptHash
    terms: ForwardTerms
    subscription_id: int | None
    is_active: bool
    hold_reason: str
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coin:
    """A coin at an input address, proved to be in the chain, and not spent as far as we know."""

    outpoint: Outpoint
    amount_sat: int
    scripthash: ScriptHash
    address_index: int


# --- forwards ---

_FORWARD = (
    "forward_id, owner, address_index, address, scripthash, destination, url, process_address, process_sat,"
    " process_share, mining_fee_sat, tells_confirmations, subscription_id, state, hold_reason, created_at"
)


def _forward_of(row: tuple[Any, ...]) -> Forward:
    terms = ForwardTerms(
        destination=row[5],
        url=row[6],
        process_address=row[7],
        process_sat=row[8],
        process_share=row[9],
        mining_fee_sat=row[10],
        tells_confirmations=bool(row[11]),
    )
    return Forward(
        forward_id=row[0],
        owner=row[1],
        address_index=row[2],
        address=row[3],
        scripthash=ScriptHash(row[4]),
        terms=terms,
        subscription_id=row[12],
        is_active=row[13] == "active",
        hold_reason=row[14],
        created_at=row[15],
    )


def has_index(db: Database, index: int) -> bool:
    """Tell whether an input address was given, or is looked at."""
    return db.execute("SELECT 1 FROM forward WHERE address_index = ?", [index]).fetchone() is not None


def next_index(db: Database) -> int:
    """Return the index of the next input address: one more than any that was given."""
    return int(db.execute("SELECT coalesce(max(address_index), -1) + 1 FROM forward").fetchone()[0])


def add_forward(
    db: Database,
    *,
    owner: str,
    index: int,
    address: Address,
    terms: ForwardTerms,
    is_active: bool = True,
    now: int,
) -> Forward:
    """Add a forward, and have its input address watched for good."""
    ledger.add_script(db, address)
    ledger.want_for_good(db, address.scripthash)
    forward_id = str(uuid.uuid4())
    db.execute(
        "INSERT INTO forward (forward_id, owner, address_index, address, scripthash, destination, url, process_address,"
        " process_sat, process_share, mining_fee_sat, tells_confirmations, state, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            forward_id,
            owner,
            index,
            address.text,
            address.scripthash,
            terms.destination,
            terms.url,
            terms.process_address,
            terms.process_sat,
            terms.process_share,
            terms.mining_fee_sat,
            int(terms.tells_confirmations),
            "active" if is_active else "deleted",
            now,
        ],
    )
    found = load_forward(db, forward_id)
    assert found is not None  # its row was written just now
    return found


def save_subscription_id(db: Database, forward_id: str, subscription_id: int) -> None:
    """Record whose messages a forward's callbacks are."""
    db.execute("UPDATE forward SET subscription_id = ? WHERE forward_id = ?", [subscription_id, forward_id])


def load_forward(db: Database, forward_id: str) -> Forward | None:
    """Return a forward, or None."""
    row = db.execute(f"SELECT {_FORWARD} FROM forward WHERE forward_id = ?", [forward_id]).fetchone()
    return _forward_of(row) if row else None


def load_forwards(
    db: Database, *, owner: str | None, is_active_only: bool, offset: int = 0, limit: int
) -> Sequence[Forward]:
    """Return an owner's forwards, or everybody's, oldest first."""
    where, values = ("owner = ?", [owner]) if owner is not None else ("1", [])
    rows = db.execute(
        f"SELECT {_FORWARD} FROM forward WHERE {where} AND (NOT ? OR state = 'active')"
        " ORDER BY address_index LIMIT ? OFFSET ?",
        [*values, is_active_only, limit, offset],
    ).fetchall()
    return [_forward_of(row) for row in rows]


def delete_forward(db: Database, forward_id: str) -> None:
    """Have a forward pass nothing more on; what comes to its address waits for a sweep."""
    db.execute("UPDATE forward SET state = 'deleted', wake_height = NULL WHERE forward_id = ?", [forward_id])


def load_txids(db: Database, forward_id: str) -> Sequence[Txid]:
    """Return the transactions that passed on a forward's coins: the versions that were mined, else the newest."""
    rows = db.execute(
        "SELECT coalesce(told_txid, (SELECT txid FROM transfer_version AS newest"
        " WHERE newest.transfer_id = transfer.transfer_id ORDER BY version_id DESC LIMIT 1))"
        " FROM transfer WHERE forward_id = ? AND state != 'void' ORDER BY transfer_id",
        [forward_id],
    ).fetchall()
    return [Txid(row[0]) for row in rows]


# --- what may be passed on ---


def note_payments(db: Database, payments: ScriptPayments, *, tip_height: int) -> None:
    """Have the forward of a script, if it is one's, be looked at as soon as a coin may be passed on.

    Called in the transaction of each ledger change.
    """
    row = db.execute("SELECT forward_id, address_index FROM forward WHERE scripthash = ?", [payments.scripthash])
    found = row.fetchone()
    if found is None:
        return
    heights = [
        height
        for entry in payments.entries.values()
        if entry.outputs and (height := entry.counts_at_height(1)) is not None
    ]
    has_coin = bool(_coins_of(db, payments, found[1]))
    wake_height = max(tip_height, min(heights)) if heights and has_coin else None
    db.execute(
        "UPDATE forward SET wake_height = ?, hold_reason = iif(?, hold_reason, '') WHERE forward_id = ?",
        [wake_height, has_coin, found[0]],
    )


def _coins_of(db: Database, payments: ScriptPayments, index: int) -> list[Coin]:
    """Return what stands in a block, is spent by nothing that stands, and belongs to no transfer."""
    standing = [entry for entry in payments.entries.values() if not isinstance(entry.state, GONE)]
    spent = {outpoint for entry in standing for outpoint in entry.spends}
    coins = []
    for entry in standing:
        if not isinstance(entry.state, Confirmed):
            continue
        for output_index, amount_sat in entry.outputs:
            outpoint = Outpoint(entry.txid, output_index)
            if outpoint not in spent and not _is_assigned(db, outpoint):
                coins.append(
                    Coin(
                        outpoint=outpoint,
                        amount_sat=amount_sat,
                        scripthash=payments.scripthash,
                        address_index=index,
                    )
                )
    return coins


def _is_assigned(db: Database, outpoint: Outpoint) -> bool:
    found = db.execute(
        "SELECT 1 FROM transfer_coin WHERE txid = ? AND output_index = ?", [outpoint.txid, outpoint.index]
    )
    return found.fetchone() is not None


def load_coins(db: Database, forward: Forward, *, tip_height: int, confirmations: int) -> Sequence[Coin]:
    """Return the coins of a forward that are deep enough and belong to no transfer, the oldest first."""
    payments = ledger.load_payments(db, forward.scripthash)
    assert payments is not None  # an input address is watched for good
    entries = payments.entries

    def is_deep(coin: Coin) -> bool:
        counted_at = entries[coin.outpoint.txid].counts_at_height(confirmations)
        return counted_at is not None and counted_at <= tip_height

    def order_of(coin: Coin) -> tuple[int, bytes, int]:
        return entries[coin.outpoint.txid].counts_at_height(1) or 0, coin.outpoint.txid, coin.outpoint.index

    return sorted(filter(is_deep, _coins_of(db, payments, forward.address_index)), key=order_of)


def load_ready(db: Database, tip_height: int, *, limit: int) -> Sequence[Forward]:
    """Return the active forwards that must be looked at, those that wait longest first."""
    rows = db.execute(
        f"SELECT {_FORWARD} FROM forward WHERE wake_height <= ? AND state = 'active' ORDER BY wake_height LIMIT ?",
        [tip_height, limit],
    ).fetchall()
    return [_forward_of(row) for row in rows]


def wake(db: Database, scripthash: ScriptHash, *, tip_height: int) -> None:
    """Have the forward of a script be looked at now."""
    db.execute(
        "UPDATE forward SET wake_height = ?, hold_reason = '' WHERE scripthash = ? AND state = 'active'",
        [tip_height, scripthash],
    )


def save_look(db: Database, forward_id: str, *, hold_reason: str, wake_height: int | None) -> None:
    """Record what a look at a forward came to, and when it must be looked at again."""
    db.execute(
        "UPDATE forward SET hold_reason = ?, wake_height = ? WHERE forward_id = ?",
        [hold_reason, wake_height, forward_id],
    )


def load_with_coins(db: Database, *, is_all: bool) -> Sequence[Forward]:
    """Return the deleted forwards, or all, to whose addresses something was paid that stands."""
    which = "1" if is_all else "state = 'deleted'"
    rows = db.execute(
        f"SELECT {_FORWARD} FROM forward WHERE {which} AND EXISTS (SELECT 1 FROM ledger_entry"
        " WHERE ledger_entry.scripthash = forward.scripthash AND ledger_entry.state = 'confirmed')"
        " ORDER BY address_index"
    ).fetchall()
    return [_forward_of(row) for row in rows]


def load_holding(db: Database, *, reason: str, limit: int) -> Sequence[Forward]:
    """Return the forwards that wait for this reason."""
    rows = db.execute(
        f"SELECT {_FORWARD} FROM forward WHERE hold_reason = ? AND hold_reason != '' LIMIT ?", [reason, limit]
    ).fetchall()
    return [_forward_of(row) for row in rows]


def bind_seed(db: Database, identity: bytes) -> bool:
    """Bind the database to the seed of its input addresses; False if it belongs to another one."""
    db.execute("INSERT OR IGNORE INTO setting (name, value) VALUES ('forwarding_seed', ?)", [identity.hex()])
    return is_bound_to(db, identity) is True


def save_recovered_to(db: Database, index: int) -> None:
    """Record up to which index, exclusively, the addresses of earlier databases are looked at."""
    db.execute(
        "INSERT INTO setting (name, value) VALUES ('forwarding_recovered_to', ?)"
        " ON CONFLICT DO UPDATE SET value = CAST(max(CAST(value AS INTEGER), excluded.value) AS TEXT)",
        [str(index)],
    )


def load_recovered_to(db: Database) -> int | None:
    """Return up to which index addresses were looked at; None where the seed was made for this database."""
    row = db.execute("SELECT value FROM setting WHERE name = 'forwarding_recovered_to'").fetchone()
    return int(row[0]) if row else None


def forget_recovery(db: Database) -> None:
    """Record that enough was looked at: from now on this database knows all addresses."""
    db.execute("DELETE FROM setting WHERE name = 'forwarding_recovered_to'")


def load_highest_used(db: Database, *, below: int) -> int:
    """Return the highest index below one to which something was ever paid; -1 for none."""
    row = db.execute(
        "SELECT coalesce(max(address_index), -1) FROM forward WHERE address_index < ? AND EXISTS"
        " (SELECT 1 FROM ledger_entry WHERE ledger_entry.scripthash = forward.scripthash)",
        [below],
    ).fetchone()
    return int(row[0])


def has_unseen(db: Database, *, below: int) -> bool:
    """Tell whether the servers were not asked yet about an address below an index."""
    found = db.execute(
        "SELECT 1 FROM forward JOIN script USING (scripthash) WHERE address_index < ? AND absorbed_at IS NULL LIMIT 1",
        [below],
    )
    return found.fetchone() is not None


def has_address(db: Database, scripthash: ScriptHash) -> bool:
    """Tell whether an output script is that of an input address."""
    return db.execute("SELECT 1 FROM forward WHERE scripthash = ?", [scripthash]).fetchone() is not None


def count_active(db: Database) -> int:
    """Return how many forwards would pass coins on."""
    return int(db.execute("SELECT count(*) FROM forward WHERE state = 'active'").fetchone()[0])


def is_bound_to(db: Database, identity: bytes) -> bool | None:
    """Tell whether the database's input addresses belong to a seed; None while it is bound to none."""
    row = db.execute("SELECT value FROM setting WHERE name = 'forwarding_seed'").fetchone()
    return None if row is None else bool(row[0] == identity.hex())
