"""Reads the histories of scripts that were touched, and tells those that are news."""

from collections.abc import Sequence

import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoind.view import NodeView
from lightipn.chain.history import HistoryEntry, status_of
from lightipn.chain.source import ScriptHashChanged, Update
from lightipn.store import node_findings
from lightipn.store.database import Database, Store

UNDER_WAY_AT_MOST = 200


class Teller:
    """Tells histories while blocks, mempool and tip belong together.

    In between, a reorg or a rival's block would look as if a payment were hidden.
    """

    def __init__(self, store: Store, view: NodeView, send: trio.MemorySendChannel[Update], *, name: str) -> None:
        self._store = store
        self._view = view
        self._send = send
        self._name = name
        self._bell = trio.Event()
        self._is_silent = True

    def ring(self) -> None:
        """Say that histories may have changed."""
        self._bell.set()

    def hold_back(self) -> None:
        """Tell nothing until it is said to go on."""
        self._is_silent = True

    def go_on(self) -> None:
        """Tell what there is."""
        self._is_silent = False
        self._bell.set()

    async def run(self) -> None:
        """Tell for ever."""
        book = self._view.book
        while True:
            self._bell = trio.Event()
            if self._is_silent:
                await self._bell.wait()
                continue
            taken = book.take(now=trio.current_time(), limit=UNDER_WAY_AT_MOST)
            histories = await self.histories(taken) if taken else {}
            # Of now: the past may be found while these are told. Who is wished for is told when it is taken up.
            pending = self._view.targets.past_pending.intersection(taken)
            histories = {each: found for each, found in histories.items() if each not in self._view.wished}
            for scripthash, history in histories.items():
                if not history and scripthash in pending:
                    continue  # nothing can be said of it before its past was looked for
                status = status_of(history)
                if book.is_news(scripthash, status):
                    update = ScriptHashChanged(server=self._name, scripthash=scripthash, status=status, history=history)
                    await self._send.send(update)
            if taken:
                continue
            with trio.move_on_at(book.next_recheck()):
                await self._bell.wait()

    async def histories(self, scripthashes: Sequence[ScriptHash]) -> dict[ScriptHash, tuple[HistoryEntry, ...]]:
        """Return what is known of scripts: their transactions in blocks, and those that wait."""
        async with self._view.lock:
            found = await self._store.read(lambda db: _load_all(db, scripthashes))
            histories = {}
            for scripthash, (rows, undeniable) in found.items():
                confirmed = [HistoryEntry(txid=txid, height=height) for height, _, txid in rows]
                txids = {entry.txid for entry in confirmed}
                waiting = [entry for entry in self._view.mempool.entries(scripthash) if entry.txid not in txids]
                txids.update(entry.txid for entry in waiting)
                unseen = [HistoryEntry(txid=txid, height=None) for txid in undeniable if txid not in txids]
                histories[scripthash] = (*confirmed, *waiting, *unseen)
            return histories


def _load_all(
    db: Database, scripthashes: Sequence[ScriptHash]
) -> dict[ScriptHash, tuple[list[tuple[int, int, Txid]], list[Txid]]]:
    """Return what blocks show of each script, and what may stand in blocks that nobody can show."""
    shown = node_findings.load_histories(db, scripthashes)
    return {each: (rows, node_findings.load_undeniable(db, each)) for each, rows in shown.items()}
