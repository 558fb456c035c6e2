"""What an IPN subscriber must hear, what counts as heard, and when to try again."""

from dataclasses import replace

import pytest

from lightipn.dialects.ipn.policy import DEFAULT_CONFIRMS, MAX_CONFIRMS, IpnPolicy
from lightipn.dialects.ipn.wire import IpnTerms, Totals, encode_payload, encode_terms
from lightipn.ledger.entries import LedgerEntry, Replaced
from lightipn.outbox.messages import NextTry, OutgoingRequest
from lightipn.outbox.policy import Moment, Notice, Policy, Review
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer, Outcome
from tests.builders import confirmed, entry_of, message_of, payments_of, subscription_of, txid_of

POLICY = IpnPolicy(max_retry_interval_s=3600)
ADDRESS = "bcrt1qaddress"
URL = "https://shop.example/ipn?order=7"
TIP = 1000
MOMENT = Moment(now=1_700_000_000.0, tip_height=TIP, confirmations=0, last_tried_at=None)


def subscription(max_confirms: int = 3) -> Subscription:
    """Return a subscription that asks for this depth."""
    return subscription_of(encode_terms(IpnTerms(max_confirms=max_confirms)), address=ADDRESS, url=URL)


def payload(confirmed_sat: int, unconfirmed_sat: int) -> bytes:
    """Return the payload that tells these totals."""
    return encode_payload(Totals(address=ADDRESS, confirmed_sat=confirmed_sat, unconfirmed_sat=unconfirmed_sat))


def review(*entries: LedgerEntry, tip_height: int = TIP, max_confirms: int = 3) -> Review:
    """Review a subscription to these payments."""
    found = payments_of(*entries)
    return POLICY.review(subscription(max_confirms), found, told={}, tip_height=tip_height, now=MOMENT.now)


def totals_told(confirmed_sat: int, unconfirmed_sat: int, *, wake_height: int | None = None) -> Review:
    """Return a review that tells these totals: one message a subscription, about no payment in particular."""
    notice = Notice(topic="", payload=payload(confirmed_sat, unconfirmed_sat), txid=None)
    return Review(notices=(notice,), wake_height=wake_height, is_over=False, awaits_more=True)


def next_try(policy: IpnPolicy, tries: int, *, jitter: float) -> NextTry:
    """Return when a message is told again after so many tries, the last of which found nobody."""
    answer = Answer(status=None, body=b"", trouble="timeout", latency_ms=1.0)
    return policy.next_try(replace(message_of(payload(1, 0)), tries=tries), answer, jitter=jitter)


def test_policy_is_one_of_the_outbox() -> None:
    """The IPN policy decides everything that the outbox asks of a dialect."""
    policy: Policy = POLICY
    wanted = {name for name in vars(Policy) if not name.startswith("_")}
    assert wanted == {"review", "depth_of", "baseline_of", "request_of", "outcome_of", "next_try"}
    assert all(callable(getattr(policy, name)) for name in wanted)


def test_depths_are_those_of_the_original_service() -> None:
    """Three confirmations are asked for by default, and a thousand at most."""
    assert (DEFAULT_CONFIRMS, MAX_CONFIRMS) == (3, 1000)


# --- what must be heard ------------------------------------------------------------------------------------------


def test_baseline_is_nothing_received() -> None:
    """Before anything was told, the shop knows of zero: an address without payments is not worth a message."""
    assert POLICY.baseline_of(subscription()) == payload(0, 0)
    assert review() == totals_told(0, 0)


@pytest.mark.parametrize(
    ("max_confirms", "expected"),
    [
        pytest.param(1, totals_told(60, 5), id="1"),
        pytest.param(2, totals_told(40, 25, wake_height=TIP + 1), id="2"),
        pytest.param(3, totals_told(40, 25, wake_height=TIP + 2), id="3"),
        pytest.param(4, totals_told(0, 65, wake_height=TIP + 1), id="4"),
    ],
)
def test_totals_are_told_at_the_depth_the_subscriber_asked_for(max_confirms: int, expected: Review) -> None:
    """Each subscription sees its own split, and is woken at the height at which that changes."""
    entries = [
        entry_of(1, received_sat=40, state=confirmed(TIP - 2)),
        entry_of(2, received_sat=20, state=confirmed(TIP)),
        entry_of(3, received_sat=5),
    ]
    assert review(*entries, max_confirms=max_confirms) == expected


def test_gone_payments_and_change_are_not_told() -> None:
    """A replaced payment and change to the same address are in no total."""
    entries = [
        entry_of(1, received_sat=40, state=Replaced(txid_of(2))),
        entry_of(2, received_sat=39),
        entry_of(3, received_sat=10, sent_sat=39),
    ]
    assert review(*entries) == totals_told(0, 39)


@pytest.mark.parametrize("max_confirms", [1, 3, 1000])
def test_past_is_counted_at_the_depth_the_subscriber_asked_for(max_confirms: int) -> None:
    """The depth of a subscription is the one that it was made with."""
    assert POLICY.depth_of(subscription(max_confirms)) == max_confirms


# --- the request -------------------------------------------------------------------------------------------------


def test_request_is_a_form_post_to_the_subscribed_url() -> None:
    """The totals are posted as a form, to the URL exactly as it was registered, with the message's id."""
    message = replace(message_of(payload(1, 0)), message_id="abc")
    assert POLICY.request_of(subscription(), message, MOMENT) == OutgoingRequest(
        method="POST",
        url=URL,
        headers={"Content-Type": "application/x-www-form-urlencoded", "X-IPN-Id": "abc"},
        body=f"address={ADDRESS}&confirmed=0.00000001&unconfirmed=0.0".encode(),
    )


def test_token_of_the_service_goes_with_every_request() -> None:
    """With a token configured, the shop can tell who calls; without one there is no such header."""
    policy = IpnPolicy(max_retry_interval_s=3600, auth_token="secret")
    message = message_of(payload(1, 0))
    assert policy.request_of(subscription(), message, MOMENT).headers["IPN-Auth1"] == "secret"
    assert "IPN-Auth1" not in POLICY.request_of(subscription(), message, MOMENT).headers


# --- what counts as heard ----------------------------------------------------------------------------------------

ECHO = f'{{"address": "{ADDRESS}", "confirmed": "0.00000001", "unconfirmed": 0}}'.encode()
OLDER = f'{{"address": "{ADDRESS}", "confirmed": 0, "unconfirmed": "0.00000001"}}'.encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        pytest.param(200, ECHO, Outcome.ACKNOWLEDGED, id="200 with the echo"),
        pytest.param(202, ECHO, Outcome.ACKNOWLEDGED, id="202 with the echo"),
        pytest.param(200, OLDER, Outcome.NOT_ACKNOWLEDGED, id="200 with older values"),
        pytest.param(200, b"success", Outcome.NOT_ACKNOWLEDGED, id="200 with a word"),
        pytest.param(204, b"", Outcome.NOT_ACKNOWLEDGED, id="204"),
        pytest.param(301, ECHO, Outcome.FAILED, id="301 with the echo"),
        pytest.param(404, ECHO, Outcome.FAILED, id="404 with the echo"),
        pytest.param(500, ECHO, Outcome.FAILED, id="500 with the echo"),
        pytest.param(None, b"", Outcome.FAILED, id="no answer"),
    ],
)
def test_only_a_2xx_with_the_echo_acknowledges(status: int | None, body: bytes, outcome: Outcome) -> None:
    """A 2xx with the values that were sent acknowledges; another 2xx is asked again; all else is the shop's failure."""
    answer = Answer(status=status, body=body, trouble="" if status else "timeout", latency_ms=1.0)
    assert POLICY.outcome_of(payload(1, 0), answer) is outcome


# --- when to try again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tries", "pause_s"), [(1, 5), (2, 10), (3, 20), (10, 2560), (11, 3600), (1000, 3600)])
def test_pauses_double_from_five_seconds_to_the_configured_limit(tries: int, pause_s: float) -> None:
    """The first retry comes after five seconds, and pauses double up to the limit, for ever."""
    assert next_try(POLICY, tries, jitter=0.0) == NextTry(after_s=pause_s, with_next_tip=False)
    late_s = next_try(POLICY, tries, jitter=0.99).after_s
    assert late_s is not None
    assert pause_s <= late_s <= min(pause_s * 1.1, 3600)


def test_message_whose_totals_changed_meanwhile_starts_again() -> None:
    """Where the contents changed while an attempt was under way no try counts yet: the pause is the first one."""
    assert next_try(POLICY, 0, jitter=0.0) == NextTry(after_s=5.0)


def test_limit_below_the_first_pause_holds() -> None:
    """An operator who allows one second at most is obeyed from the first retry on."""
    assert next_try(IpnPolicy(max_retry_interval_s=1), 1, jitter=0.5) == NextTry(after_s=1.0)
