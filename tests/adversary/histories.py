"""One random history: a script is paid, payments are replaced, evicted, mined and lost to reorgs, while a server lies.

Every fact that ever was true is written down. In the end the ledger must say what the honest servers say, and the feed
must hold nothing that never was true, in no impossible order, with nothing of the end missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from lightipn.bitcoin.hashes import BlockHash, Txid, hex_of, scripthash_of
from lightipn.bitcoin.transaction import Outpoint, Transaction, parse_transaction
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import GONE
from lightipn.simulator import forge
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.invention import InventedPayment
from lightipn.store.events import RecordedEvent
from tests.adversary.rig import Rig, open_rig

SETTLE_S = 600.0
HONEST = Behaviour()


class FalsehoodError(AssertionError):
    """The service said what is not so, or left out what is."""


Lie = Callable[[Random, SimulatedChain, bytes], Behaviour]


def _hides(chance: Random, chain: SimulatedChain, script: bytes) -> Behaviour:
    listed = [entry.txid for entry in chain.history(scripthash_of(script))]
    return Behaviour(hides=frozenset(chance.sample(listed, chance.randint(0, len(listed)))))


def _invents(chance: Random, chain: SimulatedChain, script: bytes) -> Behaviour:
    height = chance.choice([None, None, chance.randint(1, chain.tip_height)])
    return Behaviour(invents=(InventedPayment(script=script, amount_sat=chance.randint(1, 10**8), height=height),))


def _invents_plausible(chance: Random, chain: SimulatedChain, script: bytes) -> Behaviour:
    """Invent a payment that spends a real coin, worth enough and unspent: nothing but other servers contradicts it."""
    coinbase = chain.block_txids(chance.randint(1, chain.tip_height))[0]
    spend = Outpoint(coinbase, 0)
    return Behaviour(invents=(InventedPayment(script=script, amount_sat=chance.randint(1, 10**7), spend=spend),))


def _invents_rival(chance: Random, chain: SimulatedChain, script: bytes) -> Behaviour:
    """Invent a payment that spends what a real one spends."""
    listed = [entry.txid for entry in chain.history(scripthash_of(script))]
    if not listed:
        return _invents(chance, chain, script)
    victim = transaction_of(chain, chance.choice(listed))
    payee = chance.choice([script, forge.made_up_script("thief")])
    return Behaviour(invents=(InventedPayment(script=payee, amount_sat=1_000, spend=victim.spends[0]),))


LIES: dict[str, Lie] = {
    "hides": _hides,
    "invents": _invents,
    "invents_plausible": _invents_plausible,
    "invents_rival": _invents_rival,
    "hides_replacement": lambda *_: Behaviour(hides_replacement=True),
    "stale_tip": lambda _, chain, __: Behaviour(stale_tip=chain.tip_height),
    "low_work_chain": lambda chance, *_: Behaviour(low_work_chain=chance.randint(1, 5)),
    "wrong_bits": lambda *_: Behaviour(wrong_bits=True),
    "unlinked_tip": lambda *_: Behaviour(unlinked_tip=True),
    "tip_inflated": lambda chance, *_: Behaviour(tip_inflated=chance.randint(1, 10)),
    "wrong_genesis": lambda *_: Behaviour(wrong_genesis=True),
    "wrong_amount": lambda *_: Behaviour(wrong_amount=True),
    "denies_transactions": lambda *_: Behaviour(denies_transactions=True),
    "withholds_proof": lambda *_: Behaviour(withholds_proof=True),
    "fake_branch": lambda *_: Behaviour(fake_branch=True),
    "duplicate_sibling": lambda *_: Behaviour(duplicate_sibling=True),
    "long_branch": lambda *_: Behaviour(long_branch=True),
    "wrong_position": lambda *_: Behaviour(wrong_position=True),
    "wrong_history_height": lambda chance, *_: Behaviour(wrong_history_height=chance.choice([-2, -1, 1, 2])),
    "height_above_tip": lambda *_: Behaviour(height_above_tip=True),
    "duplicate_txid": lambda *_: Behaviour(duplicate_txid=True),
    "unsorted_heights": lambda *_: Behaviour(unsorted_heights=True),
    "status_never_matches": lambda *_: Behaviour(status_never_matches=True),
    "history_too_large": lambda *_: Behaviour(history_too_large=True),
    "null_status": lambda *_: Behaviour(null_status=True),
    "withholds_notice": lambda *_: Behaviour(withholds_notice=True),
    "header_flood": lambda *_: Behaviour(header_flood=True),
    "notice_flood": lambda *_: Behaviour(notice_flood=True),
    "old_protocol": lambda *_: Behaviour(old_protocol=True),
    "phishing_text": lambda *_: Behaviour(phishing_text=True),
    "garbage": lambda *_: Behaviour(garbage=True),
    "stalls": lambda *_: Behaviour(stalls=True),
    "late": lambda chance, *_: Behaviour(delay_s=chance.choice([0.1, 1.0, 8.0])),
    "honest": lambda *_: HONEST,
}


def transaction_of(chain: SimulatedChain, txid: Txid) -> Transaction:
    """Return a transaction that the chain knows."""
    raw = chain.transaction(txid)
    assert raw is not None
    return parse_transaction(raw)


@dataclass(slots=True)
class Truth:
    """Everything that ever was so.

    Args:
        seen: transactions that were in the mempool or in a block.
        blocks: (txid, block) that stood in the best chain.
        conflicts: outpoint → transactions that ever spent it.
    """

    chain: SimulatedChain
    script: bytes
    transactions: dict[Txid, Transaction] = field(default_factory=dict)
    blocks: set[tuple[Txid, BlockHash]] = field(default_factory=set)
    vanished: set[Txid] = field(default_factory=set)

    def note(self) -> None:
        """Write down what is so now."""
        known = [*self.chain.mempool]
        for height in range(1, self.chain.tip_height + 1):
            block = self.chain.block_at(height)
            known += block.txids
            self.blocks |= {(txid, block.block_hash) for txid in block.txids}
        for txid in known:
            if txid not in self.transactions:
                self.transactions[txid] = transaction_of(self.chain, txid)
        self.vanished |= self.transactions.keys() - set(known)

    def is_rival(self, txid: Txid, other: Txid) -> bool:
        """Tell whether two transactions that existed can never be in one chain."""
        if txid not in self.transactions or other not in self.transactions:
            return False
        spends = {(spend.txid, spend.index) for spend in self.transactions[txid].spends}
        if spends & {(spend.txid, spend.index) for spend in self.transactions[other].spends}:
            return True
        # a child of a replaced payment is gone with it
        return any(self.is_rival(parent, other) for parent, _ in spends if parent in self.transactions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happens: to the chain, or to what a server says."""

    name: str
    pause_s: float
    is_published: bool


def plan_of(chance: Random) -> list[Step]:
    """Draw what happens in a history."""
    names = ["pay", "pay", "pay", "chain", "bump", "steal", "evict", "mine", "mine", "mine_some", "reorg", "reorg_drop"]
    return [
        Step(
            name=chance.choice([*names, "lie", "lie"]),
            pause_s=chance.choice([0.0, 0.0, 0.2, 1.0, 5.0, 30.0]),
            is_published=chance.random() < 0.8,
        )
        for _ in range(chance.randint(3, 14))
    ]


def happen(name: str, chance: Random, chain: SimulatedChain, script: bytes) -> None:
    """Let one thing happen to the chain; what cannot happen now does not."""
    ours = [entry.txid for entry in chain.history(scripthash_of(script)) if entry.height is None]
    match name:
        case "pay":
            chain.pay(script, chance.randint(1_000, 10**7), rbf=chance.random() < 0.8)
        case "chain":  # spend what was paid, with change to the same script
            free = [coin for coin in chain.coins(scripthash_of(script)) if coin.spent_by is None]
            if free:
                coin = chance.choice(free)
                payee = chance.choice([script, forge.made_up_script("elsewhere")])
                chain.pay(payee, coin.amount_sat // 2 + 1, spend=[coin.outpoint], change_to=script)
        case "bump" if ours:
            chain.replace(chance.choice(ours))
        case "steal" if ours:
            chain.replace(chance.choice(ours), script=forge.made_up_script("thief"))
        case "evict" if ours:
            chain.evict(chance.choice(ours))
        case "mine":
            chain.mine(chance.randint(1, 3))
        case "mine_some":
            chain.mine(include=[txid for txid in chain.mempool if chance.random() < 0.5])
        case "reorg":
            chain.reorg(min(chance.randint(1, 4), chain.tip_height - 1), remine=chance.random() < 0.5)
        case "reorg_drop":
            lost = [txid for height in (chain.tip_height,) for txid in chain.block_txids(height)[1:]]
            chain.reorg(1, drop=[txid for txid in lost if chance.random() < 0.5])


async def run_history(rig: Rig, chance: Random, *, liars: list[int], lies: list[str]) -> Truth:
    """Let a history happen on a fresh script, and return what was true of it.

    Args:
        liars: places of the servers that may lie; each tells one of ``lies`` at a time.
    """
    script = forge.made_up_script(f"victim {chance.random()}")
    truth = Truth(rig.chain, script)
    truth.note()
    await rig.watch(script)
    for step in plan_of(chance):
        if step.name == "lie":
            place = chance.choice(liars)
            rig.servers[place].behaviour = LIES[chance.choice(lies)](chance, rig.chain, script)
        else:
            happen(step.name, chance, rig.chain, script)
            truth.note()
        if step.is_published:
            await rig.publish()
        await trio.sleep(step.pause_s)
    await rig.publish()
    return truth


# --- comparing with the truth ---


async def check_proved(rig: Rig, truth: Truth) -> None:
    """Compare what no majority of liars can change with the chain: what is confirmed, and what was told of it.

    Raises:
        FalsehoodError: they differ.
    """
    entries = await rig.entries(truth.script)
    wanted = {
        entry.txid: rig.chain.block_at(entry.height).block_hash
        for entry in rig.chain.history(scripthash_of(truth.script))
        if entry.height is not None
    }
    found = {txid: entry.state.block_hash for txid, entry in entries.items() if isinstance(entry.state, Confirmed)}
    if found != wanted:
        raise FalsehoodError(f"{len(found)} payments are confirmed, want {len(wanted)}, or in other blocks")
    for event in await rig.events(scripthash_of(truth.script)):
        if event.kind in ("payment.confirmed", "payment.reverted"):
            check_event(event, truth)


async def check_ledger(rig: Rig, truth: Truth) -> None:
    """Compare the ledger with the chain.

    Raises:
        FalsehoodError: they differ.
    """
    chain = rig.chain
    entries = await rig.entries(truth.script)
    listed = {entry.txid: entry.height for entry in chain.history(scripthash_of(truth.script))}
    for txid, height in listed.items():
        entry = entries.get(txid)
        if entry is None:
            raise FalsehoodError(f"{hex_of(txid)} at height {height} is missing")
        if height is None and not isinstance(entry.state, Unconfirmed):
            raise FalsehoodError(f"{hex_of(txid)} is in the mempool, and the ledger says {entry.state}")
        if height is not None:
            place = chain.block_at(height)
            wanted = Confirmed(place.block_hash, height, place.txids.index(txid))
            if entry.state != wanted:
                raise FalsehoodError(f"{hex_of(txid)} is {wanted}, and the ledger says {entry.state}")
    for txid, entry in entries.items():
        if txid not in listed and not isinstance(entry.state, GONE) and not entry.is_coinbase:
            raise FalsehoodError(f"{hex_of(txid)} is nowhere, and the ledger says {entry.state}")
    confirmed_sat, unconfirmed_sat = true_totals(truth)
    if await rig.totals(truth.script) != (confirmed_sat, unconfirmed_sat):
        raise FalsehoodError(f"totals are {await rig.totals(truth.script)}, want {confirmed_sat, unconfirmed_sat}")


def true_totals(truth: Truth) -> tuple[int, int]:
    """Return what a script received, from the chain alone: confirmed and unconfirmed satoshis."""
    totals = [0, 0]
    history = truth.chain.history(scripthash_of(truth.script))
    own = {
        (entry.txid, index): amount_sat
        for entry in history
        for index, amount_sat in truth.transactions[entry.txid].received_by(truth.script).items()
    }
    for entry in history:
        transaction = truth.transactions[entry.txid]
        received_sat = sum(transaction.received_by(truth.script).values())
        sent_sat = sum(own.get((spend.txid, spend.index), 0) for spend in transaction.spends)
        totals[entry.height is None] += max(0, received_sat - sent_sat)
    return totals[0], totals[1]


# What may follow what, in the life of one payment.
FOLLOWS = {
    "": {"payment.seen", "payment.confirmed"},
    "payment.seen": {"payment.confirmed", "payment.replaced", "payment.dropped"},
    "payment.confirmed": {"payment.reverted"},
    "payment.reverted": {"payment.confirmed", "payment.replaced", "payment.dropped"},
    "payment.replaced": {"payment.seen", "payment.confirmed"},
    "payment.dropped": {"payment.seen", "payment.confirmed"},
}


def check_event(event: RecordedEvent, truth: Truth) -> None:
    """Compare one event with what ever was true; ``FalsehoodError`` where it never was."""
    assert event.txid is not None
    name = f"{event.kind} of {hex_of(event.txid)}"
    if event.txid not in truth.transactions:
        raise FalsehoodError(f"{name}: there never was such a transaction")
    if event.kind in ("payment.confirmed", "payment.reverted"):
        assert event.block_hash is not None
        if (event.txid, event.block_hash) not in truth.blocks:
            raise FalsehoodError(f"{name}: it never was in that block")
    if event.kind == "payment.replaced":
        assert event.replaced_by is not None
        if not truth.is_rival(event.txid, event.replaced_by):
            raise FalsehoodError(f"{name}: {hex_of(event.replaced_by)} is no rival")
    if event.kind == "payment.dropped" and event.txid not in truth.vanished:
        raise FalsehoodError(f"{name}: it never was gone")


async def check_feed(rig: Rig, truth: Truth) -> int:
    """Compare the feed with the truth; return how many events there were.

    Raises:
        FalsehoodError: an event was never true, or follows what it cannot follow, or the end is missing.
    """
    last: dict[Txid, str] = {}
    events = await rig.events(scripthash_of(truth.script))
    for event in events:
        check_event(event, truth)
        assert event.txid is not None
        before = last.get(event.txid, "")
        if event.kind not in FOLLOWS[before]:
            raise FalsehoodError(f"{event.kind} follows {before or 'nothing'} of {hex_of(event.txid)}")
        last[event.txid] = event.kind
    for entry in rig.chain.history(scripthash_of(truth.script)):
        wanted = {"payment.seen", "payment.reverted"} if entry.height is None else {"payment.confirmed"}
        if last.get(entry.txid) not in wanted:
            raise FalsehoodError(f"the last event of {hex_of(entry.txid)} is {last.get(entry.txid)}")
    return len(events)


async def compare(rig: Rig, truth: Truth, *, proved_only: bool) -> int:
    """Wait until ledger and feed say the truth; return the number of events.

    Args:
        proved_only: look only at what blocks prove, since most servers lie.

    Raises:
        FalsehoodError: they do not, after ``SETTLE_S`` of virtual time.
    """
    deadline = trio.current_time() + SETTLE_S
    while True:
        try:
            if proved_only:
                await check_proved(rig, truth)
                return len(await rig.events(scripthash_of(truth.script)))
            await check_ledger(rig, truth)
            return await check_feed(rig, truth)
        except FalsehoodError:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(5.0)


async def run_group(
    folder: Path,
    chance: Random,
    *,
    name: str,
    histories: int,
    lies: list[str],
    servers: int = 3,
    liars: int = 1,
    min_seen_by: int = 2,
) -> tuple[int, dict[str, set[str]]]:
    """Run some histories one after the other on one service.

    Args:
        name: what a failure is called by, such as the seed that repeats it.
        liars: how many servers lie. Where they are half or more, only what blocks prove is compared.

    Returns:
        The number of events, and what each server was caught with.

    Raises:
        FalsehoodError: the service was made to say something false, or missed something.
    """
    chain = SimulatedChain()
    chain.mine(12)
    places = chance.sample(range(servers), liars)
    behaviours = [
        LIES[chance.choice(lies)](chance, chain, forge.made_up_script("nobody")) if place in places else HONEST
        for place in range(servers)
    ]
    count = 0
    file = folder / f"{name}.db"
    async with open_rig(file, [chain], behaviours, ban_s=100.0, min_seen_by=min_seen_by) as rig:
        for number in range(histories):
            try:
                truth = await run_history(rig, chance, liars=places, lies=lies)
                count += await compare(rig, truth, proved_only=2 * liars >= servers)
            except FalsehoodError as error:
                raise FalsehoodError(f"{name}, history {number}, liars {places}: {error}") from error
        caught = {server: kinds - {"disagreement"} for server, kinds in rig.evidence().items()}
        caught = {server: kinds for server, kinds in caught.items() if kinds}
    blamed = {server for server in caught if int(server.removeprefix("server")) not in places}
    if blamed:
        raise FalsehoodError(f"{name}: {blamed} were caught with {caught}, and are honest")
    return count, caught
