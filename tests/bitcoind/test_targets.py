"""What is searched for: scripts and outpoints, from the wish until they concern nobody any more."""

import pytest

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput, packed_outpoint, parse_transaction
from lightipn.bitcoind import targets as targets_module
from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.mempool import MempoolView
from lightipn.bitcoind.targets import CONTESTED_BLOCKS, Targets
from lightipn.store.node_scripts import NodeScript
from tests.builders import OTHER_SCRIPT, SCRIPT, raw_transaction, txid_of

OWNER, OTHER = scripthash_of(SCRIPT), scripthash_of(OTHER_SCRIPT)
FOREIGN = b"\x51"
COIN, COIN_2 = Outpoint(txid_of(90), 3), Outpoint(txid_of(91), 0)
KEY, KEY_2 = (packed_outpoint(coin.txid, coin.index) for coin in (COIN, COIN_2))


def targets_of(*scripts: bytes, is_past_known: bool = True) -> tuple[Targets, WatchBook]:
    """Return what is searched for when these scripts are watched."""
    book = WatchBook()
    targets = Targets(book)
    for script in scripts:
        book.watch(scripthash_of(script), None)
    targets.take_up(
        [NodeScript(scripthash=scripthash_of(each), script=each, is_past_known=is_past_known) for each in scripts]
    )
    return targets, book


def transaction(*scripts: bytes, spends: Outpoint = COIN) -> Transaction:
    """Return a transaction that pays these scripts."""
    return parse_transaction(raw_transaction([spends], [(500, script) for script in scripts]))


def test_payment_to_whoever_is_watched_is_found() -> None:
    """Outputs are told by their scripts; who is not watched is not found."""
    targets, _ = targets_of(SCRIPT)
    payment = transaction(OTHER_SCRIPT, SCRIPT)
    found = targets.match(payment)
    assert found is not None
    assert (found.outputs, found.spends) == ({packed_outpoint(payment.txid, 1): OWNER}, {})
    assert targets.match(transaction(OTHER_SCRIPT)) is None


def test_whoever_was_let_go_of_is_left_out_at_once() -> None:
    """From the moment on at which nobody watches a script nothing of it is found, though it is searched for still."""
    targets, book = targets_of(SCRIPT, OTHER_SCRIPT)
    targets.add_own({KEY: OWNER})
    book.unwatch(OWNER)
    found = targets.match(transaction(SCRIPT, OTHER_SCRIPT))
    assert found is not None
    assert (list(found.outputs.values()), found.spends) == ([OTHER], {})
    targets.let_go([OWNER])
    assert KEY not in targets


def test_scripts_that_were_let_go_of_are_swept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop that takes a new address for each order does not make the search longer for ever."""
    monkeypatch.setattr(targets_module, "SWEPT_FROM", 4)
    monkeypatch.setattr(targets_module, "SWEPT_AT_ONCE", 2)
    targets, book = targets_of(SCRIPT, OTHER_SCRIPT)
    scripts = [b"\x6a" + bytes([number]) for number in range(40)]
    for script in scripts:
        scripthash = scripthash_of(script)
        book.watch(scripthash, None)
        targets.take_up([NodeScript(scripthash=scripthash, script=script, is_past_known=False)])
        book.unwatch(scripthash)
        targets.let_go([scripthash])
        for _ in targets.sweep_out():
            pass
    for script in scripts:  # watched again, but not taken up: found only where it was searched for all the time
        book.watch(scripthash_of(script), None)
    assert sum(targets.match(transaction(script)) is not None for script in scripts) <= 2
    assert targets.match(transaction(SCRIPT)) is not None
    assert targets.past_pending == set()


def test_own_output_is_never_contested() -> None:
    """An output of ours that an unconfirmed payment spends, too, is searched for as long as it is ours."""
    targets, _ = targets_of(SCRIPT)
    targets.add_own({KEY: OWNER})
    targets.add_contested(KEY, OWNER, height=1)
    targets.add_contested(KEY_2, OTHER, height=1)
    targets.add_own({KEY_2: OTHER})  # it turned out to be one of ours
    targets.tidy_up(MempoolView(), height=10 * CONTESTED_BLOCKS)
    assert (KEY in targets, KEY_2 in targets) == (True, True)


@pytest.mark.parametrize(("age_blocks", "is_kept"), [(CONTESTED_BLOCKS, True), (CONTESTED_BLOCKS + 1, False)])
def test_contested_outpoint_is_let_go_of_after_a_while(age_blocks: int, *, is_kept: bool) -> None:
    """What a payment spent is searched for while a rival may come; whoever owns it need not be watched."""
    targets, _ = targets_of(SCRIPT)
    height = 7 * CONTESTED_BLOCKS
    targets.add_contested(KEY, OTHER, height=height - age_blocks)
    rival = targets.match(transaction(FOREIGN))
    assert rival is not None
    assert (rival.spends, targets.is_about_rivals_alone(rival)) == ({KEY: OTHER}, True)
    targets.tidy_up(MempoolView(), height=height)
    assert (KEY in targets) is is_kept


def test_contested_outpoint_stays_while_a_payment_that_spends_it_waits() -> None:
    """However long a payment waits, its rival is found; and nothing is let go of between two tidyings."""
    targets, _ = targets_of(SCRIPT)
    mempool, payment, height = MempoolView(), transaction(SCRIPT), 7 * CONTESTED_BLOCKS
    targets.add_contested(KEY, OTHER, height=1)
    mempool.add(payment, targets.match(payment))
    targets.tidy_up(mempool, height=height)
    assert KEY in targets
    mempool.remove(payment.txid)
    targets.tidy_up(mempool, height=height + 1)
    assert KEY in targets
    targets.tidy_up(mempool, height=height + CONTESTED_BLOCKS)
    assert KEY not in targets


def test_output_of_a_payment_that_is_gone_is_let_go_of() -> None:
    """An output that waits is searched for while its payment does; one that reached a block is ours."""
    targets, _ = targets_of(SCRIPT)
    assert targets.add_waiting({KEY: OWNER, KEY_2: OWNER}) == [KEY, KEY_2]
    assert targets.add_waiting({KEY: OWNER}) == []
    targets.add_own({KEY_2: OWNER})
    targets.tidy_up(MempoolView(), height=CONTESTED_BLOCKS)
    assert (KEY in targets, KEY_2 in targets) == (False, True)


def test_stray_is_an_unknown_output_of_a_script_whose_past_is_pending() -> None:
    """What a payment spends is no stray when it is known already, or when the past of its script is known."""
    targets, _ = targets_of(SCRIPT, is_past_known=False)
    prevouts = {
        COIN: TxOutput(amount_sat=700, script=SCRIPT),
        COIN_2: TxOutput(amount_sat=800, script=OTHER_SCRIPT),
    }
    assert targets.strays_in(prevouts) == {KEY: (OWNER, 700)}
    targets.add_strays({KEY: (OWNER, 700)})
    assert targets.strays_in(prevouts) == {}
    known, _ = targets_of(SCRIPT)
    assert known.strays_in(prevouts) == {}
