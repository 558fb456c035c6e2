"""One server of the fake source: it answers from a chain, and lets a test decide what it says instead."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.chain.history import History
from lightipn.chain.source import FeeHistogram, MerkleBranch, RawTransaction
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from lightipn.simulator.view import ChainView

# After so long a real session gives a question up.
SILENCE_S = 30.0


@dataclass(slots=True, eq=False)
class FakeServer:
    """A server that answers at once, and the truth, unless a test changes that.

    Args:
        chain: what it knows; assign another to change its mind.
        most_headers: so many headers it gives at a time.
        withheld: transactions that it refuses to give, and to prove.
        unlisted: transactions that it leaves out of its histories.
        silent_about: transactions about which it answers nothing; ``lists_nothing`` is the same for what it is asked to
            list, and ``is_silent`` for all questions.
        held: transactions that it gives once the event is set; ``headers_released`` is the same for headers.
        is_gone: every question ends in a broken link.
        histogram: the fees of its mempool, as it claims them; ``fee_rate`` is its estimate, for whatever target.
        broadcasts: what was handed to it, in order; nothing of it enters the chain by itself.
        refuses_broadcasts: it takes no transaction.
    """

    name: str
    chain: ChainView
    most_headers: int = 2016
    calls: Counter[str] = field(default_factory=Counter)
    pages: list[tuple[int, int]] = field(default_factory=list)
    withheld: set[Txid] = field(default_factory=set)
    unlisted: set[Txid] = field(default_factory=set)
    silent_about: set[Txid] = field(default_factory=set)
    held: dict[Txid, trio.Event] = field(default_factory=dict)
    headers_released: trio.Event | None = None
    lists_nothing: bool = False
    is_silent: bool = False
    is_gone: bool = False
    branch_of: Callable[[Txid, int], MerkleBranch] | None = None
    transaction_of: Callable[[Txid], bytes | None] | None = None
    headers_of: Callable[[int, int], list[bytes]] | None = None
    history_of: Callable[[ScriptHash], History] | None = None
    histogram: FeeHistogram = field(default=FeeHistogram(()))
    fee_rate: float | None = None
    broadcasts: list[bytes] = field(default_factory=list)
    refuses_broadcasts: bool = False
    asked: set[Txid] = field(default_factory=set)
    most_at_once: int = 0
    _at_once: int = 0

    def history(self, scripthash: ScriptHash) -> History:
        """Return what it claims for a script."""
        claimed = (self.history_of or self.chain.history)(scripthash)
        return tuple(claim for claim in claimed if claim.txid not in self.unlisted)

    async def list_history(self, scripthash: ScriptHash) -> History:
        """Answer with what it claims now."""
        self.calls["history"] += 1
        await self._be_asked(is_silent=self.lists_nothing)
        return self.history(scripthash)

    async def headers(self, start: int, count: int) -> list[bytes]:
        """Answer from the chain, at most ``most_headers`` at a time."""
        self.pages.append((start, count))
        await self._be_asked()
        answer = self.headers_of or self.chain.headers_from
        headers = answer(start, min(count, self.most_headers))
        if self.headers_released is not None:
            await self.headers_released.wait()
        return headers

    async def merkle_branch(self, txid: Txid, height: int) -> MerkleBranch:
        """Answer from the chain; refuse what is withheld, and what is not in that block."""
        self.calls["merkle"] += 1
        await self._be_asked(txid)
        if txid in self.withheld:
            raise SourceRefusedError("withheld", code=1, source=self.name)
        try:
            branch = (self.branch_of or self.chain.merkle)(txid, height)
        except LookupError:
            raise SourceRefusedError("not in that block", code=1, source=self.name) from None
        return MerkleBranch(branch.position, branch.siblings, self.name)

    async def transaction(self, txid: Txid) -> RawTransaction:
        """Answer from the chain, once the test lets it; refuse what is withheld or unknown."""
        self.calls["transaction"] += 1
        self.asked.add(txid)
        await self._be_asked(txid)
        if txid in self.held:
            await self.held[txid].wait()
        raw = None if txid in self.withheld else (self.transaction_of or self.chain.transaction)(txid)
        if raw is None:
            raise SourceRefusedError("unknown", code=2, source=self.name)
        return RawTransaction(self.name, raw)

    async def fee_histogram(self) -> FeeHistogram:
        """Answer what the test says of its mempool."""
        self.calls["histogram"] += 1
        await self._be_asked()
        return self.histogram

    async def estimate(self) -> float | None:
        """Answer with the estimate that the test set."""
        self.calls["estimate"] += 1
        await self._be_asked()
        return self.fee_rate

    async def take(self, raw: bytes) -> None:
        """Note a transaction, or refuse it."""
        self.calls["broadcast"] += 1
        self.broadcasts.append(raw)
        await self._be_asked()
        if self.refuses_broadcasts:
            raise SourceRefusedError("rejected", code=1, source=self.name)

    async def _be_asked(self, txid: Txid | None = None, *, is_silent: bool = False) -> None:
        """Let time pass, count how many questions are under way, and fail as the test wants it."""
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await trio.lowlevel.checkpoint()
            if is_silent or self.is_silent or txid in self.silent_about:
                await trio.sleep(SILENCE_S)
                raise SourceUnavailableError("no answer in time", source=self.name)
        finally:
            self._at_once -= 1
        if self.is_gone:
            raise SourceUnavailableError("gone", source=self.name)
