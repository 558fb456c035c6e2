"""A deposit's whole way on a real chain: seen, locked, credited and forwarded, or failed; its account at each step."""

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.clients.receivers import WalletReceiver
from tests.dialects.blockcypher.keys import private_pem, public_pem
from tests.regtest.calls import JSON, answer_of, curl
from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S, service_options, wait_event
from tests.regtest.forwarding import Keeper, bind, forwarding_options, make_forward
from tests.regtest.nodes import Bitcoind
from tests.regtest.own_node import Source
from tests.regtest.rivals import FEE_SAT, Coin, make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Shop, silent_ok
from tests.regtest.webhooks import sat_of, signing_key
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
ACCOUNT = "/api/v1/accounts/alice"
ADDRESS_PATHS = ("/btc/callbacks/address-webhook", "/api/v1/wallet/btc/callbacks/address-webhook")
FORWARD_PATH = "/btc/callbacks/forward-webhook"
PAID, SPENT_TWICE, LOST_AFTER_A_BLOCK = 250_000, 120_000, 80_000
AWAITING = "AWAITING_CONFIRMATION"
Step = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An account at one moment; amounts in satoshis.

    Args:
        deposits: amount, status, locked, credited; the largest first.
        reservations: type, status, amount, change of the balance, change of what is locked, cause; oldest first.
    """

    balance_sat: int = 0
    locked_sat: int = 0
    deposits: tuple[tuple[int, str, int, int], ...] = ()
    reservations: tuple[tuple[str, str, int, int, int, str], ...] = ()

    def text(self) -> str:
        """Print it for people."""
        lines = [f"  balance {self.balance_sat:>9}   locked {self.locked_sat:>9}"]
        lines += [
            f"  deposit {row[0]:>9}   {row[1]:<21} locked {row[2]:>9}, credited {row[3]:>9}" for row in self.deposits
        ]
        lines += [
            f"  {row[0]:<7} {row[2]:>9}   {row[1]:<10} balance {row[3]:>+9}, locked {row[4]:>+9}   {row[5]}"
            for row in self.reservations
        ]
        return "\n".join(lines)


async def table_of(service: ServiceProcess) -> Table:
    """Return the account as the API shows it."""
    account = await answer_of(service, "GET", ACCOUNT)
    deposits = (await answer_of(service, "GET", f"{ACCOUNT}/transactions"))["transactions"]
    movements = (await answer_of(service, "GET", f"{ACCOUNT}/reservations"))["reservations"]
    names = ("type", "status", "amount_sat", "balance_change_sat", "locked_change_sat", "cause")
    return Table(
        balance_sat=account["balance_sat"],
        locked_sat=account["locked_sat"],
        deposits=tuple(
            sorted(
                ((one["amount_sat"], one["status"], one["locked_sat"], one["credited_sat"]) for one in deposits),
                reverse=True,
            )
        ),
        reservations=tuple(tuple(one[name] for name in names) for one in reversed(movements)),
    )


async def wait_step(
    service: ServiceProcess, wallet: WalletReceiver, step: str, expected: Table, *, is_heard: bool = True
) -> None:
    """Wait until the account is as expected, and the wallet behind the webhooks has come to the same; print it.

    Args:
        is_heard: False where webhooks do not tell it, so that the wallet is still as it was.

    Raises:
        TimeoutError: one of them did not come to it before the deadline.
    """
    # The wallet hears nothing of a payment that merely left its block: it has no word for a lock that ends so.
    booked = [row[:3] for row in expected.reservations if row[0] != "CANCEL"]
    wanted = (expected.balance_sat, expected.locked_sat, sorted(row[1] for row in expected.deposits), booked)
    found, told = Table(), wanted
    with trio.move_on_after(WAIT_S):
        while True:
            found = await table_of(service)
            told = (wallet.balance_sat, wallet.locked_sat, sorted(wallet.statuses.values()), wallet.reservations)
            if found == expected and (told == wanted or not is_heard):
                print(f"\n{step}\n{found.text()}")
                return
            await trio.sleep(LOOK_AGAIN_S)
    raise TimeoutError(f"{step}: expected\n{expected.text()}\nfound\n{found.text()}\nthe wallet has {told}")


# --- webhooks of the real BlockCypher ----------------------------------------------------------------------------


def signed(message: bytes, *, key: int = 1) -> str:
    """Sign as BlockCypher would, had it this key."""
    private = serialization.load_pem_private_key(private_pem(key).encode(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return base64.b64encode(private.sign(message, ec.ECDSA(hashes.SHA256()))).decode()


def body_header(body: bytes, *, key: int = 1) -> dict[str, str]:
    """Return the header that signs a body alone."""
    value = f'keyId="blockcypher",algorithm="sha256-ecdsa",signature="{signed(body, key=key)}"'
    return {"X-BlockCypher-Signature": value}


def request_headers(path: str, body: bytes) -> dict[str, str]:
    """Return the headers that sign a request."""
    digest = "SHA-256=" + base64.b64encode(hashlib.sha256(body).digest()).decode()
    date = formatdate(usegmt=True)
    signature = signed(f"(request-target): post {path}\ndigest: {digest}\ndate: {date}".encode())
    names = "(request-target) digest date"
    value = f'keyId="blockcypher",algorithm="sha256-ecdsa",headers="{names}",signature="{signature}"'
    return {"Digest": digest, "Date": date, "Signature": value}


async def lie(service: ServiceProcess, address: str, txid: str) -> None:
    """Say at all three routes, well signed, what is not so: credits, double spends, and a forward."""
    for event, confirmations in (("confirmed-tx", 1), ("tx-confirmation", 2), ("double-spend-tx", 0)):
        said = {"event": event, "hash": txid, "address": address, "value": 9_000_000, "confirmations": confirmations}
        body = json.dumps(said | {"addresses": [address], "block_height": 7, "double_spend_tx": "00" * 32}).encode()
        for path in ADDRESS_PATHS:
            answer = await curl(service, "POST", path, headers=body_header(body), data=body.decode())
            assert (answer.status_code, answer.json()) == (200, {"status": "success", "event": event})
    said = {"id": "1", "input_address": address, "destination_address": address, "value": 9_000_000}
    body = json.dumps(said).encode()
    answer = await curl(
        service,
        "POST",
        FORWARD_PATH,
        headers=request_headers(FORWARD_PATH, body) | {"X-EventType": "tx-forward"},
        data=body.decode(),
    )
    assert (answer.status_code, answer.json()) == (200, {"status": "success", "event": "tx-forward"})


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with the key that webhooks of the "real BlockCypher" are signed with."""
    file = tmp_path / "webhooks.pem"
    file.write_text(public_pem())
    return file


async def test_webhooks_that_are_not_signed_by_the_configured_key_are_refused(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, key_file: Path
) -> None:
    """Each of the three routes refuses a webhook without a signature, with a malformed one, and of another key."""
    options = service_options(source, dialects_blockcypher_public_key_file=key_file)
    async with open_service(tmp_path / "lightipn", options) as service:
        body = json.dumps({"event": "confirmed-tx", "address": await bitcoind.new_address()}).encode()
        for path in (*ADDRESS_PATHS, FORWARD_PATH):
            send = partial(curl, service, "POST", path)
            missing = await send(data=body.decode())
            malformed = await send(data=body.decode(), headers={"X-BlockCypher-Signature": "signed"})
            of_another = await send(data=body.decode(), headers=body_header(body, key=2))
            changed = await send(data=body.decode() + " ", headers=body_header(body))
            elsewhere = await send(data=body.decode(), headers=request_headers("/elsewhere", body))
            answers = (missing, malformed, of_another, changed, elsewhere)
            assert [answer.status_code for answer in answers] == [400, 400, 401, 401, 401]
            assert missing.json() == {"error": "No signature provided"}
        assert await service.stop() == 0


# --- the flow ----------------------------------------------------------------------------------------------------


async def test_deposit_is_seen_locked_credited_and_forwarded_and_a_double_spend_fails(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop, key_file: Path
) -> None:
    """The account is right at each step, and a wallet that follows the webhooks alone comes to the same sums.

    At each step all that webhooks may claim is claimed, well signed, and none of it moves anything: what moves an
    account is on the chain. Coins lost before a block fail, and so do coins whose block was lost.
    """
    bitcoind = private_bitcoind
    master = await bitcoind.new_address()
    options = forwarding_options(
        tmp_path / "lightipn",
        private_source,
        forwarding_confirmations=2,  # credited first, then passed on
        dialects_blockcypher_public_key_file=key_file,
    )
    await bind(ServiceProcess(tmp_path / "lightipn", options))
    async with open_service(tmp_path / "lightipn", options | {"BTC_MASTER_ADDRESS": master}) as service:
        wallet = WalletReceiver(public_key=await signing_key(service))
        shop.policy = lambda request: wallet(request) if request.path in ADDRESS_PATHS else silent_ok(request)
        step = partial(wait_step, service, wallet)
        made = await make_forward(service, "", callback_url=f"{shop.url}{FORWARD_PATH}")
        address = made["input_address"]
        assert made["destination"] == master
        await make_account(service, address, f"{shop.url}{ADDRESS_PATHS[0]}")
        coins = await make_coins(bitcoind, [SPENT_TWICE + FEE_SAT, LOST_AFTER_A_BLOCK + FEE_SAT])
        keeper = Keeper(bitcoind, await bitcoind.height() + 1)
        await step("nothing was paid", Table())

        paid = await keeper.pay(address, PAID)
        await lie(service, address, paid)
        waiting = (PAID, AWAITING, 0, 0)
        await step("1. an unconfirmed transaction", Table(deposits=(waiting,)))

        await bitcoind.mine(1)
        await lie(service, address, paid)
        locked = (PAID, AWAITING, PAID, 0)
        reserve = ("RESERVE", "active", PAID, 0, PAID, "payment.confirmed")
        await step("2. its first confirmation", Table(locked_sat=PAID, deposits=(locked,), reservations=(reserve,)))

        await bitcoind.mine(1)
        await lie(service, address, paid)
        credited = (PAID, "COMPLETED", 0, PAID)
        release = ("RELEASE", "completed", PAID, PAID, -PAID, "payment.deepened")
        credit = Table(balance_sat=PAID, deposits=(credited,), reservations=(reserve, release))
        await step("3. its second confirmation", credit)

        await keeper.wait_spent()
        await bitcoind.mine(1)
        [passed_on] = await keeper.spends()
        await check_forwarded(bitcoind, shop, passed_on.txid, paid, address, master)
        await step("4. forwarded to the master address", credit)

        await fail_unconfirmed(bitcoind, service, address, coins[0], step, credit)
        failed = replace(
            credit,
            deposits=(credited, (SPENT_TWICE, "FAILED", 0, 0)),
            reservations=(*credit.reservations, ("RESERVE", "failed", SPENT_TWICE, 0, 0, "payment.replaced")),
        )
        await step("6. its coin taken elsewhere", failed)
        last = await fail_confirmed(bitcoind, service, address, coins[1], step, failed)

        await lie(service, address, paid)
        [tip] = await bitcoind.mine(1)
        await wait_event(service, kind="block.connected", block_hash=tip)
        await step("10. a block later", last)
        audit = service.cli("account", "audit")
        assert (audit.returncode, "1 accounts, 0 with flaws" in audit.stdout) == (0, True)
        assert await service.stop() == 0
    assert passed_on.outputs == {master: PAID - passed_on.fee_sat}
    assert len(await keeper.spends()) == 1


async def make_account(service: ServiceProcess, address: str, url: str) -> None:
    """Make the account, whose one address is this, with webhooks to a URL."""
    fields = {"name": "alice", "callback_url": url}
    await answer_of(service, "POST", "/api/v1/accounts", status=201, headers=JSON, data=json.dumps(fields))
    path = f"{ACCOUNT}/addresses"
    added = await answer_of(service, "POST", path, status=201, headers=JSON, data=json.dumps({"address": address}))
    hooks = await answer_of(service, "GET", "/v1/btc/regtest/hooks")
    assert sorted(added["webhook_ids"]) == sorted(hook["id"] for hook in hooks)
    assert {hook["event"] for hook in hooks} == {"unconfirmed-tx", "confirmed-tx", "tx-confirmation", "double-spend-tx"}


async def check_forwarded(bitcoind: Bitcoind, shop: Shop, txid: str, paid: str, source: str, master: str) -> None:
    """Check that the master address was paid, by bitcoind's word, and that the forward's callback says the same."""
    request = await shop.wait_for(lambda request: request.path == FORWARD_PATH, WAIT_S)
    received_sat = sat_of(await bitcoind.rpc("getreceivedbyaddress", master, 1, wallet="receiver"))
    assert json.loads(request.body) == {
        "value": received_sat,
        "input_address": source,
        "destination": master,
        "input_transaction_hash": paid,
        "transaction_hash": txid,
    }
    assert PAID * 0.9 <= received_sat < PAID


async def fail_unconfirmed(
    bitcoind: Bitcoind, service: ServiceProcess, address: str, coin: Coin, step: Step, before: Table
) -> None:
    """Pay, and take the coin elsewhere before a block holds the payment."""
    payment = await sign_payment(bitcoind, coin, address)
    await publish(payment, bitcoind)
    waiting = (SPENT_TWICE, AWAITING, 0, 0)
    await step("5. a second payment", replace(before, deposits=(*before.deposits, waiting)))
    await publish(await sign_rival(bitcoind, coin), bitcoind)
    await lie(service, address, payment.txid)


async def fail_confirmed(
    bitcoind: Bitcoind, service: ServiceProcess, address: str, coin: Coin, step: Step, before: Table
) -> Table:
    """Pay, have the payment's block lost, take the coin elsewhere, and return the account after it."""
    amount_sat = LOST_AFTER_A_BLOCK
    payment = await sign_payment(bitcoind, coin, address)
    await publish(payment, bitcoind)
    await bitcoind.mine(1)
    reserve = ("RESERVE", "active", amount_sat, 0, amount_sat, "payment.confirmed")
    locked = replace(
        before,
        locked_sat=amount_sat,
        deposits=(*before.deposits, (amount_sat, AWAITING, amount_sat, 0)),
        reservations=(*before.reservations, reserve),
    )
    await step("7. a third payment, in a block", locked)

    await bitcoind.reorg(1, with_transactions=False)
    cancel = ("CANCEL", "failed", amount_sat, 0, -amount_sat, "payment.reverted")
    reverted = replace(
        before,
        deposits=(*before.deposits, (amount_sat, AWAITING, 0, 0)),
        reservations=(*locked.reservations, cancel),
    )
    await step("8. the block is lost", reverted, is_heard=False)

    await publish(await sign_rival(bitcoind, coin), bitcoind)
    await lie(service, address, payment.txid)
    failure = ("RESERVE", "failed", amount_sat, 0, 0, "payment.replaced")
    failed = replace(
        before,
        deposits=(*before.deposits, (amount_sat, "FAILED", 0, 0)),
        reservations=(*reverted.reservations, failure),
    )
    await step("9. and its coin taken elsewhere", failed)
    return failed
