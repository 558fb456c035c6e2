"""A transaction with what it spends, as far as that is known."""

from dataclasses import dataclass

from lightipn.bitcoin.transaction import Transaction, TxOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTransaction:
    """A transaction, and the outputs that it spends.

    Args:
        spent: one for each input, in order; None where it is not known. Those that are come out of transactions that
            hash to the txids that are spent, never from a server's word.
    """

    transaction: Transaction
    spent: tuple[TxOutput | None, ...]

    @property
    def fee_sat(self) -> int | None:
        """What is left for the miner; None where an input is not known, or there is none."""
        amounts = [output.amount_sat for output in self.spent if output is not None]
        if self.transaction.is_coinbase or len(amounts) < len(self.transaction.spends):
            return None
        return sum(amounts) - sum(output.amount_sat for output in self.transaction.outputs)
