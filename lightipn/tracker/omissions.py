"""What a history leaves out although it is proved, or was claimed: whether a server hides it, or is merely behind."""

from dataclasses import dataclass

import structlog

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of
from lightipn.chain.source import Misbehaviour, ScriptHashChanged
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.errors import SourceError
from lightipn.ledger.entries import LedgerEntry, ScriptPayments
from lightipn.store import ledger as ledger_store
from lightipn.store.ledger import ScriptRecord
from lightipn.tracker.chain_follower import ChainFollower
from lightipn.tracker.wiring import Wiring

# So often a server may leave out a proved payment before it is judged: a minute and more, and several blocks' races.
PATIENT_OMISSIONS = 5

log = structlog.get_logger("tracker")


@dataclass(frozen=True, slots=True)
class Unlisted:
    """What stands and a history does not list: proved payments, and claimed ones."""

    proved: tuple[LedgerEntry, ...] = ()
    claimed: tuple[Txid, ...] = ()


NOTHING = Unlisted()


def unlisted_of(update: ScriptHashChanged, payments: ScriptPayments) -> Unlisted:
    """Return what stands of a script's payments and an update does not list."""
    listed = {claim.txid for claim in update.history}
    missing = [entry for txid, entry in payments.entries.items() if txid not in listed]
    return Unlisted(
        proved=tuple(entry for entry in missing if isinstance(entry.state, Confirmed)),
        claimed=tuple(entry.txid for entry in missing if isinstance(entry.state, Unconfirmed)),
    )


class Omissions:
    """Counts how often each server left proved payments out, and judges it in the end."""

    def __init__(self, wiring: Wiring, follower: ChainFollower) -> None:
        self._wiring = wiring
        self._follower = follower
        self._counts: dict[tuple[str, ScriptHash], int] = {}

    def note(self, update: ScriptHashChanged) -> None:
        """Count one more history that leaves proved payments out."""
        key = update.server, update.scripthash
        self._counts[key] = self._counts.get(key, 0) + 1

    def clear(self, update: ScriptHashChanged) -> None:
        """Take note that a history is whole."""
        self._counts.pop((update.server, update.scripthash), None)

    def forget(self, server: str) -> None:
        """Take note that a server is gone."""
        for key in [key for key in self._counts if key[0] == server]:
            del self._counts[key]

    async def judge(self, update: ScriptHashChanged, record: ScriptRecord) -> None:
        """Judge a server that does not list what is proved: it is behind, cuts histories short, or hides payments."""
        payments = await self._wiring.store.read(lambda db: ledger_store.load_payments(db, update.scripthash))
        proved = unlisted_of(update, payments).proved if payments is not None else ()
        if not proved:
            return
        log.warning("tracker.proved_payments_unlisted", server=update.server, address=record.address, count=len(proved))
        if self._counts.get((update.server, update.scripthash), 0) < PATIENT_OMISSIONS:
            return
        if not update.history:  # some servers serve a history above their limit as an empty one
            log.error("tracker.history_truncated", server=update.server, address=record.address)
            return
        place = proved[0].state
        assert isinstance(place, Confirmed)
        try:
            history = await self._wiring.source.fetch_history(update.scripthash, server=update.server)
            headers = await self._wiring.source.fetch_headers(place.height, 1, server=update.server)
        except SourceError:
            return
        if any(claim.txid == proved[0].txid for claim in history):
            return  # it lists it by now
        if headers and self._follower.is_header(place.height, headers[0], place.block_hash):
            self._wiring.source.report(
                Misbehaviour(
                    server=update.server,
                    kind="omits-payment",
                    claim=f"the whole history of {record.address}, without {hex_of(proved[0].txid)}",
                    contradiction=f"a merkle branch proves it in block {place.height}, which the server has",
                )
            )
