"""What can happen to the made-up chain."""

import pytest

from lightipn.bitcoin.hashes import Txid, scripthash_of, sha256
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput
from lightipn.chain.history import HistoryEntry
from lightipn.errors import RequestError, TransactionError
from lightipn.simulator import forge
from lightipn.simulator.blocks import FEE_SAT, SimulatedChain
from tests.simulator.readers import chain_of_headers, parsed

SCRIPT = forge.made_up_script("shop")
OTHER_SCRIPT = forge.made_up_script("customer")
SHOP = scripthash_of(SCRIPT)
CUSTOMER = scripthash_of(OTHER_SCRIPT)


def test_new_chain_is_genesis_alone() -> None:
    """A new chain holds regtest's genesis block and nothing else."""
    chain = SimulatedChain()
    assert (chain.tip_height, chain.mempool, chain.header_at(0)) == (0, (), REGTEST.genesis_header)
    assert chain.transaction(chain.block_txids(0)[0]) is None


def test_headers_connect() -> None:
    """Every mined header obeys the rules of our own header chain, from genesis on."""
    chain = SimulatedChain()
    chain.mine(20)
    ours = chain_of_headers()
    delta = ours.extended_by(1, chain.headers_from(1, 100))
    assert delta is not None
    ours.apply(delta)
    assert (ours.tip_height, ours.tip_hash) == (20, chain.block_at(20).block_hash)


def test_same_calls_yield_the_same_bytes() -> None:
    """Two chains that were treated alike are the same, byte by byte."""

    def story() -> tuple[bytes, object]:
        chain = SimulatedChain()
        txid = chain.pay(SCRIPT, 1000)
        chain.mine(3)
        chain.replace(chain.pay(SCRIPT, 2000), OTHER_SCRIPT)
        chain.reorg(2)
        return chain.header_at(chain.tip_height), (txid, chain.history(SHOP))

    assert story() == story()


def test_seeds_part_chains() -> None:
    """Chains with different seeds share neither blocks nor payments."""
    one, two = SimulatedChain(seed=1), SimulatedChain(seed=2)
    assert one.pay(SCRIPT, 5) != two.pay(SCRIPT, 5)
    assert one.mine()[0].txids[0] != two.mine()[0].txids[0]


def test_copy_shares_the_past_only() -> None:
    """A copy with another seed has the same past, and what happens to one does not happen to the other."""
    chain = SimulatedChain()
    chain.pay(SCRIPT, 1000)
    chain.mine(2)
    twin = chain.copy(seed=1)
    assert twin.history(SHOP) == chain.history(SHOP)
    chain.mine()
    twin.mine(2)
    assert (chain.tip_height, twin.tip_height) == (3, 4)
    assert chain.header_at(2) == twin.header_at(2)
    assert chain.header_at(3) != twin.header_at(3)


def test_copy_continues_like_its_original() -> None:
    """A copy with the same seed, treated alike, yields the same bytes, whatever happens to another copy."""
    spend = Outpoint(Txid(sha256(b"nowhere")), 0)

    def beginning() -> tuple[SimulatedChain, Txid]:
        chain = SimulatedChain()
        txid = chain.pay(SCRIPT, 1000)
        chain.mine(2, include=[])
        return chain, txid

    def story(told: SimulatedChain) -> tuple[Txid, Txid, bytes]:
        return told.replace(first), told.pay(SCRIPT, 5000, spend=[spend]), told.mine()[0].header

    (chain, first), (unrelated, _) = beginning(), beginning()
    twin, bystander = chain.copy(seed=0), chain.copy(seed=0)
    bystander.pay(SCRIPT, 1, spend=[spend])
    bystander.evict(first)
    assert story(chain) == story(twin) == story(unrelated)


@pytest.mark.parametrize(("start_time", "first"), [(None, 1296688602 + 600), (1_700_000_000, 1_700_000_000)])
def test_time_advances_by_ten_minutes(start_time: int | None, first: int) -> None:
    """Block 1 has the start time, or follows genesis by 600 s; each later block is 600 s later."""
    chain = SimulatedChain(start_time=start_time)
    times = [parse_header(block.header).time for block in chain.mine(3)]
    assert times == [first, first + 600, first + 1200]


def test_payment_pays() -> None:
    """A payment's first output is what was asked for, and its fee is the made-up inputs less all outputs."""
    chain = SimulatedChain()
    txid = chain.pay(SCRIPT, 12_345, change_to=OTHER_SCRIPT)
    outputs = parsed(chain, txid).outputs
    assert outputs[0] == TxOutput(amount_sat=12_345, script=SCRIPT)
    assert [output.script for output in outputs[1:]] == [OTHER_SCRIPT]
    assert chain.fee_sat(txid) == FEE_SAT
    assert chain.history(SHOP) == (HistoryEntry(txid, None),)


def test_one_transaction_pays_many() -> None:
    """``pay_many`` pays all its outputs in one transaction, in order."""
    chain = SimulatedChain()
    txid = chain.pay_many([(SCRIPT, 1), (OTHER_SCRIPT, 2), (SCRIPT, 3)])
    assert [(o.script, o.amount_sat) for o in parsed(chain, txid).outputs[:3]] == [
        (SCRIPT, 1),
        (OTHER_SCRIPT, 2),
        (SCRIPT, 3),
    ]
    assert chain.history(CUSTOMER) == (HistoryEntry(txid, None),)


def test_payment_of_nothing_is_refused() -> None:
    """A transaction without a payment is refused, and changes nothing."""
    chain = SimulatedChain()
    with pytest.raises(ValueError, match="nothing to pay"):
        chain.pay_many([])
    assert chain.version == 0


def test_spending_touches_who_was_paid() -> None:
    """Spending an output puts the spender into the history of the script it was paid to, as child of a parent."""
    chain = SimulatedChain()
    parent = chain.pay(SCRIPT, 100_000)
    child = chain.pay(OTHER_SCRIPT, 99_000, spend=[Outpoint(parent, 0)])
    assert parsed(chain, child).spends == (Outpoint(parent, 0),)
    assert parsed(chain, child).outputs == (TxOutput(amount_sat=99_000, script=OTHER_SCRIPT),)
    assert chain.history(SHOP) == (HistoryEntry(parent, None), HistoryEntry(child, None, has_unconfirmed_parent=True))
    chain.mine(include=[parent])
    assert chain.history(SHOP) == (HistoryEntry(parent, 1), HistoryEntry(child, None))


@pytest.mark.parametrize("confirmed", [True, False])
def test_parent_touches_its_children(confirmed: bool) -> None:
    """Who a child pays is touched when the parent enters or leaves a block: the child's claim changes with it."""
    chain = SimulatedChain()
    chain.mine()
    parent = chain.pay(SCRIPT, 100_000)
    child = chain.pay(OTHER_SCRIPT, 99_000, spend=[Outpoint(parent, 0)])
    if not confirmed:
        chain.mine(include=[parent])
    version = chain.version
    if confirmed:
        chain.mine(include=[parent])
    else:
        chain.reorg(1)
    assert chain.history(CUSTOMER) == (HistoryEntry(child, None, has_unconfirmed_parent=not confirmed),)
    assert CUSTOMER in chain.touched_since(version)


def test_input_is_added_where_money_is_missing() -> None:
    """A payment above what its inputs hold takes one more input, and the change goes where it was said to."""
    chain = SimulatedChain()
    parent = chain.pay(SCRIPT, 1000)
    child = chain.pay(OTHER_SCRIPT, 5000, spend=[Outpoint(parent, 0)], change_to=SCRIPT)
    transaction = parsed(chain, child)
    assert transaction.spends[0] == Outpoint(parent, 0)
    assert len(transaction.spends) == 2
    assert transaction.outputs[1].script == SCRIPT


def test_spent_output_cannot_be_spent_again() -> None:
    """Spending what is spent already is refused, and changes nothing."""
    chain = SimulatedChain()
    parent = chain.pay(SCRIPT, 100_000)
    chain.pay(OTHER_SCRIPT, 99_000, spend=[Outpoint(parent, 0)])
    before = chain.version
    with pytest.raises(ValueError, match="spent already"):
        chain.pay(OTHER_SCRIPT, 98_000, spend=[Outpoint(parent, 0)])
    assert (chain.version, len(chain.mempool)) == (before, 2)


def test_mining_takes_the_mempool_into_the_first_block() -> None:
    """Mining takes every unconfirmed transaction into the first new block, behind its coinbase."""
    chain = SimulatedChain()
    txids = [chain.pay(SCRIPT, n) for n in (1, 2, 3)]
    blocks = chain.mine(2)
    assert [block.height for block in blocks] == [1, 2]
    assert blocks[0].txids[1:] == tuple(txids)
    assert len(blocks[1].txids) == 1
    assert chain.mempool == ()


def test_mining_nothing_keeps_the_mempool() -> None:
    """An empty selection mines an empty block."""
    chain = SimulatedChain()
    txid = chain.pay(SCRIPT, 1)
    assert len(chain.mine(include=())[0].txids) == 1
    assert chain.mempool == (txid,)


def test_mining_a_child_takes_its_parents() -> None:
    """A selected transaction brings its unconfirmed parents, which stand before it."""
    chain = SimulatedChain()
    other = chain.pay(SCRIPT, 5)
    parent = chain.pay(SCRIPT, 100_000)
    child = chain.pay(OTHER_SCRIPT, 50_000, spend=[Outpoint(parent, 0)])
    assert chain.mine(include=[child])[0].txids[1:] == (parent, child)
    assert chain.mempool == (other,)


def test_mining_the_unknown_is_refused() -> None:
    """Only what is in the mempool can be mined."""
    with pytest.raises(ValueError, match="not in the mempool"):
        SimulatedChain().mine(include=[Txid(bytes(32))])


def test_coinbase_can_pay_a_script() -> None:
    """A coinbase pays the script it is told to."""
    chain = SimulatedChain()
    (block,) = chain.mine(pay_to=SCRIPT)
    assert chain.history(SHOP) == (HistoryEntry(block.txids[0], 1),)


def test_fee_bump_pays_the_same() -> None:
    """A plain replacement spends the same inputs, pays the same, and costs more."""
    chain = SimulatedChain()
    first = chain.pay(SCRIPT, 1000)
    before = parsed(chain, first)
    second = chain.replace(first)
    after = parsed(chain, second)
    assert (after.spends, after.outputs[0]) == (before.spends, before.outputs[0])
    assert after.outputs[1].script == before.outputs[1].script
    assert chain.fee_sat(second) == 2 * FEE_SAT
    assert chain.transaction(first) is None
    assert chain.history(SHOP) == (HistoryEntry(second, None),)


def test_double_spend_leaves_nothing() -> None:
    """A replacement that pays another script takes the payment, and all that stood on it, out of the history."""
    chain = SimulatedChain()
    first = chain.pay(SCRIPT, 100_000)
    chain.pay(SCRIPT, 50_000, spend=[Outpoint(first, 0)])
    second = chain.replace(first, OTHER_SCRIPT, 70_000)
    assert chain.history(SHOP) == ()
    assert chain.mempool == (second,)
    assert parsed(chain, second).outputs[0] == TxOutput(amount_sat=70_000, script=OTHER_SCRIPT)


def test_replacement_of_a_replacement_is_new() -> None:
    """Every replacement has a txid of its own, also where there is no change that could pay a higher fee."""
    chain = SimulatedChain()
    parent = chain.pay(SCRIPT, 100_000)
    txid = chain.pay(OTHER_SCRIPT, 99_000, spend=[Outpoint(parent, 0)])
    seen = {txid}
    for _ in range(5):
        txid = chain.replace(txid)
        seen.add(txid)
    assert len(seen) == 6


def test_replacement_keeps_further_payments() -> None:
    """A replacement alters the first payment alone."""
    chain = SimulatedChain()
    txid = chain.replace(chain.pay_many([(SCRIPT, 1000), (OTHER_SCRIPT, 2000)]), amount_sat=900)
    assert [o.amount_sat for o in parsed(chain, txid).outputs[:2]] == [900, 2000]


@pytest.mark.parametrize("act", ["replace", "evict"])
def test_only_the_unconfirmed_can_go(act: str) -> None:
    """A confirmed transaction can neither be replaced nor evicted."""
    chain = SimulatedChain()
    txid = chain.pay(SCRIPT, 1000)
    chain.mine()
    with pytest.raises(ValueError, match="not in the mempool"):
        getattr(chain, act)(txid)


def test_eviction_takes_descendants() -> None:
    """An evicted transaction is forgotten with all that spends from it."""
    chain = SimulatedChain()
    parent = chain.pay(SCRIPT, 100_000)
    child = chain.pay(OTHER_SCRIPT, 50_000, spend=[Outpoint(parent, 0)])
    other = chain.pay(OTHER_SCRIPT, 7)
    assert chain.evict(parent) == [parent, child]
    assert (chain.mempool, chain.transaction(child), chain.history(SHOP)) == ((other,), None, ())


def test_long_families_are_no_problem() -> None:
    """A chain of payments longer than Python's stack is mined in order, and returned by a reorg."""
    chain = SimulatedChain()
    txids = [chain.pay(SCRIPT, 100_000_000)]
    for _ in range(1500):
        amount_sat = parsed(chain, txids[-1]).outputs[0].amount_sat - FEE_SAT
        txids.append(chain.pay(SCRIPT, amount_sat, spend=[Outpoint(txids[-1], 0)]))
    assert chain.mine()[0].txids[1:] == tuple(txids)
    chain.reorg(1)
    assert len(chain.evict(txids[0])) == len(txids)


def test_reorg_returns_payments_to_the_mempool() -> None:
    """After a reorg the chain is one block longer, and what was confirmed is not."""
    chain = SimulatedChain()
    chain.mine(3)
    txid = chain.pay(SCRIPT, 1000)
    chain.mine(2)
    lost = chain.block_at(5)
    waiting = chain.pay(OTHER_SCRIPT, 7)
    blocks = chain.reorg(2)
    assert [block.height for block in blocks] == [4, 5, 6]
    assert chain.history(SHOP) == (HistoryEntry(txid, None),)
    assert chain.mempool == (txid, waiting)
    assert chain.block_at(5) != lost
    assert chain.transaction(lost.txids[0]) is None


def test_header_chain_follows_a_reorg() -> None:
    """Our header chain takes the new branch over, and says which headers it lost."""
    chain = SimulatedChain()
    chain.mine(5)
    ours = chain_of_headers()
    first = ours.extended_by(1, chain.headers_from(1, 5))
    assert first is not None
    ours.apply(first)
    chain.reorg(2)
    second = ours.extended_by(4, chain.headers_from(4, 3))
    assert second is not None
    assert (second.fork_height, second.depth_blocks, second.tip_height) == (3, 2, 6)


def test_reorg_can_drop_payments() -> None:
    """A dropped transaction vanishes with its descendants; the others stay."""
    chain = SimulatedChain()
    parent = chain.pay(SCRIPT, 100_000)
    child = chain.pay(SCRIPT, 50_000, spend=[Outpoint(parent, 0)])
    other = chain.pay(SCRIPT, 7)
    chain.mine()
    chain.reorg(1, drop=[parent])
    assert chain.history(SHOP) == (HistoryEntry(other, None),)
    assert (chain.transaction(parent), chain.transaction(child)) == (None, None)


def test_reorg_drops_what_spends_a_lost_coinbase() -> None:
    """A payment from the coinbase of a lost block vanishes with it, even if it is still unconfirmed."""
    chain = SimulatedChain()
    (block,) = chain.mine()
    chain.pay(SCRIPT, 1000, spend=[Outpoint(block.txids[0], 0)])
    chain.reorg(1)
    assert (chain.history(SHOP), chain.mempool) == ((), ())


def test_reorg_can_mine_again() -> None:
    """With ``remine`` the lost payments stand in the first new block, and what was unconfirmed stays so."""
    chain = SimulatedChain()
    txid = chain.pay(SCRIPT, 1000)
    chain.mine(2)
    waiting = chain.pay(SCRIPT, 7)
    chain.reorg(2, remine=True)
    assert chain.history(SHOP) == (HistoryEntry(txid, 1), HistoryEntry(waiting, None))


def test_reorg_to_a_shorter_chain() -> None:
    """A reorg mines as many blocks as it is told to, even none."""
    chain = SimulatedChain()
    chain.mine(5)
    assert chain.reorg(2, blocks=0) == []
    assert chain.tip_height == 3


@pytest.mark.parametrize("depth", [-1, 0, 4])
def test_reorg_keeps_genesis(depth: int) -> None:
    """A reorg cannot undo genesis, nor nothing."""
    chain = SimulatedChain()
    chain.mine(3)
    with pytest.raises(ValueError, match="want 1 to 3"):
        chain.reorg(depth)


def broadcastable(*spends: Outpoint, sequence: int = forge.SEQUENCE_RBF) -> Transaction:
    """Return a transaction that somebody else made."""
    spends = spends or (Outpoint(Txid(sha256(b"elsewhere")), 0),)
    return forge.payment_of(spends, [TxOutput(amount_sat=900, script=SCRIPT)], sequence=sequence)


def test_broadcast_enters_the_mempool_once() -> None:
    """A broadcast transaction is in the mempool, and the same one again changes nothing."""
    chain = SimulatedChain()
    payment = broadcastable()
    assert chain.submit(payment.raw) == payment.txid
    version = chain.version
    assert chain.submit(payment.raw) == payment.txid
    assert (chain.version, chain.history(SHOP)) == (version, (HistoryEntry(payment.txid, None),))


def test_broadcast_replaces_what_may_be_replaced() -> None:
    """A broadcast in conflict with a replaceable transaction takes its place."""
    chain = SimulatedChain()
    first = chain.pay(OTHER_SCRIPT, 1000)
    second = chain.submit(broadcastable(*parsed(chain, first).spends).raw)
    assert chain.mempool == (second,)


@pytest.mark.parametrize("case", ["final", "confirmed", "known block", "coinbase"])
def test_broadcast_in_conflict_is_refused(case: str) -> None:
    """A broadcast that contradicts a block or a final transaction is refused, and changes nothing."""
    chain = SimulatedChain()
    first = chain.pay(OTHER_SCRIPT, 1000, rbf=case != "final")
    if case != "final":
        chain.mine()
    raws = {
        "final": broadcastable(*parsed(chain, first).spends).raw,
        "confirmed": broadcastable(*parsed(chain, first).spends).raw,
        "known block": chain.transaction(first) or b"",
        "coinbase": forge.coinbase_of(9, SCRIPT, extra=9).raw,
    }
    version = chain.version
    with pytest.raises(RequestError):
        chain.submit(raws[case])
    assert chain.version == version


def test_broadcast_of_noise_is_refused() -> None:
    """Bytes that are no transaction are refused."""
    with pytest.raises(TransactionError):
        SimulatedChain().submit(b"noise")
