"""Events written into a feed, as the tracker would write them."""

from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.headers import ChainDelta
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.store import events
from lightipn.store.database import Database
from tests.builders import block_hash_of, genesis_of, mined_run, txid_of
from tests.store.rows import NOW, TIP, regtest_address

FIRST_BLOCK = parse_header(mined_run(genesis_of(REGTEST), 1)[0])


def see(db: Database, number: int, *, txid: int = 1, net_sat: int = 40, seen_by: int = 2) -> None:
    """Write that a payment to the address with this number was seen by some servers."""
    trust = TrustLevel.AGREED if seen_by > 1 else TrustLevel.SINGLE
    _write(db, EventKind.SEEN, number, txid, net_sat, trust, seen_by=seen_by, signals_rbf=True)


def confirm(db: Database, number: int, *, txid: int = 1, net_sat: int = 40, height: int = TIP) -> None:
    """Write that a payment was proved to be in a block."""
    block_hash = block_hash_of(height)
    _write(db, EventKind.CONFIRMED, number, txid, net_sat, TrustLevel.PROVED, height=height, block_hash=block_hash)


def replace(db: Database, number: int, *, txid: int = 1, by: int = 2, net_sat: int = 40) -> None:
    """Write that another transaction took a payment's place."""
    _write(db, EventKind.REPLACED, number, txid, net_sat, TrustLevel.SINGLE, replaced_by=txid_of(by), seen_by=1)


def _write(
    db: Database, kind: EventKind, number: int, txid: int, net_sat: int, trust: TrustLevel, **facts: object
) -> None:
    event = PaymentEvent(
        kind=kind,
        scripthash=regtest_address(number).scripthash,
        txid=txid_of(txid),
        net_sat=net_sat,
        trust=trust,
        **{"height": None, **facts},  # type: ignore[arg-type]  # each by its name
    )
    events.save_payment_events(db, [event], now=NOW)


def connect(db: Database, *, height: int = TIP + 1) -> None:
    """Write that a block was connected, in a database whose chain has reached a tip."""
    delta = ChainDelta(fork_height=height - 1, disconnected=(), connected=(FIRST_BLOCK,))
    events.begin_block_events(db)
    events.save_block_events(db, delta, now=NOW)


def distrust(db: Database, *, server: str = "a.example:50002:s", reason: str = "certificate-changed") -> None:
    """Write that a server is used no more."""
    events.save_server_event(db, server=server, reason=reason, now=NOW)
