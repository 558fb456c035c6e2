"""Signing: judged by an implementation of its own, and refused by the check where anything is wrong."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import MAINNET, REGTEST, Network
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput, details_of
from lightipn.forwarding.plan import vbytes_of
from lightipn.forwarding.seed import addresses_of
from lightipn.forwarding.signing import OwnCoin, SigningError, sign_transfer
from tests.builders import load_vectors, txid_of
from tests.forwarding.rig import OTHER_WORDS

pytestmark = pytest.mark.slow  # keys are derived and their code is loaded
WORDS = load_vectors("bip84")["mnemonic"]
P2WPKH = b"\x00\x14" + b"\x01" * 20
KINDS = {
    "p2pkh": b"\x76\xa9\x14" + b"\x02" * 20 + b"\x88\xac",
    "p2sh": b"\xa9\x14" + b"\x03" * 20 + b"\x87",
    "p2wpkh": P2WPKH,
    "p2wsh": b"\x00\x20" + b"\x04" * 32,
    "p2tr": b"\x51\x20" + b"\x05" * 32,
}


def coin(number: int, *, key: int = 0, amount_sat: int = 100_000, network: Network = REGTEST) -> OwnCoin:
    """Return a coin at one of our addresses."""
    return OwnCoin(
        outpoint=Outpoint(txid_of(number), number % 5),
        amount_sat=amount_sat,
        scripthash=addresses_of(WORDS, network).address_at(key).scripthash,
        address_index=key,
    )


def pays(amount_sat: int, script: bytes = P2WPKH) -> TxOutput:
    """Return an output."""
    return TxOutput(amount_sat=amount_sat, script=script)


def assert_valid(signed: Transaction, network: Network, coins: list[OwnCoin]) -> None:
    """Have embit judge every input: its own parser, its own signature hash, its own curve."""
    from embit import ec, script
    from embit.transaction import Transaction as EmbitTransaction

    read = EmbitTransaction.read_from(io.BytesIO(signed.raw))
    assert len(read.vin) == len(coins)
    supply = addresses_of(WORDS, network)
    for position, (txin, one) in enumerate(zip(read.vin, coins, strict=True)):
        signature, public = txin.witness.items
        key = ec.PublicKey.parse(public)
        assert script.p2wpkh(key).data == supply.address_at(one.address_index).script
        digest = read.sighash_segwit(position, script.p2pkh(key), one.amount_sat)
        assert signature[-1] == 1
        assert key.verify(ec.Signature.parse(signature[:-1]), digest)
        assert (txin.txid.hex(), txin.vout) == (hex_of(one.outpoint.txid), one.outpoint.index)
        assert txin.script_sig.data == b""
        assert txin.sequence == 0xFFFFFFFD
    assert (read.version, read.locktime) == (2, 0)


@pytest.mark.parametrize("network", [MAINNET, REGTEST], ids=lambda network: network.name)
@pytest.mark.parametrize(
    "keys", [[0], [0, 0, 0], [0, 1], [7, 0, 7, 2_147_483_647, 3, 0]], ids=["one", "one key", "two keys", "mixed"]
)
def test_every_signature_holds(network: Network, keys: list[int]) -> None:
    """Each input is signed by the key of its own address, over its own amount, in the order that was wanted."""
    coins = [coin(number, key=key, amount_sat=10_000 + number, network=network) for number, key in enumerate(keys)]
    outputs = [pays(5_000), pays(600, KINDS["p2pkh"])]
    signed = sign_transfer(WORDS, network, coins, outputs)
    assert signed.outputs == tuple(outputs)
    assert signed.signals_rbf
    assert_valid(signed, network, coins)


@pytest.mark.parametrize("script", KINDS.values(), ids=KINDS)
def test_every_kind_of_destination_is_paid(script: bytes) -> None:
    """Old and new kinds of addresses can be paid, taproot's too."""
    signed = sign_transfer(WORDS, REGTEST, [coin(1)], [pays(90_000, script)])
    assert signed.outputs == (pays(90_000, script),)
    assert_valid(signed, REGTEST, [coin(1)])


@pytest.mark.parametrize(("inputs", "keys"), [(1, 1), (2, 2), (17, 3), (200, 40)])
def test_size_is_never_above_the_estimate(inputs: int, keys: int) -> None:
    """The fee was reckoned for at least the real size, and for not more than a byte an input above it."""
    coins = [coin(number, key=number % keys) for number in range(inputs)]
    outputs = [pays(50_000), pays(1_000, KINDS["p2tr"])]
    signed = sign_transfer(WORDS, REGTEST, coins, outputs)
    assert_valid(signed, REGTEST, coins)
    estimate = vbytes_of(inputs, [output.script for output in outputs])
    assert 0 <= estimate - details_of(signed).vbytes <= inputs


def test_same_wish_gives_the_same_transaction() -> None:
    """Signatures are deterministic: what is signed again after a crash is the very same transaction."""
    wish = [coin(1), coin(2, key=4)], [pays(150_000)]
    assert sign_transfer(WORDS, REGTEST, *wish) == sign_transfer(WORDS, REGTEST, *wish)


def test_coins_of_other_words_are_refused() -> None:
    """Words that do not own a coin sign nothing: their signature would hold for themselves, and for nobody else."""
    with pytest.raises(SigningError, match="does not belong to these recovery words"):
        sign_transfer(OTHER_WORDS, REGTEST, [coin(1)], [pays(90_000)])
    with pytest.raises(SigningError, match="input 1 does not belong"):
        sign_transfer(WORDS, REGTEST, [coin(1), replace(coin(2), address_index=3)], [pays(90_000)])


def flip_signature(transaction: Any) -> None:
    """Change a bit of the first signature."""
    witness = bytearray(transaction.TxIn[0].witness)
    witness[20] ^= 1
    transaction.TxIn[0].witness = bytes(witness)


def leave_unsigned(transaction: Any) -> None:
    """Take the first signature away."""
    transaction.TxIn[0].witness = b"\x00"


def pay_more(transaction: Any) -> None:
    """Change an output."""
    transaction.TxOut[0].amount = (99_999).to_bytes(8, "little")


def spend_other(transaction: Any) -> None:
    """Change a coin."""
    transaction.TxIn[0].txindex = (9).to_bytes(4, "little")


def make_final(transaction: Any) -> None:
    """Make it irreplaceable."""
    for txin in transaction.TxIn:
        txin.sequence = b"\xff\xff\xff\xff"


def sign_other_hash(transaction: Any) -> None:
    """Claim that the signature covers less than all."""
    witness = bytearray(transaction.TxIn[0].witness)
    witness[1 + witness[1]] = 0x81
    transaction.TxIn[0].witness = bytes(witness)


@pytest.mark.parametrize("damage", [flip_signature, leave_unsigned, pay_more, spend_other, make_final, sign_other_hash])
def test_anything_wrong_is_refused(damage: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is not just what was wanted, or whose signature does not hold, is never returned."""
    import bit.transaction

    real = bit.transaction.sign_tx

    def broken(key: Any, transaction: Any, **named: Any) -> Any:
        value = real(key, transaction, **named)
        damage(transaction)
        return value

    monkeypatch.setattr(bit.transaction, "sign_tx", broken)
    with pytest.raises(SigningError) as caught:
        sign_transfer(WORDS, REGTEST, [coin(1), coin(2)], [pays(150_000)])
    assert "abandon" not in str(caught.value)


def test_wrong_amount_signs_something_else() -> None:
    """A signature covers the amount of its coin: for another amount it does not hold (BIP-143)."""
    signed = sign_transfer(WORDS, REGTEST, [coin(1)], [pays(90_000)])
    with pytest.raises(AssertionError):
        assert_valid(signed, REGTEST, [replace(coin(1), amount_sat=100_001)])
