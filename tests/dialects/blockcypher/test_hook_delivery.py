"""Hooks from the payment to the receiver: what arrives, in which order, how it is signed, tried and given a rest."""

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import Dropped, Replaced, Standing
from lightipn.outbox.messages import OutgoingRequest
from lightipn.outbox.verdict import Answer
from lightipn.store import attempts
from lightipn.store.attempts import Claim
from lightipn.store.database import Database
from lightipn.store.transactions import Background
from tests.builders import OTHER_SCRIPT, payment, txid_of
from tests.dialects.blockcypher.keys import private_pem, public_pem
from tests.dialects.blockcypher.rig import (
    EVENTS,
    HOOKS,
    URL,
    V1,
    OpenCaller,
    brief,
    happen,
    hook,
    mine,
    paid_at,
    placed,
    refused,
    reorg,
    said,
    shown,
    told,
)
from tests.dialects.blockcypher.verifier import check_body, check_request
from tests.dialects.rig import ADDRESS, OK, SILENCE, TIP, Caller
from tests.store.plain_dialect import answer_of

ERROR = answer_of(b"no", status=500)
ONE = payment(1)
TARGET = "/hook?order=7"


async def service_key(caller: Caller) -> str:
    """Return the public half of the service's key, as a receiver gets it: without any key of its own."""
    answer = await caller.client.get(f"{V1}/signing-key")
    assert answer.status_code == 200
    assert answer.json().keys() == {"algorithm", "public_key"}
    assert answer.json()["algorithm"] == "sha256-ecdsa"
    return str(answer.json()["public_key"])


async def look(caller: Caller) -> tuple[list[Claim], float | None]:
    """Look for what is due as the dispatcher does, and return it, and when to look again."""

    def work(db: Database) -> tuple[list[Claim], float | None]:
        return attempts.claim_due(db, caller.policies, now=caller.now, room=9, room_of=lambda host: 9, busy={})

    return await caller.store.transact(work)


async def tried(caller: Caller, answers: Sequence[Answer]) -> list[tuple[float, OutgoingRequest]]:
    """Have each attempt of one message answered so, and return when each was made, and what was sent."""
    found = []
    for answer in answers:
        claims, due_at = await look(caller)
        if not claims:
            assert due_at is not None
            caller.now = due_at
            claims, _ = await look(caller)
        (claim,) = claims
        found.append((caller.now, claim.request))
        await caller.finish(claim, answer)
    return found


# --- the six events ----------------------------------------------------------------------------------------------


async def test_unconfirmed_payment_is_told_once(caller: Caller) -> None:
    """``unconfirmed-tx``: each payment when it is seen, once, whatever becomes of it."""
    await hook(caller, "unconfirmed-tx")
    background = Background(
        spent=(TxOutput(amount_sat=100_500, script=OTHER_SCRIPT),), standing=Standing(vbytes_ahead=0)
    )
    await happen(caller, ONE, Unconfirmed(2), background=background)
    (found,) = await told(caller)
    assert (found["event"], found["hash"], found["address"], found["value"]) == (
        "unconfirmed-tx",
        hex_of(ONE.txid),
        ADDRESS.text,
        100_000,
    )
    assert (found["confirmations"], found["block_height"], found["fees"], found["confidence"]) == (0, -1, 500, 0.76)
    (header,) = await mine(caller)
    await happen(caller, ONE, placed(header, TIP + 1))
    await reorg(caller, 1, 2)
    await happen(caller, ONE)
    assert await told(caller) == []


async def test_confirmed_payment_is_told_once_for_each_block(caller: Caller) -> None:
    """``confirmed-tx``: once a block; another block after a reorg is told, and coming back to the first one is not."""
    await hook(caller, "confirmed-tx")
    await happen(caller, ONE)
    assert await told(caller) == []
    (first,) = await mine(caller)
    await happen(caller, ONE, placed(first, TIP + 1))
    (found,) = await told(caller)
    assert (found["event"], found["block_hash"], found["block_height"], found["confirmations"]) == (
        "confirmed-tx",
        hex_of(first.block_hash),
        TIP + 1,
        1,
    )
    await mine(caller, 3)
    assert await told(caller) == []
    headers = await reorg(caller, 4, 5)
    await happen(caller, ONE)
    assert await told(caller) == []
    await happen(caller, ONE, placed(headers[1], TIP + 2))
    (again,) = await told(caller)
    assert (again["block_hash"], again["confirmations"]) == (hex_of(headers[1].block_hash), 4)
    await happen(caller, ONE, placed(first, TIP + 1))
    assert await told(caller) == []


async def test_every_confirmation_is_told_in_order(caller: Caller) -> None:
    """``tx-confirmation``: 0, and each number up to six, one a block; then nothing more."""
    await hook(caller)
    await happen(caller, ONE)
    found = await told(caller)
    (header,) = await mine(caller)
    await happen(caller, ONE, placed(header, TIP + 1))
    found += await told(caller)
    for _ in range(8):
        await mine(caller)
        found += await told(caller)
    assert brief(found) == [("tx-confirmation", number) for number in range(7)]
    assert {body["block_hash"] for body in found[1:]} == {hex_of(header.block_hash)}


async def test_coalesced_blocks_leave_no_gap(caller: Caller) -> None:
    """Blocks that arrive together are one tip, and each number is told all the same, in order."""
    await hook(caller)
    await happen(caller, ONE)
    header, *_ = await mine(caller, 3)
    await happen(caller, ONE, placed(header, TIP + 1))
    assert [body["confirmations"] for body in await told(caller)] == [0, 1, 2, 3]
    await mine(caller, 9)
    assert [body["confirmations"] for body in await told(caller)] == [4, 5, 6]
    await mine(caller, 9)
    assert await told(caller) == []


async def test_payment_first_seen_in_a_block_has_no_zero(caller: Caller) -> None:
    """What was never seen outside a block begins at 1."""
    await hook(caller, confirmations=3)
    await paid_at(caller, 1)
    await mine(caller, 5)
    assert [body["confirmations"] for body in await told(caller)] == [1, 2, 3]


async def test_counting_begins_anew_after_a_reorg(caller: Caller) -> None:
    """Each number is told at most once a block: a reorg begins again at 1, and what was not heard is withdrawn."""
    await hook(caller, confirmations=4)
    await happen(caller, ONE)
    (first,) = await mine(caller)
    await happen(caller, ONE, placed(first, TIP + 1))
    assert [body["confirmations"] for body in await told(caller)] == [0, 1]
    await mine(caller)
    await caller.send(SILENCE)
    one, _, _ = await reorg(caller, 2, 3)
    await happen(caller, ONE)
    caller.now += 100
    assert await told(caller) == []
    await happen(caller, ONE, placed(one, TIP + 1))
    found = await told(caller)
    assert [(body["confirmations"], body["block_hash"]) for body in found] == [
        (number, hex_of(one.block_hash)) for number in (1, 2, 3)
    ]


async def test_double_spend_is_told_with_its_rival(caller: Caller) -> None:
    """``double-spend-tx``: the lost payment, and the transaction that replaced it; a mere drop is none."""
    await hook(caller, "double-spend-tx")
    await hook(caller, "unconfirmed-tx", url="https://dead.example/")
    two = payment(2)
    await happen(caller, ONE)
    await happen(caller, two)
    claims = await caller.claim()
    for claim in claims:
        await caller.finish(claim, SILENCE)
    caller.now += 5
    await happen(caller, ONE, Replaced(txid_of(9)), gone_at=int(caller.now))
    await happen(caller, two, Dropped(), gone_at=int(caller.now))
    (found,) = await told(caller)
    assert (found["event"], found["hash"], found["double_spend"]) == ("double-spend-tx", hex_of(ONE.txid), True)
    assert found["double_of"] == found["double_spend_tx"] == hex_of(txid_of(9))
    caller.now += 10_000
    assert await told(caller) == []  # the unheard notice of a payment that is gone is withdrawn


async def test_confidence_is_told_at_its_threshold_or_after_a_minute(caller: Caller) -> None:
    """``tx-confidence``: as soon as the threshold is reached, by the clock alone; after a minute in any case; once."""
    await hook(caller, "tx-confidence", confidence=0.9, url="https://low.example/")
    await hook(caller, "tx-confidence", url="https://high.example/")
    await happen(caller, ONE, Unconfirmed(3), background=Background(standing=Standing(vbytes_ahead=0)))
    seen_at, found = caller.now, []
    while caller.now < seen_at + 90:
        found += [(request.url, caller.now - seen_at, said(request)["confidence"]) for request in await caller.send()]
        caller.now += 1
    assert found == [("https://low.example/", 12.0, 0.9038), ("https://high.example/", 60.0, 0.9869)]


async def test_dispatcher_is_told_when_the_minute_is_over(caller: Caller) -> None:
    """The clock alone makes it due, so the dispatcher must know when to look again."""
    await hook(caller, "tx-confidence")
    await happen(caller, ONE)
    assert await look(caller) == ([], caller.now + 60)


async def test_blocks_are_told_in_order_without_gaps(caller: Caller) -> None:
    """``new-block``: each block once, in order, also of those that came together; after a reorg the new ones."""
    await hook(caller, "new-block")
    first = await mine(caller, 3)
    found = await told(caller)
    assert [(body["event"], body["height"], body["hash"]) for body in found] == [
        ("new-block", TIP + number, hex_of(header.block_hash)) for number, header in enumerate(first, 1)
    ]
    assert all(body["prev_block"] == before["hash"] for before, body in pairwise(found))
    other = await reorg(caller, 2, 3)
    assert [body["hash"] for body in await told(caller)] == [hex_of(header.block_hash) for header in other]
    assert await told(caller) == []


async def test_blocks_before_the_hook_are_not_told(caller: Caller) -> None:
    """A hook about blocks begins with the next one."""
    await mine(caller, 2)
    await hook(caller, "new-block")
    await mine(caller)
    assert [body["height"] for body in await told(caller)] == [TIP + 3]


async def test_payment_out_of_the_address_is_told_too(caller: Caller) -> None:
    """A hook is about every transaction of its address: ``value`` is negative where it paid."""
    await hook(caller, "unconfirmed-tx")
    await happen(caller, payment(1, amount_sat=30), sent_sat=100)
    assert [body["value"] for body in await told(caller)] == [-70]


@pytest.mark.parametrize("event", EVENTS)
async def test_headers_name_event_and_hook(caller: Caller, event: str) -> None:
    """Each webhook is a POST of JSON whose headers name its event and its hook, and the body names the event."""
    hook_id = await hook(caller, event)
    await happen(caller, ONE)
    (header,) = await mine(caller)
    state = Replaced(txid_of(9)) if event == "double-spend-tx" else placed(header, TIP + 1)
    await happen(caller, ONE, state, gone_at=int(caller.now))
    caller.now += 60
    request, *_ = await caller.send()
    assert (request.method, request.url) == ("POST", URL)
    assert (request.headers["X-EventType"], request.headers["X-EventId"]) == (event, hook_id)
    assert request.headers["Content-Type"] == "application/json"
    assert said(request)["event"] == event


# --- signatures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["unconfirmed-tx", "new-block"])
async def test_webhook_verifies_with_the_services_key(caller: Caller, event: str) -> None:
    """Both headers verify with the public key that the service shows, which is the same for all its hooks."""
    await hook(caller, event)
    await happen(caller, ONE)
    await mine(caller)
    (request,) = await caller.send()
    pem = await service_key(caller)
    assert check_request(pem, request.method, TARGET, request.headers, request.body) == "lightipn"
    assert check_body(pem, request.headers, request.body) == "lightipn"


async def test_webhook_verifies_with_the_hooks_own_key(caller: Caller) -> None:
    """A hook that brought a key is signed with it, and its id is the key's."""
    hook_id = await hook(caller, "unconfirmed-tx", signkey=private_pem(5))
    await happen(caller, ONE)
    (request,) = await caller.send()
    assert check_request(public_pem(5), request.method, TARGET, request.headers, request.body) == hook_id
    assert check_body(public_pem(5), request.headers, request.body) == hook_id
    assert await service_key(caller) != public_pem(5)


async def test_service_key_is_made_once(caller: Caller) -> None:
    """The key is made at the first use, by whatever call, and stays."""
    first = await service_key(caller)
    await hook(caller)
    assert await service_key(caller) == first
    assert (await caller.client.get("/v1/btc/test3/signing-key/")).json()["public_key"] == first


# --- attempts ----------------------------------------------------------------------------------------------------


async def test_body_never_changes_and_is_dated_and_signed_anew(caller: Caller) -> None:
    """Retries repeat the body byte for byte, whatever happened; date and signature are of each attempt."""
    await hook(caller, "unconfirmed-tx")
    await happen(caller, ONE, Unconfirmed(1))
    requests = [(await tried(caller, [ERROR]))[0][1]]
    (header,) = await mine(caller)
    await happen(caller, ONE, placed(header, TIP + 1))
    requests += [request for _, request in await tried(caller, [SILENCE, ERROR, OK])]
    assert {request.body for request in requests} == {requests[0].body}
    assert json.loads(requests[0].body)["confirmations"] == 0
    assert len({request.headers["Date"] for request in requests}) == 4
    assert len({request.headers["Signature"] for request in requests}) == 4
    assert {request.headers["X-EventId"] for request in requests} == {requests[0].headers["X-EventId"]}
    assert len({request.headers["X-WebhookId"] for request in requests}) == 1
    await happen(caller, payment(2))
    ((_, other),) = await tried(caller, [OK])
    assert other.headers["X-WebhookId"] != requests[0].headers["X-WebhookId"]
    pem = await service_key(caller)
    for request in requests:
        check_request(pem, "POST", TARGET, request.headers, request.body)
        check_body(pem, request.headers, request.body)


async def test_retries_come_at_the_originals_times(caller: Caller) -> None:
    """After 1, 2, 4, 8 and 16 s exactly, then doubling up to one hour, for ever, until a 2xx."""
    await hook(caller, "unconfirmed-tx")
    await happen(caller, ONE)
    found = await tried(caller, [ERROR] * 15)
    pauses = [after - before for (before, _), (after, _) in pairwise(found)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]
    await tried(caller, [OK])
    caller.now += 1_000_000
    assert await told(caller) == []


async def test_failing_webhook_does_not_hold_back_later_ones(caller: Caller) -> None:
    """One request at a time a subscription; what waits for its next try lets the next one pass."""
    await hook(caller, "unconfirmed-tx")
    for number in range(3):
        await happen(caller, payment(number))
    requests = [(await caller.send(ERROR)) for _ in range(3)]
    assert [len(found) for found in requests] == [1, 1, 1]
    assert [said(found[0])["hash"] for found in requests] == [hex_of(payment(number).txid) for number in range(3)]
    assert await caller.send(ERROR) == []


async def test_errors_are_shown_once_a_payload(caller: Caller) -> None:
    """``callback_errors`` counts a payload when all six quick tries failed, and never again."""
    hook_id = await hook(caller, "unconfirmed-tx")
    await happen(caller, ONE)
    counts = []
    for _ in range(9):
        await tried(caller, [ERROR])
        counts.append((await shown(caller, hook_id))["callback_errors"])
    assert counts == [0, 0, 0, 0, 0, 1, 1, 1, 1]


# --- suspension --------------------------------------------------------------------------------------------------


async def fail(caller: Caller, payloads: int) -> None:
    """Have so many payments told in vain, six times each."""
    for number in range(payloads):
        await happen(caller, payment(1000 + number))
    for pause_s in (0, 1, 2, 4, 8, 16):
        caller.now += pause_s
        assert len(await told(caller, SILENCE)) == payloads


@pytest.mark.slow
async def test_fifty_errors_suspend_and_a_2xx_revives(caller: Caller) -> None:
    """At fifty a hook rests: it is kept, keeps queuing, is probed once an hour, and is back with the first 2xx."""
    hook_id = await hook(caller, "unconfirmed-tx")
    await fail(caller, 49)
    found = await shown(caller, hook_id)
    assert (found["callback_errors"], found["suspended"]) == (49, False)
    await happen(caller, ONE)
    for pause_s in (0, 1, 2, 4, 8, 16):
        caller.now += pause_s
        await told(caller, ERROR)
    found = await shown(caller, hook_id)
    assert (found["callback_errors"], found["suspended"]) == (50, True)
    at, times = caller.now, []
    await happen(caller, payment(2))
    while caller.now < at + 3 * 3600:
        caller.now += 60
        times += [caller.now - at for _ in await told(caller, ERROR)]
    assert times == [3600.0, 7200.0, 10800.0]
    caller.now += 3600
    assert len(await told(caller)) == 51
    found = await shown(caller, hook_id)
    assert (found["callback_errors"], found["suspended"]) == (0, False)


@pytest.mark.slow
async def test_suspended_hook_shows_in_the_summary_and_can_be_removed(caller: Caller) -> None:
    """The operator sees which hook rests and why; its owner may remove it, and its probes end with it."""
    hook_id = await hook(caller, "unconfirmed-tx")
    await fail(caller, 50)
    (hook_of_summary,) = (await caller.service.summary()).suspended_hooks
    assert (hook_of_summary.hook_id, hook_of_summary.errors) == (hook_id, 50)
    answer = await caller.client.delete(f"{HOOKS}/{hook_id}", headers=caller.key)
    assert answer.status_code == 204
    caller.now += 7200
    assert await told(caller) == []
    assert (await caller.service.summary()).suspended_hooks == ()


@pytest.mark.slow
async def test_owner_without_a_key_is_told_nothing_and_misses_nothing(caller: Caller) -> None:
    """Revoking the last key stops the probes of a suspended hook too; a new key lets them go on, and all is told."""
    hook_id = await hook(caller, "unconfirmed-tx")
    await fail(caller, 50)
    await caller.service.owners.revoke_keys("shop")
    await happen(caller, ONE)
    caller.now += 7200
    assert await told(caller) == []
    assert (await refused(caller, "GET", HOOKS))[0] == 401
    caller.key = {"X-API-Key": await caller.service.owners.create_key("shop")}
    assert (await shown(caller, hook_id))["suspended"] is True
    assert await told(caller) == []
    caller.now += 3600
    assert len(await told(caller)) == 51


async def test_hook_of_an_owner_without_a_key_keeps_queuing(caller: Caller) -> None:
    """While its owner has no key a hook is told nothing; with a new one it is told all of it, in order."""
    await hook(caller)
    await caller.service.owners.revoke_keys("shop")
    await happen(caller, ONE)
    header, *_ = await mine(caller, 2)
    await happen(caller, ONE, placed(header, TIP + 1))
    assert await told(caller) == []
    caller.key = {"X-API-Key": await caller.service.owners.create_key("shop")}
    assert [body["confirmations"] for body in await told(caller)] == [0, 1, 2]


async def test_links_in_webhooks_lead_to_the_public_url(open_with: OpenCaller) -> None:
    """A large payment's webhook links to the rest of it where the operator said under which name the API is called."""
    async with open_with(transactions_url="https://ipn.example/v1/btc/regtest/txs") as caller:
        await hook(caller, "unconfirmed-tx")
        wide = payment(1, spends=[Outpoint(txid_of(7), number) for number in range(25)])
        await happen(caller, wide)
        (found,) = await told(caller)
        assert found["next_inputs"].startswith(f"https://ipn.example/v1/btc/regtest/txs/{hex_of(wide.txid)}?")
