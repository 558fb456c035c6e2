"""Receivers of callbacks that do what those of real shops do; each is a policy of ``tests.regtest.shop``."""

from dataclasses import dataclass, field

from tests.regtest.shop import ShopAnswer, ShopRequest

ENOUGH_CONFIRMATIONS = 4


@dataclass(slots=True, kw_only=True)
class PhpReceiver:
    """What the PHP example of Receive Payments V2 does, with its document's advice on depth.

    A secret in the URL is checked; what is too young is noted as pending and answered with something else than
    ``*ok*``; from four confirmations on it is noted as paid, under its invoice and transaction, and answered ``*ok*``.

    Args:
        pending: satoshis by invoice and txid.
        paid: the same of what is deep enough.
    """

    secret: str
    pending: dict[tuple[str, str], int] = field(default_factory=dict)
    paid: dict[tuple[str, str], int] = field(default_factory=dict)

    def __call__(self, request: ShopRequest) -> ShopAnswer:
        """Answer a call."""
        asked = request.query
        if asked.get("secret") != self.secret:
            return ShopAnswer(body=b"invalid secret")
        payment = asked["invoice_id"], asked["transaction_hash"]
        if int(asked["confirmations"]) < ENOUGH_CONFIRMATIONS:
            self.pending[payment] = int(asked["value"])
            return ShopAnswer(body=b"Insufficient confirmations")
        self.pending.pop(payment, None)
        self.paid[payment] = int(asked["value"])
        return ShopAnswer(body=b"*ok*\n")  # a line that ends the file after PHP's closing mark is sent too
