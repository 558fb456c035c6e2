"""Messages as their owners see them: shown, listed, acknowledged from outside, and every call that was made."""

import pytest
import trio
from trio.testing import MockClock

from lightipn.errors import RequestError
from lightipn.outbox.messages import MessageState
from lightipn.outbox.verdict import Answer
from lightipn.service import callbacks as callbacks_module
from lightipn.service.callbacks import Callback
from lightipn.store import attempts, deliveries
from lightipn.store.attempts import Claim
from lightipn.store.callbacks import Call
from tests.builders import confirmed, entry_of
from tests.service.rig import URL, Tools
from tests.store.plain_dialect import POLICIES, payload_of
from tests.store.rows import NOW, TIP, claim, pay, regtest_address

SILENCE = Answer(status=None, body=b"", trouble="timeout", latency_ms=1.0)


def answer_of(body: bytes, status: int = 200) -> Answer:
    """Return what a receiver answers."""
    return Answer(status=status, body=body, trouble="", latency_ms=1.0)


async def claim_all(tools: Tools, *, now: float = NOW) -> list[Claim]:
    """Take what is due, as the dispatcher does."""
    return await tools.store.transact(lambda db: claim(db, now=now)[0])


async def finish(tools: Tools, one: Claim, answer: Answer, *, now: float = NOW) -> None:
    """Record what a receiver answered."""
    await tools.store.transact(lambda db: attempts.finish_attempt(db, POLICIES, one, answer, now=now, jitter=0.0))


async def attempt(tools: Tools, answer: Answer, *, now: float = NOW) -> None:
    """Tell everything that is due to a receiver that answers so."""
    for one in await claim_all(tools, now=now):
        await finish(tools, one, answer, now=now)


async def told(tools: Tools, number: int = 0, *, owner: str = "shop", url: str = URL, sat: int = 40) -> Callback:
    """Have an owner's address be paid, and return the owner's newest message."""
    await tools.subscribe(regtest_address(number), owner=owner, url=url)
    await tools.store.transact(lambda db: pay(db, number, entry_of(number, received_sat=sat, state=confirmed(TIP))))
    return (await page(tools, owner=owner))[-1]


async def page(
    tools: Tools,
    *,
    owner: str = "shop",
    dialect: str = "plain",
    subscription_id: int | None = None,
    is_acknowledged: bool | None = None,
    offset: int = 0,
    limit: int = 50,
) -> list[Callback]:
    """Return a page of an owner's messages."""
    return list(
        await tools.service.callbacks.page(
            owner=owner,
            dialect=dialect,
            subscription_id=subscription_id,
            is_acknowledged=is_acknowledged,
            offset=offset,
            limit=limit,
        )
    )


async def refusal_of(tools: Tools, message_id: str, *, owner: str = "shop", dialect: str = "plain") -> tuple[str, str]:
    """Ask for a message, and acknowledge it, where both are refused; return both reasons."""
    reasons = []
    for ask in (tools.service.callbacks.show, tools.service.callbacks.acknowledge):
        with pytest.raises(RequestError) as caught:
            await ask(message_id, owner=owner, dialect=dialect)
        reasons.append(f"{caught.value.status_hint} {caught.value.code}")
    return reasons[0], reasons[1]


async def pending(tools: Tools) -> list[str]:
    """Return the states of the messages that wait."""
    found = await tools.store.read(lambda db: deliveries.load_deliveries(db, limit=9, is_pending_only=True))
    return [delivery.state for delivery in found]


# --- looking -----------------------------------------------------------------------------------------------------


async def test_message_is_shown_with_its_subscription(tools: Tools) -> None:
    """An owner sees the message, whom it is for, and when it was sent last: never before the first attempt."""
    made = await told(tools)
    found = await tools.service.callbacks.show(made.message.message_id, owner="shop", dialect="plain")
    assert found == made
    assert (found.message.payload, found.message.state) == (payload_of(40, 0), MessageState.OPEN)
    assert (found.subscription.address, found.subscription.url) == (regtest_address(0).text, URL)
    assert found.last_tried_at is None
    await attempt(tools, SILENCE, now=NOW + 3)
    await attempt(tools, SILENCE, now=NOW + 60)
    again = await tools.service.callbacks.show(made.message.message_id, owner="shop", dialect="plain")
    assert (again.last_tried_at, again.message.tries) == (NOW + 60, 2)


async def test_message_of_somebody_else_is_not_there(tools: Tools) -> None:
    """Another owner's message, another dialect's, and one that never was are 404 alike, and stay as they are."""
    made = await told(tools)
    message_id = made.message.message_id
    not_there = ("404 not-found", "404 not-found")
    assert await refusal_of(tools, message_id, owner="other") == not_there
    assert await refusal_of(tools, message_id, dialect="fancy") == not_there
    for unknown in ("", "nonsense", message_id.upper(), "x" * 5000, "00000000-0000-4000-8000-000000000000"):
        assert await refusal_of(tools, unknown) == not_there
    assert await page(tools) == [made]
    assert await page(tools, owner="other") == await page(tools, dialect="fancy") == []


async def test_messages_are_listed_oldest_first_and_page_by_page(tools: Tools) -> None:
    """The pages of a list follow each other without a gap, oldest first, with the owner's own alone."""
    made = []
    for number in range(7):
        made.append(await told(tools, number))
        await told(tools, 100 + number, owner="other")
    assert await page(tools) == made
    assert [await page(tools, offset=at, limit=3) for at in (0, 3, 6, 9)] == [made[:3], made[3:6], made[6:], []]


async def test_messages_are_listed_by_subscription_and_by_acknowledgement(tools: Tools) -> None:
    """A list may be of one subscription, and of what was acknowledged or was not; another's subscription is empty."""
    first, second, third = [await told(tools, number) for number in range(3)]
    foreign = await told(tools, 9, owner="other")
    heard = await tools.service.callbacks.acknowledge(second.message.message_id, owner="shop", dialect="plain")
    assert await page(tools, is_acknowledged=True) == [heard]
    assert await page(tools, is_acknowledged=False) == [first, third]
    assert await page(tools, subscription_id=second.subscription.subscription_id) == [heard]
    assert await page(tools, subscription_id=second.subscription.subscription_id, is_acknowledged=False) == []
    assert await page(tools, subscription_id=foreign.subscription.subscription_id) == []


# --- acknowledging -----------------------------------------------------------------------------------------------


async def test_acknowledgement_ends_the_telling(tools: Tools, autojump_clock: MockClock) -> None:
    """What its owner acknowledged is told no more, whatever it waited for."""
    made = await told(tools)
    await attempt(tools, SILENCE)
    await trio.sleep(7)
    heard = await tools.service.callbacks.acknowledge(made.message.message_id, owner="shop", dialect="plain")
    assert heard == await tools.service.callbacks.show(made.message.message_id, owner="shop", dialect="plain")
    assert (heard.message.state, heard.message.acknowledged_at) == (MessageState.ACKNOWLEDGED, NOW + 7)
    assert (heard.message.due_at, heard.message.due_tip) == (None, None)
    assert await claim_all(tools, now=NOW + 99_999) == []
    assert await pending(tools) == []


async def test_second_acknowledgement_is_refused(tools: Tools, autojump_clock: MockClock) -> None:
    """A message is acknowledged once: again it is 403, and the first time stays."""
    made = await told(tools)
    heard = await tools.service.callbacks.acknowledge(made.message.message_id, owner="shop", dialect="plain")
    await trio.sleep(5)
    with pytest.raises(RequestError, match="already acknowledged") as caught:
        await tools.service.callbacks.acknowledge(made.message.message_id, owner="shop", dialect="plain")
    assert (caught.value.status_hint, caught.value.code) == (403, "already-acknowledged")
    assert await page(tools) == [heard]


async def test_callers_who_acknowledge_side_by_side(tools: Tools) -> None:
    """Of several who acknowledge the same message at a time exactly one succeeds."""
    made = await told(tools)
    answers: list[str] = []

    async def acknowledge() -> None:
        try:
            await tools.service.callbacks.acknowledge(made.message.message_id, owner="shop", dialect="plain")
            answers.append("done")
        except RequestError as error:
            answers.append(error.code)

    async with trio.open_nursery() as callers:
        for _ in range(5):
            callers.start_soon(acknowledge)
    assert sorted(answers) == ["already-acknowledged"] * 4 + ["done"]


@pytest.mark.parametrize(
    "answer", [SILENCE, answer_of(b"no"), answer_of(b"", 500)], ids=["silence", "200 without it", "500"]
)
async def test_acknowledgement_while_it_is_sent_holds(tools: Tools, answer: Answer) -> None:
    """A message that is acknowledged while it is on its way stays acknowledged, whatever that attempt comes to."""
    made = await told(tools)
    (under_way,) = await claim_all(tools)
    heard = await tools.service.callbacks.acknowledge(made.message.message_id, owner="shop", dialect="plain")
    await finish(tools, under_way, answer)
    (after,) = await page(tools)
    assert after.message.state is MessageState.ACKNOWLEDGED
    assert after.message.acknowledged_at == heard.message.acknowledged_at
    assert await claim_all(tools, now=NOW + 99_999) == []


async def test_receiver_that_acknowledged_by_its_answer_is_known(tools: Tools) -> None:
    """What an answer acknowledged needs no second acknowledgement, and gets none."""
    made = await told(tools)
    await attempt(tools, answer_of(made.message.payload))
    (found,) = await page(tools, is_acknowledged=True)
    assert found.message.acknowledged_at == NOW
    with pytest.raises(RequestError) as caught:
        await tools.service.callbacks.acknowledge(made.message.message_id, owner="shop", dialect="plain")
    assert caught.value.code == "already-acknowledged"


async def test_news_after_an_acknowledgement_are_told(tools: Tools) -> None:
    """A message whose contents change after it was acknowledged is open again, and can be acknowledged again."""
    made = await told(tools)
    message_id = made.message.message_id
    await tools.service.callbacks.acknowledge(message_id, owner="shop", dialect="plain")
    await tools.store.transact(lambda db: pay(db, 0, entry_of(77, received_sat=2, state=confirmed(TIP))))
    (again,) = await page(tools, is_acknowledged=False)
    assert (again.message.message_id, again.message.payload) == (message_id, payload_of(42, 0))
    heard = await tools.service.callbacks.acknowledge(message_id, owner="shop", dialect="plain")
    assert heard.message.state is MessageState.ACKNOWLEDGED


# --- calls -------------------------------------------------------------------------------------------------------


async def test_calls_are_those_of_one_url(tools: Tools) -> None:
    """The attempts for exactly one registered URL are told, oldest first, with what was answered."""
    await told(tools, 0)
    await told(tools, 1, url=URL + "/")
    await told(tools, 2, owner="other")
    await attempt(tools, answer_of(b"no", 404), now=NOW + 1)
    await attempt(tools, SILENCE, now=NOW + 100)
    assert await calls(tools) == [
        Call(url=URL, called_at=NOW + 1, answer=b"no", status=404),
        Call(url=URL, called_at=NOW + 100, answer=b"", status=None),
    ]
    assert [call.url for call in await calls(tools, url=URL + "/")] == [URL + "/"] * 2
    for url in ("", URL.upper(), URL + "?", URL[:-1]):
        assert await calls(tools, url=url) == []
    assert await tools.service.callbacks.calls(URL, owner="shop", dialect="fancy") == []
    assert len(await tools.service.callbacks.calls(URL, owner="other", dialect="plain")) == 2


async def calls(tools: Tools, *, url: str = URL) -> list[Call]:
    """Return the shop's calls of a URL."""
    return list(await tools.service.callbacks.calls(url, owner="shop", dialect="plain"))


async def test_call_under_way_is_not_told_yet(tools: Tools) -> None:
    """An attempt shows once it has ended; one that a crash cut short shows without an answer."""
    await told(tools)
    await claim_all(tools)
    assert await calls(tools) == []
    await tools.store.transact(attempts.recover_interrupted)
    assert await calls(tools) == [Call(url=URL, called_at=NOW, answer=b"", status=None)]


async def test_calls_are_limited_to_the_newest(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many calls the newest are told, still oldest first."""
    monkeypatch.setattr(callbacks_module, "MOST_CALLS_SHOWN", 3)
    await told(tools)
    for number in range(5):
        await attempt(tools, SILENCE, now=NOW + 5000 * number)
    assert [call.called_at for call in await calls(tools)] == [NOW + 10_000, NOW + 15_000, NOW + 20_000]
