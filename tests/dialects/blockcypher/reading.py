"""What the tests of the read calls share: an address with a past, and how its calls are spelled."""

from datetime import UTC, datetime
from functools import partial

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.chain.verifier import Unconfirmed
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from lightipn.ledger.entries import Standing
from lightipn.store.transactions import Background
from tests.builders import payment, txid_of
from tests.dialects.blockcypher.rig import (
    V1,
    happen,
    looked_at,
    mine,
    placed,
)
from tests.dialects.rig import ADDRESS, TIP, Caller

ADDR = f"{V1}/addrs/{ADDRESS.text}"
ONE = payment(1)
UNKNOWN_TX = "ab" * 32
GONE = partial(SourceUnavailableError, "no server", source="")
NO = partial(SourceRefusedError, "rejected", code=1, source="one")
SEEN = "2023-11-14T22:13:20Z"
MAINNET_ADDRESS = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"


def moment_of(text: str) -> datetime:
    """Read a time as clients do; it must have a zone."""
    found = datetime.fromisoformat(text)
    assert found.tzinfo == UTC
    return found


def tx_path(transaction: Transaction, more: str = "") -> str:
    """Return the path of a transaction."""
    return f"{V1}/txs/{hex_of(transaction.txid)}{more}"


async def spent_story(caller: Caller) -> tuple[Transaction, Transaction, Transaction]:
    """Have an address be paid, spend that two blocks later, and be paid again outside a block."""
    await looked_at(caller)
    first, _, third = await mine(caller, 3)
    spending = payment(2, amount_sat=40, spends=[Outpoint(txid_of(8), 1), Outpoint(ONE.txid, 0)])
    pending = payment(3, amount_sat=7)
    await happen(caller, ONE, placed(first, TIP + 1))
    await happen(caller, spending, placed(third, TIP + 3), sent_sat=100_000)
    await happen(caller, pending, Unconfirmed(2), background=Background(standing=Standing(vbytes_ahead=0)))
    return ONE, spending, pending
