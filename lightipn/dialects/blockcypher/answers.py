"""What the read calls answer: hooks, wallets, addresses, and the chain."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.dialects.blockcypher.objects import time_text
from lightipn.dialects.blockcypher.wire import Event, HookTerms
from lightipn.ledger.entries import GONE, LedgerEntry


class ErrorJson(msgspec.Struct, frozen=True):
    """A refusal."""

    error: str


class HookJson(msgspec.Struct, kw_only=True, frozen=True):
    """A hook as the original shows it, and whether it is suspended; a private key is never shown.

    Args:
        filter: what it is about, in the original's words.
        signkey: ``custom`` where it has a key of its own.
    """

    id: str
    event: str
    url: str
    callback_errors: int
    filter: str
    suspended: bool
    address: str | msgspec.UnsetType = msgspec.UNSET
    wallet_name: str | msgspec.UnsetType = msgspec.UNSET
    token: str | msgspec.UnsetType = msgspec.UNSET
    confirmations: int | msgspec.UnsetType = msgspec.UNSET
    confidence: float | msgspec.UnsetType = msgspec.UNSET
    signkey: str | msgspec.UnsetType = msgspec.UNSET


def hook_json_of(
    hook_id: str,
    terms: HookTerms,
    *,
    url: str,
    address: str,
    wallet: str,
    token: str,
    errors: int,
    has_own_key: bool,
    is_suspended: bool,
) -> HookJson:
    """Return a hook as it is shown.

    Args:
        token: that the caller named; empty where the key came in another way.
    """
    about = f"addr={address or wallet}&" if address or wallet else ""
    return HookJson(
        id=hook_id,
        event=terms.event.value,
        url=url,
        callback_errors=errors,
        filter=f"{about}event={terms.event.value}",
        suspended=is_suspended,
        address=address or msgspec.UNSET,
        wallet_name=wallet or msgspec.UNSET,
        token=token or msgspec.UNSET,
        confirmations=terms.confirmations if terms.event is Event.CONFIRMATION else msgspec.UNSET,
        confidence=terms.confidence if terms.event is Event.CONFIDENCE else msgspec.UNSET,
        signkey="custom" if has_own_key else msgspec.UNSET,
    )


class BalanceJson(msgspec.Struct, kw_only=True, frozen=True):
    """What an address holds, in satoshis; ``total_received`` and ``total_sent`` are gross, of confirmed payments."""

    total_received: int
    total_sent: int
    balance: int
    unconfirmed_balance: int
    final_balance: int
    n_tx: int
    unconfirmed_n_tx: int
    final_n_tx: int


def balance_json_of(entries: Iterable[LedgerEntry], *, unproved_spent_sat: int = 0) -> BalanceJson:
    """Sum up payments, of one address or of several that share none.

    Args:
        unproved_spent_sat: what these spent of coins whose payments one's own node cannot show any more. It counts as
            received, or what was spent of them would be missing from the rest.
    """
    standing = [entry for entry in entries if not isinstance(entry.state, GONE)]
    confirmed = [entry for entry in standing if isinstance(entry.state, Confirmed)]
    # Mined coins exist in their block alone.
    unconfirmed = [entry for entry in standing if isinstance(entry.state, Unconfirmed) and not entry.is_coinbase]
    balance, pending = (sum(entry.net_sat for entry in some) for some in (confirmed, unconfirmed))
    spent = {outpoint for entry in confirmed for outpoint in entry.spends}
    # What a block spends is in a block itself, though which one may not be known.
    parents_sat = sum(
        amount_sat
        for entry in unconfirmed
        for index, amount_sat in entry.outputs
        if Outpoint(entry.txid, index) in spent
    )
    mined_sat = unproved_spent_sat + parents_sat
    balance, pending = balance + mined_sat, pending - parents_sat
    return BalanceJson(
        total_received=sum(entry.received_sat for entry in confirmed) + mined_sat,
        total_sent=sum(entry.sent_sat for entry in confirmed),
        balance=balance,
        unconfirmed_balance=pending,
        final_balance=balance + pending,
        n_tx=len(confirmed),
        unconfirmed_n_tx=len(unconfirmed),
        final_n_tx=len(confirmed) + len(unconfirmed),
    )


def wallet_balance_of(payments: Iterable[LedgerEntry], *, unproved_spent_sat: int = 0) -> BalanceJson:
    """Sum up the payments of a wallet's addresses: a transaction that touches several of them counts once."""
    entries = list(payments)
    balance = balance_json_of(entries, unproved_spent_sat=unproved_spent_sat)
    confirmed = {entry.txid for entry in entries if isinstance(entry.state, Confirmed)}
    unconfirmed = {entry.txid for entry in entries if isinstance(entry.state, Unconfirmed) and not entry.is_coinbase}
    return msgspec.structs.replace(
        balance,
        n_tx=len(confirmed),
        unconfirmed_n_tx=len(unconfirmed),
        final_n_tx=len(confirmed | unconfirmed),
    )


class TxRefJson(msgspec.Struct, kw_only=True, frozen=True):
    """One input or output of an address.

    Args:
        value: in satoshis.
        ref_balance: of the address after its transaction.
    """

    tx_hash: str
    block_height: int
    tx_input_n: int
    tx_output_n: int
    value: int
    confirmations: int
    double_spend: bool = False
    ref_balance: int | msgspec.UnsetType = msgspec.UNSET
    spent: bool | msgspec.UnsetType = msgspec.UNSET
    spent_by: str | msgspec.UnsetType = msgspec.UNSET
    confirmed: str | msgspec.UnsetType = msgspec.UNSET
    received: str | msgspec.UnsetType = msgspec.UNSET
    script: str | msgspec.UnsetType = msgspec.UNSET
    confidence: float | msgspec.UnsetType = msgspec.UNSET


class RefWish(msgspec.Struct, kw_only=True, frozen=True):
    """Which inputs and outputs of an address are asked for."""

    limit: int
    before: int | None = None
    after: int | None = None
    confirmations: int = 0
    is_unspent_only: bool = False


def refs_of(
    entries: Sequence[LedgerEntry],
    *,
    script: bytes | None,
    tip_height: int,
    times: Mapping[int, int],
    confidences: Mapping[Txid, float],
) -> tuple[list[TxRefJson], list[TxRefJson]]:
    """Return the inputs and outputs of an address, confirmed and unconfirmed, newest first.

    Args:
        script: shown with each; None to leave it out.
        times: of blocks by height.
        confidences: shown where they are given.
    """
    standing = [entry for entry in entries if not isinstance(entry.state, GONE)]
    own = {Outpoint(entry.txid, index): amount_sat for entry in standing for index, amount_sat in entry.outputs}
    spenders = {outpoint: entry.txid for entry in standing for outpoint in entry.spends if outpoint in own}
    confirmed: list[TxRefJson] = []
    unconfirmed: list[TxRefJson] = []
    balance = 0
    for entry in sorted(standing, key=_order_of):
        place: dict[str, object] = {"tx_hash": hex_of(entry.txid)}
        if script is not None:
            place["script"] = script.hex()
        if isinstance(entry.state, Confirmed):
            height = entry.state.height
            balance += entry.net_sat
            place |= {"block_height": height, "confirmations": max(0, tip_height - height + 1), "ref_balance": balance}
            place["confirmed"] = time_text(times.get(height, entry.seen_at))
        else:
            place |= {"block_height": -1, "confirmations": 0, "received": time_text(entry.seen_at)}
            place["confidence"] = confidences.get(entry.txid, msgspec.UNSET)
        refs = confirmed if isinstance(entry.state, Confirmed) else unconfirmed
        refs += _refs_of_one(entry, own, spenders, place)
    return list(reversed(confirmed)), list(reversed(unconfirmed))


def _refs_of_one(
    entry: LedgerEntry, own: Mapping[Outpoint, int], spenders: Mapping[Outpoint, Txid], place: Mapping[str, object]
) -> Iterator[TxRefJson]:
    for number, outpoint in enumerate(entry.spends):
        if outpoint in own:
            yield TxRefJson(tx_input_n=number, tx_output_n=-1, value=own[outpoint], **place)  # type: ignore[arg-type]  # its fields
    for index, amount_sat in entry.outputs:
        spender = spenders.get(Outpoint(entry.txid, index))
        yield TxRefJson(
            tx_input_n=-1,
            tx_output_n=index,
            value=amount_sat,
            spent=spender is not None,
            spent_by=msgspec.UNSET if spender is None else hex_of(spender),
            **place,  # type: ignore[arg-type]  # fields of a reference
        )


def chosen_of(refs: Sequence[TxRefJson], wish: RefWish) -> list[TxRefJson]:
    """Return the references that a wish is about, whatever its limit."""
    return [
        ref
        for ref in refs
        if (wish.before is None or ref.block_height < wish.before)
        and (wish.after is None or ref.block_height > wish.after)
        and ref.confirmations >= wish.confirmations
        and not (wish.is_unspent_only and ref.spent is not False)
    ]


def newest_first(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Return the payments that stand, unconfirmed ones first, then the highest."""
    standing = [entry for entry in entries if not isinstance(entry.state, GONE)]
    return sorted(standing, key=_order_of, reverse=True)


def _order_of(entry: LedgerEntry) -> tuple[int, int, int, bytes]:
    match entry.state:
        case Confirmed(_, height, position):
            return 0, height, position, entry.txid
        case _:
            return 1, entry.seen_at, 0, entry.txid


class AddressJson(msgspec.Struct, kw_only=True, frozen=True):
    """An address with its inputs and outputs."""

    address: str
    total_received: int
    total_sent: int
    balance: int
    unconfirmed_balance: int
    final_balance: int
    n_tx: int
    unconfirmed_n_tx: int
    final_n_tx: int
    txrefs: Sequence[TxRefJson] | msgspec.UnsetType = msgspec.UNSET
    unconfirmed_txrefs: Sequence[TxRefJson] | msgspec.UnsetType = msgspec.UNSET
    txs: Sequence[object] | msgspec.UnsetType = msgspec.UNSET
    hasMore: bool | msgspec.UnsetType = msgspec.UNSET  # noqa: N815  # the original's spelling
    tx_url: str | msgspec.UnsetType = msgspec.UNSET
    history_from: int | msgspec.UnsetType = msgspec.UNSET  # ours, as is the next; both only where not all is known
    unproved_balance: int | msgspec.UnsetType = msgspec.UNSET


def address_json_of(address: str, balance: BalanceJson, **more: object) -> AddressJson:
    """Return an address with its balance; ``more`` are fields of ``AddressJson``."""
    return AddressJson(address=address, **msgspec.structs.asdict(balance), **more)  # type: ignore[arg-type]


def coverage_fields_of(coverages: Iterable[tuple[int | None, int]]) -> dict[str, int]:
    """Return the fields that say how much of the history is known; empty where all of it is.

    Args:
        coverages: of each address that is shown: from which height on its history is whole, and the satoshis that
            nothing proves.
    """
    found = list(coverages)
    heights = [height for height, _ in found if height is not None]
    unproved_sat = sum(amount_sat for _, amount_sat in found)
    fields = {"history_from": max(heights)} if heights else {}
    return fields | ({"unproved_balance": unproved_sat} if unproved_sat else {})


class WalletBalanceJson(BalanceJson, kw_only=True, frozen=True):
    """What the addresses of a wallet hold together."""

    wallet: "WalletJson | DerivedWalletJson"
    history_from: int | msgspec.UnsetType = msgspec.UNSET
    unproved_balance: int | msgspec.UnsetType = msgspec.UNSET


class WalletJson(msgspec.Struct, kw_only=True, frozen=True):
    """A wallet whose addresses are given."""

    name: str
    addresses: Sequence[str]
    token: str | msgspec.UnsetType = msgspec.UNSET


class ChainAddressJson(msgspec.Struct, kw_only=True, frozen=True):
    """A derived address."""

    address: str
    path: str


class ChainJson(msgspec.Struct, kw_only=True, frozen=True):
    """The derived addresses of one branch; ``index`` is left out where the key has none."""

    chain_addresses: Sequence[ChainAddressJson]
    index: int | msgspec.UnsetType = msgspec.UNSET


class DerivedWalletJson(msgspec.Struct, kw_only=True, frozen=True):
    """A wallet whose addresses are derived."""

    name: str
    hd: bool
    extended_public_key: str
    chains: Sequence[ChainJson]
    token: str | msgspec.UnsetType = msgspec.UNSET


class TipJson(msgspec.Struct, kw_only=True, frozen=True):
    """The chain; fees are satoshis for 1,000 virtual bytes, and left out where no server has an estimate."""

    name: str
    height: int
    hash: str
    time: str
    previous_hash: str
    peer_count: int
    high_fee_per_kb: int | msgspec.UnsetType = msgspec.UNSET
    medium_fee_per_kb: int | msgspec.UnsetType = msgspec.UNSET
    low_fee_per_kb: int | msgspec.UnsetType = msgspec.UNSET


class ConfidenceJson(msgspec.Struct, kw_only=True, frozen=True):
    """How likely a transaction is to be confirmed; ``receive_count`` is -1 once it is."""

    age_millis: int
    receive_count: int
    confidence: float
    txhash: str
    txurl: str
