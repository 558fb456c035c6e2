"""Building and signing a transfer's transaction: embit derives the keys, bit signs, and every signature is checked.

``bit`` and ``coincurve`` are imported here alone, when the first transfer is signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightipn.bitcoin.hashes import ScriptHash, hex_of, scripthash_of, sha256d
from lightipn.bitcoin.network import Network
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput, parse_transaction
from lightipn.forwarding.seed import secret_of

# Below 0xfffffffe: it may be replaced by a version that pays more (BIP-125).
SEQUENCE = 0xFFFFFFFD
_VERSION = (2).to_bytes(4, "little")
_SIGHASH_ALL = (1).to_bytes(4, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCoin:
    """A coin at one of our input addresses.

    Args:
        address_index: of its address below the seed's account key.
    """

    outpoint: Outpoint
    amount_sat: int
    scripthash: ScriptHash
    address_index: int


class SigningError(Exception):
    """A signature is wrong, or the words do not own the coins. Nothing was stored."""


def sign_transfer(words: str, network: Network, coins: Sequence[OwnCoin], outputs: Sequence[TxOutput]) -> Transaction:
    """Sign a transaction that spends all of these coins, and return it with every signature checked.

    Raises:
        SigningError: what was signed is not what was wanted.
    """
    from bit import PrivateKey, PrivateKeyTestnet
    from bit.network.meta import Unspent
    from bit.transaction import TxIn, TxObj, TxOut, sign_tx
    from coincurve import PrivateKey as Secret

    base: Any = PrivateKey if network.name == "mainnet" else PrivateKeyTestnet

    class ForwardKey(base):  # type: ignore[misc]  # bit ships no types
        """A key of ours, which signs what it is given: bit's own check knows only its first kind of address."""

        def can_sign_unspent(self, unspent: Any) -> bool:
            return True

    inputs = [
        TxIn(
            b"",
            coin.outpoint.txid,
            coin.outpoint.index.to_bytes(4, "little"),
            sequence=SEQUENCE.to_bytes(4, "little"),
            segwit_input=True,
        )
        for coin in coins
    ]
    paid = [TxOut(output.amount_sat.to_bytes(8, "little"), output.script) for output in outputs]
    unsigned = TxObj(_VERSION, inputs, paid, bytes(4))
    public_keys: dict[int, bytes] = {}
    for index in sorted({coin.address_index for coin in coins}):
        key = ForwardKey(Secret(secret_of(words, network, index)))  # not .from_bytes: that returns the base class
        public_keys[index] = bytes(key.public_key)
        own = [
            Unspent(coin.amount_sat, 1, "", hex_of(coin.outpoint.txid), coin.outpoint.index, type="p2wkh", segwit=True)
            for coin in coins
            if coin.address_index == index
        ]
        sign_tx(key, unsigned, unspents=own)
    for txin in inputs:  # native segwit: the script is empty
        txin.script_sig, txin.script_sig_len = b"", b"\x00"
    signed = parse_transaction(bytes(unsigned))
    _check(signed, coins, outputs, public_keys)
    return signed


def _check(
    signed: Transaction, coins: Sequence[OwnCoin], outputs: Sequence[TxOutput], public_keys: dict[int, bytes]
) -> None:
    """Check that a transaction spends and pays just what was wanted, and that each of its signatures holds."""
    from coincurve import PublicKey
    from embit.hashes import hash160

    if signed.spends != tuple(coin.outpoint for coin in coins) or signed.outputs != tuple(outputs):
        raise SigningError("the signed transaction spends or pays something else")
    if not signed.signals_rbf:
        raise SigningError("the signed transaction could not be replaced")
    for position, (coin, witness) in enumerate(zip(coins, _witnesses_of(signed), strict=True)):
        public_key = public_keys[coin.address_index]
        if scripthash_of(b"\x00\x14" + hash160(public_key)) != coin.scripthash:
            raise SigningError(f"the coin of input {position} does not belong to these recovery words")
        match witness:
            case [signature, found] if found == public_key and signature[-1:] == b"\x01":
                message = preimage_of(signed, position, public_key=public_key, amount_sat=coin.amount_sat)
                if not PublicKey(public_key).verify(signature[:-1], sha256d(message), hasher=None):
                    raise SigningError(f"the signature of input {position} does not hold")
            case _:
                raise SigningError(f"input {position} is not signed as it must be")


def _witnesses_of(signed: Transaction) -> list[list[bytes]]:
    """Read the witnesses of our own transaction: all of them short."""
    raw = signed.raw
    at = 4 + 2 + 1 if len(signed.spends) < 0xFD else 4 + 2 + 3
    at += 41 * len(signed.spends)
    at += 1 if len(signed.outputs) < 0xFD else 3
    at += sum(8 + 1 + len(output.script) for output in signed.outputs)
    witnesses = []
    for _ in signed.spends:
        count, at = raw[at], at + 1
        items = []
        for _ in range(count):
            length = raw[at]
            items.append(raw[at + 1 : at + 1 + length])
            at += 1 + length
        witnesses.append(items)
    return witnesses


def preimage_of(signed: Transaction, position: int, *, public_key: bytes, amount_sat: int) -> bytes:
    """Return what the signature of one P2WPKH input of ours signs.

    Source:
        BIP-143.
    """
    from embit.hashes import hash160

    key_hash = hash160(public_key)
    outpoints = [one.txid + one.index.to_bytes(4, "little") for one in signed.spends]
    sequence = SEQUENCE.to_bytes(4, "little")
    paid = b"".join(
        output.amount_sat.to_bytes(8, "little") + bytes([len(output.script)]) + output.script
        for output in signed.outputs
    )
    return b"".join(
        (
            _VERSION,
            sha256d(b"".join(outpoints)),
            sha256d(sequence * len(outpoints)),
            outpoints[position],
            b"\x19\x76\xa9\x14" + key_hash + b"\x88\xac",
            amount_sat.to_bytes(8, "little"),
            sequence,
            sha256d(paid),
            bytes(4),
            _SIGHASH_ALL,
        )
    )
