"""What is told of transfers: a message for each payment that was passed on, and for each of the first confirmations."""

from collections.abc import Callable

from sqlite_utils import Database

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.outbox.policy import Notice
from lightipn.store import forwards, outbox, subscriptions, transfers
from lightipn.store.transfers import Transfer, Version

MOST_TOLD = 6

# What writes a callback: values by name in, JSON of the dialect's own shape out.
PayloadOf = Callable[..., bytes]


def tell_passed_on(db: Database, transfer: Transfer, version: Version, *, payload_of: PayloadOf, now: float) -> None:
    """Tell the owner of a forward that a transaction passes payments on: once for each payment, and each version."""
    _tell(db, transfer, version, confirmations=None, payload_of=payload_of, now=now)


def tell_confirmations(
    db: Database, transfer: Transfer, *, txid: Txid, confirmations: int, payload_of: PayloadOf, now: float
) -> None:
    """Tell how deep a transfer is, for each of the first six confirmations that was not told; where that is wanted."""
    version = next(one for one in transfer.versions if one.txid == txid)
    for number in range(transfer.told_confirmations + 1, min(confirmations, MOST_TOLD) + 1):
        _tell(db, transfer, version, confirmations=number, payload_of=payload_of, now=now)
    transfers.save_told(db, transfer.transfer_id, confirmations)
    transfers.save_trouble(db, transfer.transfer_id, "")


def _tell(
    db: Database,
    transfer: Transfer,
    version: Version,
    *,
    confirmations: int | None,
    payload_of: PayloadOf,
    now: float,
) -> None:
    forward = None if transfer.forward_id is None else forwards.load_forward(db, transfer.forward_id)
    if forward is None or forward.subscription_id is None:
        return
    subscription = subscriptions.load_subscription(db, forward.subscription_id)
    if subscription is None or (confirmations is not None and not forward.terms.tells_confirmations):
        return
    for txid in dict.fromkeys(coin.outpoint.txid for coin in transfer.coins):
        topic = f"{hex_of(txid)}:{hex_of(version.txid)}:{confirmations or 0}"
        if outbox.load_message(db, subscription.subscription_id, topic) is not None:
            continue
        payload = payload_of(
            value_sat=version.value_sat,
            input_address=forward.address,
            destination=transfer.destination,
            input_txid=txid,
            txid=version.txid,
            confirmations=confirmations,
        )
        outbox.add_message(db, subscription, Notice(topic=topic, payload=payload), baseline=b"", now=now)
