"""The bytes that the simulator makes."""

import pytest
from embit.transaction import Transaction as EmbitTransaction

from lightipn.bitcoin.hashes import Txid, hex_of, sha256
from lightipn.bitcoin.header import check_proof_of_work, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, TxOutput, parse_transaction
from lightipn.simulator import forge

SPENDS = [Outpoint(Txid(sha256(b"one")), 0), Outpoint(Txid(sha256(b"two")), 7)]


@pytest.mark.parametrize("segwit", [True, False])
@pytest.mark.parametrize("count", [1, 252, 253, 300])
def test_payment_is_read_alike_by_another_parser(segwit: bool, count: int) -> None:
    """A forged payment means the same to embit as to our own parser, however long its list of outputs."""
    outputs = [TxOutput(amount_sat=1000 + n, script=forge.made_up_script(str(n))) for n in range(count)]
    payment = forge.payment_of(SPENDS, outputs, segwit=segwit)
    other = EmbitTransaction.parse(payment.raw)
    assert other.txid().hex() == hex_of(payment.txid)
    assert [(out.value, out.script_pubkey.data) for out in other.vout] == [(o.amount_sat, o.script) for o in outputs]
    assert [(vin.txid.hex(), vin.vout) for vin in other.vin] == [(hex_of(s.txid), s.index) for s in SPENDS]
    assert other.is_segwit == segwit


@pytest.mark.parametrize(("sequence", "signals"), [(forge.SEQUENCE_RBF, True), (forge.SEQUENCE_FINAL, False)])
def test_sequence_decides_about_replaceability(sequence: int, signals: bool) -> None:
    """A forged payment signals replaceability exactly when its sequence does."""
    outputs = [TxOutput(amount_sat=1, script=forge.made_up_script("a"))]
    assert forge.payment_of(SPENDS, outputs, sequence=sequence).signals_rbf is signals


@pytest.mark.parametrize(
    ("height", "start"),
    [(1, "51"), (16, "60"), (17, "0111"), (127, "017f"), (128, "028000"), (300, "022c01"), (32768, "03008000")],
)
def test_coinbase_starts_with_its_height(height: int, start: str) -> None:
    """A coinbase's input script starts with the height as BIP-34 writes it."""
    coinbase = forge.coinbase_of(height, forge.made_up_script("miner"), extra=1)
    assert coinbase.is_coinbase
    script_at = 4 + 1 + 36 + 1
    assert coinbase.raw[script_at:].hex().startswith(start)


def test_coinbases_of_one_height_differ() -> None:
    """Two coinbases of the same height have different txids."""
    script = forge.made_up_script("miner")
    assert forge.coinbase_of(5, script, extra=1).txid != forge.coinbase_of(5, script, extra=2).txid


@pytest.mark.parametrize(("height", "amount_sat"), [(1, 50_0000_0000), (150, 25_0000_0000), (150 * 40, 0)])
def test_subsidy_halves(height: int, amount_sat: int) -> None:
    """A coinbase pays 50 BTC, half of it from block 150 on, and at last nothing."""
    assert forge.coinbase_of(height, b"\x51" * 22, extra=0).outputs[0].amount_sat == amount_sat


@pytest.mark.parametrize("root", [sha256(bytes([n])) for n in range(5)], ids=range(5))
def test_header_carries_its_work(root: bytes) -> None:
    """A mined header states the root it was given and meets regtest's target."""
    header = parse_header(forge.mined_header(REGTEST.genesis_hash, root, time=1_700_000_000))
    check_proof_of_work(header, REGTEST)
    assert (header.previous_hash, header.merkle_root, header.time) == (REGTEST.genesis_hash, root, 1_700_000_000)


@pytest.mark.parametrize("segwit", [True, False])
def test_other_amount_changes_the_txid(segwit: bool) -> None:
    """A raw transaction with a falsified amount still parses, pays twice as much, and has another txid."""
    payment = forge.payment_of(SPENDS, [TxOutput(amount_sat=700, script=forge.made_up_script("a"))], segwit=segwit)
    lie = parse_transaction(forge.with_other_amount(payment.raw))
    assert lie.outputs == (TxOutput(amount_sat=1400, script=forge.made_up_script("a")),)
    assert lie.txid != payment.txid
