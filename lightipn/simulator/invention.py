"""Payments that nobody made: what a lying server claims, and the bytes that go with it."""

from dataclasses import dataclass

from lightipn.bitcoin.hashes import Txid, sha256d
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput
from lightipn.simulator import forge


@dataclass(frozen=True, slots=True, kw_only=True)
class InventedPayment:
    """A payment that is in no mempool and in no block. Equal ones are one and the same.

    Args:
        script: output script that is said to be paid.
        height: of the block it is said to be in, from 1; None says that it is unconfirmed. The branch that should
            prove it is well-formed and folds to another root than the header's.
        spend: its input, such as an output of a real transaction, which may be worth less than ``amount_sat`` or be
            spent already; by default an output that does not exist.

    Raises:
        ValueError: the height is below 1.
    """

    script: bytes
    amount_sat: int
    height: int | None = None
    spend: Outpoint | None = None

    def __post_init__(self) -> None:
        if self.height is not None and self.height < 1:
            raise ValueError(f"height is {self.height}, want at least 1")

    @property
    def transaction(self) -> Transaction:
        """The transaction; its bytes hash to its txid, and only its signature is made up."""
        label = f"nowhere {self.script.hex()} {self.amount_sat} {self.height}"
        spend = self.spend or Outpoint(Txid(sha256d(label.encode())), 0)
        return forge.payment_of([spend], [TxOutput(amount_sat=self.amount_sat, script=self.script)])

    @property
    def txid(self) -> Txid:
        """The transaction's id."""
        return self.transaction.txid
