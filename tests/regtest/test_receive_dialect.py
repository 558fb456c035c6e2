"""Receive Payments V2 on real nodes and servers: every example of its document, and what it promises."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.clients.accounts import new_account
from tests.regtest.calls import PLAIN, answer_of, curl, deliveries, wait_deliveries
from tests.regtest.feed import WAIT_S, service_options, wait_event
from tests.regtest.nodes import Bitcoind, btc_text_of
from tests.regtest.own_node import Source
from tests.regtest.rivals import make_coins, publish, sign_payment, sign_rival
from tests.regtest.shop import Policy, Shop, ShopAnswer, ShopRequest, always
from tests.service_process import ServiceProcess, open_service

pytestmark = pytest.mark.slow
SECRET = "ZzsMLGKe162CfA5EcG6j"
PAYMENT_FIELDS = ["transaction_hash", "address", "confirmations", "value"]
BLOCK_FIELDS = ["hash", "confirmations", "height", "timestamp", "size"]
NEVER_OK_BLOCKS = 20
OK = always(200, b"*ok*")
NOT_YET = always(200, b"waiting for confirmations")


def ok_from(confirmations: int) -> Policy:
    """Return a shop as the document's demo has it: it checks the secret, and says ``*ok*`` from this depth on."""

    def answer(request: ShopRequest) -> ShopAnswer:
        if request.query.get("secret") != SECRET:
            return ShopAnswer(status=403, body=b"*bad*")
        is_deep = int(request.query["confirmations"]) >= confirmations
        return ShopAnswer(body=b"*ok*" if is_deep else b"waiting")

    return answer


async def given_address(service: ServiceProcess, callback: str, *, key: str = "") -> str:
    """Have an address of a fresh account, or of this one, given away."""
    xpub = key or new_account(is_segwit=True).key
    path = f"/v2/receive?xpub={xpub}&callback={quote(callback, safe='')}&key={service.key}"
    return str((await answer_of(service, "GET", path, key=""))["address"])


async def balance_update(service: ServiceProcess, address: str, callback: str, **more: object) -> int:
    """Ask for balance updates and return the request's id."""
    fields = {"key": service.key, "addr": address, "callback": callback, "onNotification": "KEEP"} | more
    path = "/v2/receive/balance_update"
    return int((await answer_of(service, "POST", path, headers=PLAIN, data=json.dumps(fields), key=""))["id"])


async def block_notification(service: ServiceProcess, callback: str, **more: object) -> dict[str, Any]:
    """Ask for block notifications and return the answer."""
    fields = {"key": service.key, "callback": callback, "onNotification": "KEEP"} | more
    path = "/v2/receive/block_notification"
    return dict(await answer_of(service, "POST", path, headers=PLAIN, data=json.dumps(fields), key=""))


def told(shop: Shop, path: str = "", **fields: str) -> list[dict[str, str]]:
    """Return the queries of all calls that have these fields, oldest first."""
    return [
        request.query
        for request in shop.requests
        if (not path or request.path == path) and fields.items() <= request.query.items()
    ]


async def wait_told(shop: Shop, *, count: int = 1, path: str = "", **fields: object) -> dict[str, str]:
    """Wait for the ``count``-th call that has these fields, and return its query."""
    texts = {name: str(value) for name, value in fields.items()}

    def is_wanted(request: ShopRequest) -> bool:
        return (not path or request.path == path) and texts.items() <= request.query.items()

    return (await shop.wait_for(is_wanted, WAIT_S, count=count)).query


def steps(shop: Shop, txid: str) -> list[tuple[int, int]]:
    """Return confirmations and value of all calls about a payment, oldest first."""
    return [(int(call["confirmations"]), int(call["value"])) for call in told(shop, transaction_hash=txid)]


# --- the document, example by example ----------------------------------------------------------------------------


async def test_every_example_of_the_document_about_addresses(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Generating an address (curl and PHP), its callback, the gap and the log are as the document shows them."""
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        account = new_account(is_segwit=False)
        addresses = await account.addresses(bitcoind, 2)
        callback = f"{shop.url}?invoice_id=058921123"
        path = f"/v2/receive?xpub={account.key}&callback={quote(callback, safe='')}&key={service.key}"
        assert (await curl(service, "GET", path)).json() == {"address": addresses[0], "index": 0, "callback": callback}

        # The PHP example: another query in the callback's URL, whose order must stay.
        callback = f"{shop.url}?invoice_id=058921123&secret={SECRET}"
        parameters = f"xpub={account.key}&callback={quote(callback, safe='')}&key={service.key}"
        made = await curl(service, "GET", f"/v2/receive?{parameters}")
        assert made.json() == {"address": addresses[1], "index": 1, "callback": callback}

        gap = await curl(service, "GET", f"/v2/receive/checkgap?xpub={account.key}&key={service.key}")
        assert gap.json() == {"gap": 2}

        shop.policy = always(200, b"*bad*")
        txid = await bitcoind.send(addresses[1], 123_456)
        call = await wait_told(shop, transaction_hash=txid)
        assert list(call) == ["invoice_id", "secret", *PAYMENT_FIELDS]
        assert call == {
            "invoice_id": "058921123",
            "secret": SECRET,
            "transaction_hash": txid,
            "address": addresses[1],
            "confirmations": "0",
            "value": "123456",
        }
        [request] = shop.requests
        assert (request.method, request.path, request.body) == ("GET", "/", b"")
        gap = await curl(service, "GET", f"/v2/receive/checkgap?xpub={account.key}&key={service.key}")
        assert gap.json() == {"gap": 0}

        shop.policy = OK
        await bitcoind.mine(1)
        await wait_deliveries(service, "acknowledged")
        for spelling in ("callback_log", "callback_logs"):
            log = await curl(
                service, "GET", f"/v2/receive/{spelling}?callback={quote(callback, safe='')}&key={service.key}"
            )
            first, second = log.json()
            assert list(first) == ["callback", "called_at", "raw_response", "response_code"]
            assert first == {
                "callback": callback,
                "called_at": first["called_at"],
                "raw_response": "*bad*",
                "response_code": 200,
            }
            assert second == first | {"called_at": second["called_at"], "raw_response": "*ok*"}
            assert first["called_at"] <= second["called_at"]
            assert service.key not in log.text
        assert await service.stop() == 0


async def test_every_example_of_the_document_about_requests(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """The curl lines of balance updates and block notifications, and of deleting them, are answered as shown."""
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address = await bitcoind.new_address("legacy")
        callback = f"{shop.url}?invoice_id=123"
        data = (
            f'{{"key":"{service.key}","addr":"{address}","callback":"{callback}",'
            '"onNotification":"KEEP", "op":"RECEIVE", "confs": 5}'
        )
        made = await curl(service, "POST", "/v2/receive/balance_update", headers=PLAIN, data=data)
        number = made.json()["id"]
        assert made.status_code == 200
        assert list(made.json().items()) == [
            ("id", number),
            ("addr", address),
            ("op", "RECEIVE"),
            ("confs", 5),
            ("callback", callback),
            ("onNotification", "KEEP"),
        ]
        deleted = await curl(service, "DELETE", f"/v2/receive/balance_update/{number}?key={service.key}")
        assert (deleted.status_code, deleted.json()) == (200, {"deleted": True})

        callback = f"{shop.url}/block?request_id=1234"
        data = f'{{"key":"{service.key}","height":500000,"callback":"{callback}","onNotification":"DELETE"}}'
        made = await curl(service, "POST", "/v2/receive/block_notification", headers=PLAIN, data=data)
        number = made.json()["id"]
        assert made.status_code == 200
        assert list(made.json().items()) == [
            ("id", number),
            ("height", 500_000),
            ("callback", callback),
            ("confs", 1),
            ("onNotification", "DELETE"),
        ]
        deleted = await curl(service, "DELETE", f"/v2/receive/block_notifcation/{number}?key={service.key}")
        assert (deleted.status_code, deleted.json()) == (200, {"deleted": True})
        assert await service.stop() == 0


# --- telling until *ok* ------------------------------------------------------------------------------------------


async def test_shop_that_waits_for_four_confirmations_is_told_once_a_block_and_never_after_ok(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A shop that checks a secret and says ``*ok*`` at four confirmations hears of a payment at 0 to 4, once each."""
    shop.policy = ok_from(4)
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address = await given_address(service, f"{shop.url}/ipn?invoice_id=7&secret={SECRET}")
        first = await bitcoind.send(address, 10_000)
        await wait_told(shop, transaction_hash=first, confirmations=0)
        second = ""
        for depth in (1, 2, 3, 4, 5, 6):
            await bitcoind.mine(1)
            if depth <= 4:
                await wait_told(shop, transaction_hash=first, confirmations=depth)
            if depth == 2:  # a later payment to the same address is told beside the first one
                second = await bitcoind.send(address, 20_000)
                await wait_told(shop, transaction_hash=second, confirmations=0)
            if depth > 2:
                await wait_told(shop, transaction_hash=second, confirmations=depth - 2)
        await wait_deliveries(service, "acknowledged", "acknowledged")
        third = await bitcoind.send(address, 30_000)
        await wait_told(shop, transaction_hash=third)
        assert steps(shop, first) == [(depth, 10_000) for depth in range(5)]
        assert steps(shop, second) == [(depth, 20_000) for depth in range(5)]
        assert {(call["invoice_id"], call["secret"]) for call in told(shop)} == {("7", SECRET)}
        assert await service.stop() == 0


async def test_shop_that_never_says_ok_is_called_once_a_tip(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """Without ``*ok*`` a payment is told when it is seen and then once with each tip, neither more nor less often."""
    shop.policy = NOT_YET
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address = await given_address(service, f"{shop.url}/ipn")
        txid = await bitcoind.send(address, 10_000)
        await wait_told(shop, confirmations=0)
        for depth in range(1, NEVER_OK_BLOCKS + 1):
            await bitcoind.mine(1)
            await wait_told(shop, confirmations=depth)
        assert steps(shop, txid) == [(depth, 10_000) for depth in range(NEVER_OK_BLOCKS + 1)]
        [waiting] = deliveries(service)
        assert (waiting["state"], waiting["attempts"]) == ("next-block", NEVER_OK_BLOCKS + 1)
        assert await service.stop() == 0


async def test_nothing_is_told_after_ok_not_even_after_a_reorg(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A payment whose ``*ok*`` was heard is told no more when it loses its block, waits, and finds another one."""
    bitcoind = private_bitcoind
    shop.policy = ok_from(2)
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        given = await given_address(service, f"{shop.url}/ipn?secret={SECRET}")
        watched = await bitcoind.new_address()
        await balance_update(service, watched, f"{shop.url}/balance?secret={SECRET}", confs=2)
        txids = []
        for address in (given, watched):
            txids.append(await bitcoind.send(address, 10_000))
            await wait_told(shop, transaction_hash=txids[-1], confirmations=0)
        for depth in (1, 2):
            await bitcoind.mine(1)
            for txid in txids:
                await wait_told(shop, transaction_hash=txid, confirmations=depth)
        # The balance update has a message of its own for each of its two moments.
        await wait_deliveries(service, "acknowledged", "withdrawn", "acknowledged")
        count = len(shop.requests)

        await bitcoind.reorg(2, with_transactions=False)
        for txid in txids:
            await wait_event(service, kind="payment.reverted", txid=txid)
        for _ in range(3):
            await bitcoind.mine(1)
        marker = await bitcoind.send(given, 20_000)
        await wait_told(shop, transaction_hash=marker)
        assert {call["transaction_hash"] for call in told(shop)[count:]} == {marker}
        assert await service.stop() == 0


async def test_replaced_payment_is_not_told_any_more_and_what_replaces_it_is(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """The call about a replaced payment is withdrawn; a rival to the same address is told under its own txid."""
    bitcoind = private_bitcoind
    shop.policy = NOT_YET
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        address = await given_address(service, f"{shop.url}/ipn")
        coins = await make_coins(bitcoind, [900_500, 800_500])
        lost = await sign_payment(bitcoind, coins[0], address)
        bumped = await sign_payment(bitcoind, coins[1], address)
        higher = await sign_payment(bitcoind, coins[1], address, fee_sat=5_000)
        for payment in (lost, bumped):
            await publish(payment, bitcoind)
            await wait_told(shop, transaction_hash=payment.txid)
        rival = await sign_rival(bitcoind, coins[0])
        await bitcoind.rpc("generateblock", await bitcoind.new_address(), [rival.raw, higher.raw])
        await wait_told(shop, transaction_hash=higher.txid, confirmations=1)
        for payment in (lost, bumped):
            await wait_event(service, kind="payment.replaced", txid=payment.txid)
        await wait_deliveries(service, "withdrawn", "withdrawn", "next-block")
        count = len(shop.requests)
        await bitcoind.mine(1)
        await wait_told(shop, transaction_hash=higher.txid, confirmations=2)
        assert {call["transaction_hash"] for call in told(shop)[count:]} == {higher.txid}
        assert await service.stop() == 0


async def test_longest_url_is_called_whole(bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop) -> None:
    """A callback URL of 255 characters is called with all of its own fields and ours; one more character is refused."""
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        callback = f"{shop.url}/ipn?order="
        callback += "x" * (255 - len(callback))
        account = new_account(is_segwit=True)
        address = await given_address(service, callback, key=account.key)
        await bitcoind.send(address, 10_000)
        assert (await wait_told(shop))["order"] == "x" * (255 - len(f"{shop.url}/ipn?order="))
        path = f"/v2/receive?xpub={account.key}&callback={quote(callback, safe='')}x&key={service.key}"
        refused = await answer_of(service, "GET", path, status=400, key="")
        assert list(refused) == ["message", "description"]
        assert refused["message"] == "Problem with callback"
        assert await service.stop() == 0


# --- balance updates ---------------------------------------------------------------------------------------------


async def test_balance_updates_tell_money_in_money_out_or_both(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """``op`` chooses by the sign of the net; each payment is told when seen and at its depth, and then no more."""
    shop.policy = OK
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address, elsewhere = await bitcoind.new_address(), await bitcoind.new_address()
        for op in ("RECEIVE", "SPEND", "ALL"):
            await balance_update(service, address, f"{shop.url}/{op}", op=op, confs=1)
        paid = await bitcoind.send(address, 1_000_000)
        for path in ("/RECEIVE", "/ALL"):
            await wait_told(shop, path=path, transaction_hash=paid, confirmations=0)
        await bitcoind.mine(1)
        for path in ("/RECEIVE", "/ALL"):
            await wait_told(shop, path=path, transaction_hash=paid, confirmations=1)

        outputs = (await bitcoind.transaction(paid))["vout"]
        [index] = [output["n"] for output in outputs if output["scriptPubKey"].get("address") == address]
        texts = [{address: btc_text_of(400_000)}, {elsewhere: btc_text_of(590_000)}]
        unsigned = await bitcoind.rpc("createrawtransaction", [{"txid": paid, "vout": index}], texts)
        signed = await bitcoind.rpc("signrawtransactionwithwallet", unsigned, wallet="receiver")
        spent = await bitcoind.rpc("sendrawtransaction", signed["hex"])
        for path in ("/SPEND", "/ALL"):
            await wait_told(shop, path=path, transaction_hash=spent, confirmations=0)
        await bitcoind.mine(1)
        for path in ("/SPEND", "/ALL"):
            await wait_told(shop, path=path, transaction_hash=spent, confirmations=1)
        await wait_deliveries(service, *["acknowledged"] * 8)

        def heard(path: str) -> list[tuple[str, str, str]]:
            return [(call["transaction_hash"], call["confirmations"], call["value"]) for call in told(shop, path)]

        money_in = [(paid, "0", "1000000"), (paid, "1", "1000000")]
        money_out = [(spent, "0", "-600000"), (spent, "1", "-600000")]
        assert [heard(path) for path in ("/RECEIVE", "/SPEND", "/ALL")] == [money_in, money_out, money_in + money_out]
        assert await service.stop() == 0


async def test_delete_ends_with_the_first_payment_at_its_depth(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """``DELETE`` tells one payment, when seen and at ``confs``; with ``confs`` 0 once; ``KEEP`` goes on with others."""
    shop.policy = OK
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address = await bitcoind.new_address()
        await balance_update(service, address, f"{shop.url}/once", onNotification="DELETE", confs=1)
        await balance_update(service, address, f"{shop.url}/seen", onNotification="DELETE", confs=0)
        await balance_update(service, address, f"{shop.url}/keep", onNotification="KEEP", confs=0)
        first = await bitcoind.send(address, 10_000)
        for path in ("/once", "/seen", "/keep"):
            await wait_told(shop, path=path, transaction_hash=first, confirmations=0)
        await bitcoind.mine(1)
        await wait_told(shop, path="/once", transaction_hash=first, confirmations=1)
        second = await bitcoind.send(address, 20_000)
        await wait_told(shop, path="/keep", transaction_hash=second)
        await bitcoind.mine(1)
        await wait_event(service, kind="payment.confirmed", txid=second)
        third = await bitcoind.send(address, 30_000)
        await wait_told(shop, path="/keep", transaction_hash=third)
        calls = {
            path: [(call["transaction_hash"], call["confirmations"]) for call in told(shop, path)]
            for path in ("/once", "/seen", "/keep")
        }
        assert calls == {
            "/once": [(first, "0"), (first, "1")],
            "/seen": [(first, "0")],
            "/keep": [(first, "0"), (second, "0"), (third, "0")],
        }
        assert await service.stop() == 0


async def test_deleted_request_tells_nothing_more(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """After a request was deleted neither a new payment is told, nor one that waits for its ``*ok*``."""
    shop.policy = NOT_YET
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        address = await bitcoind.new_address()
        number = await balance_update(service, address, f"{shop.url}/deleted")
        await balance_update(service, address, f"{shop.url}/kept")
        txid = await bitcoind.send(address, 10_000)
        for path in ("/deleted", "/kept"):
            await wait_told(shop, path=path, transaction_hash=txid)
        assert await answer_of(service, "DELETE", f"/v2/receive/balance_update/{number}") == {"deleted": True}
        await bitcoind.mine(1)
        await wait_told(shop, path="/kept", transaction_hash=txid, confirmations=1)
        other = await bitcoind.send(address, 20_000)
        await wait_told(shop, path="/kept", transaction_hash=other)
        assert len(told(shop, "/deleted")) == 1
        gone = await answer_of(service, "DELETE", f"/v2/receive/balance_update/{number}", status=404)
        assert list(gone) == ["message", "description"]
        assert await service.stop() == 0


# --- block notifications -----------------------------------------------------------------------------------------


async def test_block_notifications_have_their_height_depth_and_end(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """``KEEP`` tells each block from its height on at its depth, in order; ``DELETE`` one; a lost one is not told."""
    bitcoind = private_bitcoind
    shop.policy = OK
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        height = await bitcoind.height()
        next_one = await block_notification(service, f"{shop.url}/next", onNotification="DELETE")
        assert (next_one["height"], next_one["confs"]) == (height + 1, 1)
        await block_notification(service, f"{shop.url}/deep?id=7", height=height + 2, confs=2)
        await block_notification(service, f"{shop.url}/later", height=height + 4, onNotification="DELETE")
        passed = {"key": service.key, "callback": shop.url, "onNotification": "KEEP", "height": height}
        path = "/v2/receive/block_notification"
        refused = await answer_of(service, "POST", path, headers=PLAIN, data=json.dumps(passed), status=400, key="")
        assert list(refused) == ["message", "description"]
        assert refused["description"].startswith("height is ")

        hashes = await bitcoind.mine(2)
        await wait_told(shop, path="/next")
        await wait_event(service, kind="block.connected", block_hash=hashes[-1])
        # The block at height + 2 has one confirmation when it is lost.
        reorg = await bitcoind.reorg(1)
        lost, hashes[1:] = hashes[1], reorg.connected
        await wait_told(shop, path="/deep", hash=hashes[1])
        hashes += await bitcoind.mine(3)
        for block_hash in hashes[2:5]:
            await wait_told(shop, path="/deep", hash=block_hash)
        await wait_told(shop, path="/later")
        await wait_deliveries(service, *["acknowledged"] * 6)

        tip = height + 6
        blocks = [(height + 1 + place, block_hash) for place, block_hash in enumerate(hashes)]
        assert [(int(call["height"]), call["hash"]) for call in told(shop, "/deep")] == blocks[1:5]
        assert [(int(call["height"]), call["hash"]) for call in told(shop, "/next")] == blocks[:1]
        assert [(int(call["height"]), call["hash"]) for call in told(shop, "/later")] == blocks[3:4]
        assert lost not in {call["hash"] for call in told(shop)}
        for call in told(shop, "/deep"):
            header = await bitcoind.rpc("getblockheader", call["hash"])
            assert list(call) == ["id", *BLOCK_FIELDS]
            assert (call["id"], call["timestamp"], call["size"]) == ("7", str(header["time"]), "0")
            assert 2 <= int(call["confirmations"]) <= tip - int(call["height"]) + 1
        assert await service.stop() == 0


async def test_block_that_was_not_heard_is_told_again_with_each_tip(
    bitcoind: Bitcoind, source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A block is told again with each tip until ``*ok*``, also the only one of a ``DELETE``."""
    shop.policy = NOT_YET
    async with open_service(tmp_path / "lightipn", service_options(source)) as service:
        await block_notification(service, f"{shop.url}/once", onNotification="DELETE")
        [block_hash] = await bitcoind.mine(1)
        await wait_told(shop, hash=block_hash, confirmations=1)
        await bitcoind.mine(1)
        await wait_told(shop, hash=block_hash, confirmations=2)
        shop.policy = OK
        await bitcoind.mine(1)
        await wait_told(shop, hash=block_hash, confirmations=3)
        await wait_deliveries(service, "acknowledged")
        assert [call["hash"] for call in told(shop)] == [block_hash] * 3
        assert await service.stop() == 0


async def test_only_block_of_a_delete_that_is_lost_unheard_is_told_as_what_takes_its_place(
    private_bitcoind: Bitcoind, private_source: Source, tmp_path: Path, shop: Shop
) -> None:
    """A ``DELETE`` whose block is lost before ``*ok*`` tells the block that stands at its height then."""
    bitcoind = private_bitcoind
    shop.policy = NOT_YET
    async with open_service(tmp_path / "lightipn", service_options(private_source)) as service:
        await block_notification(service, f"{shop.url}/once", onNotification="DELETE")
        [lost] = await bitcoind.mine(1)
        await wait_told(shop, hash=lost)
        reorg = await bitcoind.reorg(1)
        await wait_event(service, kind="block.connected", block_hash=reorg.connected[-1])
        shop.policy = OK
        await wait_told(shop, hash=reorg.connected[0])
        assert await service.stop() == 0
