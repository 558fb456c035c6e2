"""What is told of transfers: a message for each payment that was passed on, and for each of the first confirmations."""

from typing import Protocol

from sqlite_utils import Database

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.outbox.policy import Notice
from lightipn.outbox.subscriptions import LIVE, Subscription
from lightipn.store import forwards, outbox, subscriptions, transfers
from lightipn.store.transfers import Transfer, Version

MOST_TOLD = 6


class PayloadOf(Protocol):
    """Writes what a callback says, as JSON of the dialect's own shape."""

    def __call__(
        self,
        *,
        value_sat: int,
        input_address: str,
        destination: str,
        input_txid: Txid,
        txid: Txid,
        confirmations: int | None,
    ) -> bytes:
        """Return the JSON; ``confirmations`` is None when a transfer is told first."""


def tell_passed_on(db: Database, transfer: Transfer, version: Version, *, payload_of: PayloadOf, now: float) -> bool:
    """Tell the owner of a forward that a transaction passes payments on: once for each payment, and each version.

    What was not heard of another version is not told any more.

    Returns:
        Whether a message is due because of it.
    """
    _withdraw_others(db, transfer, version)
    return _tell(db, transfer, version, confirmations=None, payload_of=payload_of, now=now)


def tell_confirmations(
    db: Database, transfer: Transfer, *, txid: Txid, confirmations: int, payload_of: PayloadOf, now: float
) -> bool:
    """Tell how deep a transfer is, for each of the first six confirmations that was not told; where that is wanted.

    Returns:
        Whether a message is due because of it.
    """
    version = next(one for one in transfer.versions if one.txid == txid)
    told = transfer.told_confirmations if transfer.told_txid == txid else 0
    is_due = []
    if not told:  # another version may have been told instead
        is_due.append(tell_passed_on(db, transfer, version, payload_of=payload_of, now=now))
    is_due += [
        _tell(db, transfer, version, confirmations=number, payload_of=payload_of, now=now)
        for number in range(told + 1, min(confirmations, MOST_TOLD) + 1)
    ]
    transfers.save_told(db, transfer.transfer_id, txid, confirmations)
    transfers.save_trouble(db, transfer.transfer_id, "")
    return any(is_due)


def _subscription_of(db: Database, transfer: Transfer) -> Subscription | None:
    forward = None if transfer.forward_id is None else forwards.load_forward(db, transfer.forward_id)
    if forward is None or forward.subscription_id is None:
        return None
    return subscriptions.load_subscription(db, forward.subscription_id)


def _withdraw_others(db: Database, transfer: Transfer, version: Version) -> None:
    subscription = _subscription_of(db, transfer)
    if subscription is None:
        return
    for other in transfer.versions:
        for txid in {coin.outpoint.txid for coin in transfer.coins} if other != version else ():
            held = outbox.load_message(db, subscription.subscription_id, _topic_of(txid, other, None))
            if held is not None:
                outbox.save_message(db, held[0], held[1].withdrawn())


def _topic_of(txid: Txid, version: Version, confirmations: int | None) -> str:
    return f"{hex_of(txid)}:{hex_of(version.txid)}:{confirmations or 0}"


def _tell(
    db: Database,
    transfer: Transfer,
    version: Version,
    *,
    confirmations: int | None,
    payload_of: PayloadOf,
    now: float,
) -> bool:
    subscription = _subscription_of(db, transfer)
    forward = None if transfer.forward_id is None else forwards.load_forward(db, transfer.forward_id)
    if forward is None or subscription is None or subscription.state not in LIVE:
        return False
    if confirmations is not None and not forward.terms.tells_confirmations:
        return False
    is_due = False
    for txid in dict.fromkeys(coin.outpoint.txid for coin in transfer.coins):
        topic = _topic_of(txid, version, confirmations)
        held = outbox.load_message(db, subscription.subscription_id, topic)
        if held is not None:
            restored = held[1].restored(now=now)
            if restored != held[1]:
                outbox.save_message(db, held[0], restored)
                is_due = True
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
        is_due = True
    return is_due
