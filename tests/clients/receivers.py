"""Receivers of callbacks that do what those of real shops do; each is a policy of ``tests.regtest.shop``."""

import json
from dataclasses import dataclass, field

import httpx
from cryptography.exceptions import InvalidSignature

from tests.dialects.blockcypher.verifier import check_body
from tests.regtest.shop import ShopAnswer, ShopRequest

ENOUGH_CONFIRMATIONS = 4
CREDITED_AT = 2


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


@dataclass(slots=True, kw_only=True)
class WalletReceiver:
    """What a wallet service does with BlockCypher's webhooks: it locks at one confirmation, and credits at two.

    It reads five fields at the top level, and books a transaction once however often it is told. What an address sends
    has a negative value, and is none of its business.

    Args:
        public_key: PEM of the key that webhooks are signed with.
        statuses: of deposits, by txid.
        locks: satoshis by txid.
        reservations: type, status and satoshis, oldest first.
    """

    public_key: str
    balance_sat: int = 0
    statuses: dict[str, str] = field(default_factory=dict)
    locks: dict[str, int] = field(default_factory=dict)
    reservations: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def locked_sat(self) -> int:
        """What is locked."""
        return sum(self.locks.values())

    def __call__(self, request: ShopRequest) -> ShopAnswer:
        """Answer a webhook."""
        if "x-blockcypher-signature" not in request.headers:
            return ShopAnswer(status=400, body=b"No signature provided")
        try:
            check_body(self.public_key, httpx.Headers(request.headers), request.body)
        except InvalidSignature:
            return ShopAnswer(status=401)
        said = json.loads(request.body)
        if said["value"] > 0:
            self.book(said["event"], said["hash"], said["value"], said["confirmations"])
        return ShopAnswer(body=json.dumps({"status": "success", "event": said["event"]}).encode())

    def book(self, event: str, txid: str, value_sat: int, confirmations: int) -> None:
        """Book what is told of a deposit."""
        status = self.statuses.setdefault(txid, "AWAITING_CONFIRMATION")
        if status != "AWAITING_CONFIRMATION":
            return
        if event == "confirmed-tx" and txid not in self.locks:
            self.locks[txid] = value_sat
            self.reservations.append(("RESERVE", "active", value_sat))
        elif event == "tx-confirmation" and confirmations >= CREDITED_AT:
            self.statuses[txid] = "COMPLETED"
            self.locks.pop(txid, None)
            self.balance_sat += value_sat
            self.reservations.append(("RELEASE", "completed", value_sat))
        elif event == "double-spend-tx":
            self.statuses[txid] = "FAILED"
            self.locks.pop(txid, None)
            self.reservations.append(("RESERVE", "failed", value_sat))
