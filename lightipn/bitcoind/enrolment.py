"""Takes scripts up, and lets go of them: in the store, in what is searched for, and in the view of the mempool."""

from collections.abc import Sequence

import trio

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoind.mempool_follower import MempoolFollower
from lightipn.bitcoind.view import NodeView
from lightipn.errors import SourceError
from lightipn.store import node_rows, node_scripts
from lightipn.store.database import Database, Store


class Enrolment:
    """Does what whoever watches wishes, a page at a time."""

    def __init__(self, store: Store, view: NodeView, mempool: MempoolFollower) -> None:
        self._store = store
        self._view = view
        self._mempool = mempool

    @property
    def is_open(self) -> bool:
        """Whether it is known from which block on scripts are searched for."""
        return self._view.position is not None

    async def take_up(self, scripthashes: Sequence[ScriptHash]) -> bool:
        """Take scripts up from the next block on; True if some have a past that is still to be looked for.

        Raises:
            SourceError: the node cannot be asked for what waits for them; they are to be taken up once more.
        """
        view = self._view
        async with view.lock:
            view.wished.difference_update(scripthashes)  # first: who is watched anew meanwhile wishes anew
            try:
                return await self._take_up([each for each in scripthashes if each in view.book.known])
            except SourceError:
                view.wished.update(scripthashes)
                raise

    async def _take_up(self, watched: Sequence[ScriptHash]) -> bool:
        view = self._view
        scripts = await self._store.transact(lambda db: node_scripts.register(db, watched, height=view.height))
        view.targets.take_up(scripts)
        await self._mempool.take_payments_to([one.script for one in scripts if one.script is not None])
        view.book.touch(one.scripthash for one in scripts)
        return not all(one.is_past_known for one in scripts)

    async def let_go(self, scripthashes: Sequence[ScriptHash]) -> None:
        """Let go of scripts that are watched no more."""
        view = self._view
        async with view.lock:
            gone = [each for each in scripthashes if each not in view.book.known]

            def work(db: Database) -> None:
                for scripthash in gone:
                    node_rows.drop_script(db, scripthash)

            await self._store.transact(work)
            for scripthash in gone:
                view.mempool.forget_script(scripthash)
            view.targets.let_go(gone)
            for _ in view.targets.sweep_out():
                await trio.lowlevel.checkpoint()
