"""Which payments and blocks the receive dialect tells, what ends the telling, and when it is repeated."""

from collections.abc import Collection
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import REGTEST
from lightipn.dialects.receive.policy import FIRST_RETRY_S, LONGEST_RETRY_S, MOST_CALLS, ReceivePolicy
from lightipn.dialects.receive.wire import (
    AddressTerms,
    BalanceTerms,
    BlockTerms,
    OnNotification,
    Operation,
    Terms,
    encode_block,
    encode_payment,
    encode_terms,
)
from lightipn.ledger.entries import Dropped, LedgerEntry, Replaced
from lightipn.outbox.messages import MessageState, NextTry, OutgoingRequest
from lightipn.outbox.policy import Block, BlockPolicy, BlockWish, Moment, Notice, Review
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome
from tests.builders import (
    SEEN_AT,
    confirmed,
    entry_of,
    genesis_of,
    message_of,
    payments_of,
    subscription_of,
    txid_of,
)

POLICY = ReceivePolicy()
URL = "https://mystore.example?invoice_id=058921123"
TIP = 1000
SINCE = TIP - 20
NOW = 1_700_000_000.5
GIVEN = AddressTerms()
BLOCK = Block(height=TIP, header=genesis_of(REGTEST))


def subscription(terms: Terms = GIVEN) -> Subscription:
    """Return a subscription with these terms, made twenty blocks ago."""
    made = subscription_of(encode_terms(terms), address="bcrt1qaddress", url=URL)
    return replace(made, dialect="receive", since_height=SINCE)


def balance(
    op: Operation = Operation.ALL, confirmations: int = 3, on_notification: OnNotification = OnNotification.KEEP
) -> BalanceTerms:
    """Return the terms of a balance update."""
    return BalanceTerms(op=op, confirmations=confirmations, on_notification=on_notification)


DELETE = balance(on_notification=OnNotification.DELETE)


def review(
    *entries: LedgerEntry,
    terms: Terms = GIVEN,
    told: Collection[Notice] = (),
    heard: Collection[Notice] = (),
    tip_height: int = TIP,
) -> Review:
    """Review a subscription to these payments; ``heard`` was acknowledged, ``told`` is open."""
    states = {notice.topic: MessageState.OPEN for notice in told}
    states |= {notice.topic: MessageState.ACKNOWLEDGED for notice in heard}
    return POLICY.review(subscription(terms), payments_of(*entries), told=states, tip_height=tip_height, now=NOW)


def notice_of(entry: LedgerEntry, moment: str = "") -> Notice:
    """Return what is told of a payment; a balance update at ``seen`` and at ``deep``."""
    topic = hex_of(entry.txid) + (f":{moment}" if moment else "")
    return Notice(topic=topic, payload=encode_payment(entry.txid, value_sat=entry.net_sat), txid=entry.txid)


def test_policy_is_one_of_the_outbox_for_payments_and_blocks() -> None:
    """The receive policy decides everything that the outbox asks of a dialect that tells blocks too."""
    policy: BlockPolicy = POLICY
    assert isinstance(policy, BlockPolicy)


# --- addresses that were given away ------------------------------------------------------------------------------


def test_payment_to_a_given_address_is_told_from_the_mempool_on() -> None:
    """Each payment is one notice, whatever its depth; no block alone changes that."""
    entries = [entry_of(1), entry_of(2, state=confirmed(TIP)), entry_of(3, state=confirmed(SINCE + 1))]
    found = review(*entries)
    assert found.notices == tuple(notice_of(entry) for entry in entries)
    assert found.wake_height is None


def test_a_later_payment_is_a_notice_of_its_own() -> None:
    """A later payment to the same address is told beside the first one, which was heard."""
    first, second = entry_of(1, state=confirmed(TIP)), entry_of(2)
    assert review(first, second, told=[notice_of(first)]).notices == (notice_of(first), notice_of(second))


def test_money_out_of_a_given_address_is_not_told() -> None:
    """Coins that leave the address are no payment; a payment that spends from it too counts net."""
    gone, net = entry_of(1, received_sat=0, sent_sat=5), entry_of(2, received_sat=90, sent_sat=20)
    (found,) = review(gone, net, entry_of(3, received_sat=7, sent_sat=7)).notices
    assert found == Notice(topic=hex_of(net.txid), payload=encode_payment(net.txid, value_sat=70), txid=net.txid)


@pytest.mark.parametrize("terms", [GIVEN, balance(), DELETE], ids=["address", "keep", "delete"])
def test_gone_payments_and_those_before_the_subscription_are_not_told(terms: Terms) -> None:
    """A replaced or dropped payment, and one from before, is no notice; a message about it is withdrawn."""
    entries = [
        entry_of(1, state=Replaced(txid_of(9))),
        entry_of(2, state=Dropped()),
        entry_of(3, state=confirmed(SINCE - 5)),
        entry_of(4, state=confirmed(TIP - 5), is_coinbase=False, received_sat=1, sent_sat=1),
    ]
    assert review(*entries, terms=terms).notices == ()


def test_reorg_changes_no_notice_of_a_given_address() -> None:
    """A payment that loses its block, and finds another one, is the same notice: what was heard stays heard."""
    notices = {review(entry_of(1, state=state)).notices for state in (confirmed(TIP), None, confirmed(TIP, branch=1))}
    assert notices == {(notice_of(entry_of(1)),)}


# --- balance updates ---------------------------------------------------------------------------------------------


def test_balance_update_is_told_when_seen_and_when_deep() -> None:
    """A payment is told when it is seen, and again at the asked depth, at whose height the subscription is woken."""
    states = [None, confirmed(TIP), confirmed(TIP - 1), confirmed(TIP - 2), confirmed(TIP - 3)]
    found = [review(entry_of(1, state=state), terms=balance()) for state in states]
    seen, deep = (notice_of(entry_of(1), "seen"),), (notice_of(entry_of(1), "deep"),)
    assert [one.notices for one in found] == [seen, seen, seen, deep, deep]
    assert [one.wake_height for one in found] == [None, TIP + 2, TIP + 1, None, None]
    assert [one.is_over for one in found] == [False] * 5


@pytest.mark.parametrize("confirmations", [0, 1])
def test_balance_update_at_the_lowest_depths(confirmations: int) -> None:
    """At ``confs`` 0 being seen is all: one notice; at 1 the first block brings the second one."""
    entry, mined = entry_of(1), entry_of(1, state=confirmed(TIP))
    terms = balance(confirmations=confirmations)
    moment = "seen" if confirmations else "deep"
    assert review(entry, terms=terms).notices == (notice_of(entry, moment),)
    assert review(mined, terms=terms).notices == (notice_of(mined, "deep"),)


@pytest.mark.parametrize(
    ("op", "numbers"), [(Operation.RECEIVE, [1, 3]), (Operation.SPEND, [2, 4]), (Operation.ALL, [1, 2, 3, 4])]
)
def test_operation_chooses_by_the_sign_of_the_net(op: Operation, numbers: list[int]) -> None:
    """Money in, money out, or both; with the address on both sides the net decides, and money out is negative."""
    entries = {
        1: entry_of(1, received_sat=10),
        2: entry_of(2, received_sat=0, sent_sat=10),
        3: entry_of(3, received_sat=10, sent_sat=4),
        4: entry_of(4, received_sat=4, sent_sat=10),
        5: entry_of(5, received_sat=4, sent_sat=4),
    }
    values = {1: 10, 2: -10, 3: 6, 4: -6}
    found = review(*entries.values(), terms=balance(op)).notices
    assert [notice.payload for notice in found] == [
        encode_payment(txid_of(number), value_sat=values[number]) for number in numbers
    ]


OVER = Review(notices=(), wake_height=None, is_over=True, awaits_more=False)


def test_delete_tells_the_first_deep_payment_alone_and_ends_when_that_is_heard() -> None:
    """With ``DELETE`` the first payment that is deep enough is the last notice; the request ends with its ``*ok*``."""
    early, late = entry_of(1, state=confirmed(TIP - 2)), entry_of(2, state=confirmed(TIP - 1))
    waiting = review(late, entry_of(3), terms=DELETE)
    assert waiting.notices == (notice_of(late, "seen"), notice_of(entry_of(3), "seen"))
    assert (waiting.wake_height, waiting.is_over) == (TIP + 1, False)
    for told in ([], [notice_of(early, "deep")]):
        found = review(late, early, terms=DELETE, told=told, tip_height=TIP + 9)
        assert (found.notices, found.wake_height, found.is_over) == ((notice_of(early, "deep"),), None, False)
    assert review(late, early, terms=DELETE, heard=[notice_of(early, "deep")]) == OVER


def test_delete_that_was_told_a_thousand_times_is_over() -> None:
    """With ``DELETE`` a notice that nobody ever heard is the last one all the same."""
    entry = entry_of(1, state=confirmed(TIP - 2))
    dead = {notice_of(entry, "deep").topic: MessageState.DEAD}
    assert POLICY.review(subscription(DELETE), payments_of(entry), told=dead, tip_height=TIP, now=NOW) == OVER


def test_of_payments_that_are_deep_together_the_lowest_one_ends_a_delete() -> None:
    """Where one tip makes several payments deep enough, the one in the lowest block is told."""
    entries = [entry_of(1, state=confirmed(TIP - 5)), entry_of(2, state=confirmed(TIP - 6)), entry_of(3)]
    assert review(*entries, terms=DELETE).notices == (notice_of(entries[1], "deep"),)


def test_delete_at_zero_confirmations_ends_with_the_first_payment() -> None:
    """With ``DELETE`` and ``confs`` 0 the first payment that is seen is the only notice."""
    terms = balance(confirmations=0, on_notification=OnNotification.DELETE)
    first, second = entry_of(1), replace(entry_of(2), seen_at=SEEN_AT + 1)
    assert review(second, first, terms=terms).notices == (notice_of(first, "deep"),)
    assert review(second, first, terms=terms, heard=[notice_of(first, "deep")]) == OVER


def test_delete_whose_payment_is_gone_before_it_was_heard_tells_the_next_one() -> None:
    """With ``DELETE`` a payment that is replaced before ``*ok*`` does not end the request: the next one does."""
    gone, other = entry_of(1, state=Replaced(txid_of(9))), entry_of(2, state=confirmed(TIP - 2))
    assert review(gone, other, terms=DELETE, told=[notice_of(gone, "deep")]).notices == (notice_of(other, "deep"),)


def test_reorg_does_not_make_a_delete_tell_another_payment() -> None:
    """With ``DELETE`` the payment that was chosen stays so when a reorg takes it back; once heard, all is over."""
    told, other = entry_of(1), entry_of(2, state=confirmed(TIP - 5))
    assert review(told, other, terms=DELETE, told=[notice_of(told, "deep")]).notices == (notice_of(told, "deep"),)
    assert review(told, other, terms=DELETE, heard=[notice_of(told, "deep")]) == OVER


def test_keep_does_not_go_back_to_the_first_moment_after_the_second() -> None:
    """Once a payment was told at its depth, a reorg that takes it back tells nobody that it was merely seen."""
    for state in (None, confirmed(TIP)):
        entry = entry_of(1, state=state)
        told = [notice_of(entry, "seen"), notice_of(entry, "deep")]
        for before in (told, told[1:]):
            found = review(entry, terms=balance(), told=before)
            assert notice_of(entry, "seen") not in found.notices


# --- blocks ------------------------------------------------------------------------------------------------------


def test_terms_say_at_which_depth_a_block_is_told_and_whether_it_is_the_only_one() -> None:
    """A block notification has its depth, and ends with the first block where it says ``DELETE``."""
    for on_notification, is_once in ((OnNotification.KEEP, False), (OnNotification.DELETE, True)):
        wish = POLICY.block_wish_of(subscription(BlockTerms(TIP, 6, on_notification)))
        assert wish == BlockWish(confirmations=6, is_once=is_once)


# --- the request -------------------------------------------------------------------------------------------------


def request_for(payload: bytes, *, confirmations: int, tip_height: int = TIP) -> OutgoingRequest:
    """Render an attempt."""
    moment = Moment(now=SEEN_AT, tip_height=tip_height, confirmations=confirmations, last_tried_at=None)
    return POLICY.request_of(subscription(), message_of(payload), moment)


def test_payment_is_told_by_a_get_with_its_newest_confirmations() -> None:
    """The call is a GET of the registered URL with four parameters behind its own."""
    request = request_for(encode_payment(txid_of(1), value_sat=-70), confirmations=5)
    assert (request.method, request.headers, request.body) == ("GET", {}, b"")
    assert request.url == (
        f"{URL}&transaction_hash={hex_of(txid_of(1))}&address=bcrt1qaddress&confirmations=5&value=-70"
    )


def test_block_is_told_by_a_get_with_its_newest_confirmations() -> None:
    """Five parameters tell a block; how deep it is follows from our tip."""
    request = request_for(POLICY.block_payload_of(BLOCK), confirmations=0, tip_height=TIP + 4)
    assert parse_qsl(urlsplit(request.url).query) == [
        ("invoice_id", "058921123"),
        ("hash", hex_of(BLOCK.header.block_hash)),
        ("confirmations", "5"),
        ("height", str(TIP)),
        ("timestamp", str(BLOCK.header.time)),
        ("size", "0"),
    ]
    assert POLICY.block_payload_of(BLOCK) == encode_block(BLOCK)


# --- what acknowledges, and when it is told again ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        pytest.param(200, b"*ok*", Outcome.ACKNOWLEDGED, id="200 ok"),
        pytest.param(202, b" *ok*\r\n", Outcome.ACKNOWLEDGED, id="202 ok"),
        pytest.param(200, b"ok", Outcome.NOT_ACKNOWLEDGED, id="200 without asterisks"),
        pytest.param(200, b"", Outcome.NOT_ACKNOWLEDGED, id="200 empty"),
        pytest.param(204, b"", Outcome.NOT_ACKNOWLEDGED, id="204"),
        pytest.param(302, b"*ok*", Outcome.FAILED, id="302 ok"),
        pytest.param(404, b"*ok*", Outcome.FAILED, id="404 ok"),
        pytest.param(500, b"*ok*", Outcome.FAILED, id="500 ok"),
        pytest.param(None, b"", Outcome.FAILED, id="no answer"),
    ],
)
def test_only_a_2xx_with_ok_acknowledges(status: int | None, body: bytes, outcome: Outcome) -> None:
    """``*ok*`` with a 2xx acknowledges; another 2xx is normal and asked again; all else is the shop's failure."""
    answer = Answer(status=status, body=body, trouble="" if status else "timeout", latency_ms=1.0)
    assert POLICY.outcome_of(b"{}", answer) is outcome


ANSWERED = Answer(status=200, body=b"waiting", trouble="", latency_ms=1.0)
SILENCE = Answer(status=None, body=b"", trouble="timeout", latency_ms=1.0)


@pytest.mark.parametrize("status", [200, 204, 302, 404, 500])
def test_answered_call_is_repeated_with_the_next_tip_alone(status: int) -> None:
    """Whatever a receiver answers but ``*ok*``, it is called again with the next tip, and not before."""
    answer = replace(ANSWERED, status=status)
    assert POLICY.next_try(message_of(b"{}", tips=1), answer, jitter=0.5) == NextTry(with_next_tip=True)


@pytest.mark.parametrize(("failures", "pause_s"), [(0, 15), (1, 30), (2, 60), (5, 480), (6, 600), (10_000, 600)])
def test_unanswered_call_is_repeated_between_two_blocks(failures: int, pause_s: float) -> None:
    """Where no answer came it is tried again soon, ever more slowly, and with the next tip at the latest."""
    message = message_of(b"{}", failures=failures, tips=1)
    assert POLICY.next_try(message, SILENCE, jitter=0.0) == NextTry(after_s=pause_s, with_next_tip=True)
    assert (FIRST_RETRY_S, LONGEST_RETRY_S) == (15, 600)


@pytest.mark.parametrize("answer", [ANSWERED, SILENCE])
def test_a_thousand_tips_are_the_end(answer: Answer) -> None:
    """After the call at the thousandth tip there is none."""
    assert MOST_CALLS == 1000
    assert POLICY.next_try(message_of(b"{}", tips=999), answer, jitter=0.0).with_next_tip
    assert POLICY.next_try(message_of(b"{}", tips=1000), answer, jitter=0.0) == NextTry()


def test_nothing_counts_as_known_before() -> None:
    """Every notice is news: the baseline equals none of them."""
    assert POLICY.baseline_of(subscription()) not in (notice_of(entry_of(1)).payload, encode_block(BLOCK))
