"""Adding an account up anew."""

from sqlite_utils import Database

from lightipn.bitcoin.hashes import hex_of
from lightipn.ledger.accounts import is_deposit, new_deposit, settled
from lightipn.ledger.entries import ScriptPayments
from lightipn.store import chain, ledger
from lightipn.store.accounts import Account, AccountAddress, load_addresses
from lightipn.store.deposits import load_known


def find_flaws(db: Database, account: Account) -> list[str]:
    """Add an account up anew, compare it with what is kept and with the ledger, and say what differs."""
    flaws = []
    sums = db.execute(
        "SELECT coalesce(sum(balance_sat), 0), coalesce(sum(locked_sat), 0) FROM movement WHERE account_id = ?",
        [account.account_id],
    ).fetchone()
    for name, kept, added in (
        ("balance", account.balance_sat, sums[0]),
        ("locked amount", account.locked_sat, sums[1]),
    ):
        if kept != added:
            flaws.append(f"the {name} is {kept} sat, its movements add up to {added} sat")
    for what, table in (("movements of", "movement"), ("deposit", "deposit")):
        missing = "deposit" if table == "movement" else "account_address"
        key = "AND other.txid = found.txid" if table == "movement" else ""
        rows = db.execute(
            f"SELECT DISTINCT txid FROM {table} AS found WHERE account_id = ? AND txid IS NOT NULL AND NOT EXISTS"
            f" (SELECT 1 FROM {missing} AS other WHERE other.account_id = found.account_id"
            f" AND other.scripthash = found.scripthash {key})",
            [account.account_id],
        ).fetchall()
        flaws += [f"{what} {hex_of(txid)}: there is no {missing.replace('_', ' ')} of it" for (txid,) in rows]
    tip_height = chain.load_tip_height(db)
    for address in load_addresses(db, account.account_id):
        payments = ledger.load_payments(db, address.scripthash)
        if payments is None:
            flaws.append(f"address {address.address} is not watched")
            continue
        flaws += _flaws_of_address(db, account, address, payments, tip_height=tip_height)
    return flaws


def _flaws_of_address(
    db: Database, account: Account, address: AccountAddress, payments: ScriptPayments, *, tip_height: int
) -> list[str]:
    flaws = []
    known = load_known(db, account.account_id, address.scripthash)
    for entry in payments.entries.values():
        before = known.pop(entry.txid, None)
        if before is None and not is_deposit(entry):
            continue
        after, movements = settled(
            before or new_deposit(entry),
            entry,
            tip_height=tip_height,
            credit_confirmations=account.credit_confirmations,
        )
        name = f"deposit {hex_of(entry.txid)} to {address.address}"
        if before is None or movements or after != before:
            flaws.append(f"{name} is not as the ledger says")
            continue
        sums = db.execute(
            "SELECT coalesce(sum(balance_sat), 0), coalesce(sum(locked_sat), 0) FROM movement"
            " WHERE account_id = ? AND scripthash = ? AND txid = ?",
            [account.account_id, address.scripthash, entry.txid],
        ).fetchone()
        if (before.credited_sat, before.locked_sat) != (sums[0], sums[1]):
            flaws.append(
                f"{name} says {before.credited_sat} sat credited and {before.locked_sat} sat locked,"
                f" its movements add up to {sums[0]} and {sums[1]} sat"
            )
    return flaws + [f"deposit {hex_of(txid)} to {address.address} is no payment of the ledger" for txid in known]
