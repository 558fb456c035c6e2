"""What the callback dialect reads and writes."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.dialects.callback.wire import (
    LATEST_TIME,
    NO_TERMS,
    CallbackPayload,
    decode_payload,
    encode,
    encode_payload,
    mended_body,
    parse_expiration,
    state_of,
    subscription_json_of,
    time_text,
    truth_of,
)
from lightipn.errors import RequestError
from lightipn.outbox.subscriptions import SubscriptionState
from tests.builders import SEEN_AT, subscription_of, txid_of

MAY_2030 = 1_904_793_995  # 2030-05-12T05:26:35Z


# --- times -------------------------------------------------------------------------------------------------------


def test_times_are_printed_as_the_original_does() -> None:
    """A time is ISO 8601 in UTC, without a zone and without fractions of a second."""
    assert time_text(MAY_2030) == "2030-05-12T05:26:35"
    assert time_text(0) == "1970-01-01T00:00:00"
    assert time_text(LATEST_TIME) == "9999-12-31T23:59:59"


@pytest.mark.parametrize(
    "text",
    [
        "2030-05-12T05:26:35",
        "2030-05-12 05:26:35",
        " 2030-05-12T05:26:35 ",
        "2030-05-12T05:26:35Z",
        "2030-05-12T05:26:35+00:00",
        "2030-05-12T07:26:35+02:00",
        "2030-05-11T23:56:35-05:30",
        "2030-05-12T05:26:35.999",
        "2030-05-12T05:26:35.999999Z",
        "20300512T052635",
        "1904793995",
    ],
)
def test_expirations_in_every_spelling_are_the_same_second(text: str) -> None:
    """An expiration may be ISO 8601 (in UTC, or with an offset) or unix seconds."""
    assert parse_expiration(text) == MAY_2030


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("2030-05-12", 1_904_774_400),
        ("2030-05-12T05:26", 1_904_793_960),
        ("20300512", 1_904_774_400),  # a day, for as seconds it would lie in 1970
        ("9999-12-31T23:59:59", LATEST_TIME),
        (str(LATEST_TIME), LATEST_TIME),
    ],
)
def test_shorter_and_latest_expirations_are_read(text: str, unix_s: int) -> None:
    """A day, a minute, and the last second of the calendar are times too."""
    assert parse_expiration(text) == unix_s


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2030-13-01T00:00:00",
        "2030-02-30",
        "2030-05-12T25:00:00",
        "-1904793995",
        "1904793995.5",
        "1e9",
        "1904793995000000",
        str(LATEST_TIME + 1),
        "9" * 400,
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1969-12-31T23:59:59",
        "١٩٠٤٧٩٣٩٩٥",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """An expiration that cannot be read is refused, and the reason names the field and stays short."""
    with pytest.raises(RequestError) as caught:
        parse_expiration(text)
    assert (caught.value.code, caught.value.status_hint) == ("bad-expiration", 400)
    assert str(caught.value).startswith("expiration is ")
    assert len(str(caught.value)) < 400


@given(st.integers(100_000_000, LATEST_TIME))
@settings(deadline=None, max_examples=50)
def test_printed_times_read_back(unix_s: int) -> None:
    """What is printed reads back as the same second, as the unix seconds themselves do."""
    assert parse_expiration(time_text(unix_s)) == parse_expiration(str(unix_s)) == unix_s


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=50)
def test_no_text_makes_the_reader_fail(text: str) -> None:
    """Any text is a time within the calendar or a refusal."""
    with suppress(RequestError):
        assert 0 <= parse_expiration(text) <= LATEST_TIME


# --- states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("ready", SubscriptionState.ACTIVE),
        ("active", SubscriptionState.ACTIVE),
        ("canceled", SubscriptionState.CANCELED),
        ("cancelled", SubscriptionState.CANCELED),
        ("expired", SubscriptionState.EXPIRED),
        ("suspended", SubscriptionState.SUSPENDED),
    ],
)
def test_states_are_read_under_every_name(text: str, state: SubscriptionState) -> None:
    """The document's names, the original's, and both spellings of canceled name a state."""
    assert state_of(text) is state


@pytest.mark.parametrize("text", ["", "Active", "finished", "gone"])
def test_other_states_are_refused(text: str) -> None:
    """What is no state of this dialect is refused."""
    with pytest.raises(RequestError, match=r"state is .*, want active"):
        state_of(text)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (SubscriptionState.ACTIVE, "active"),
        (SubscriptionState.SUSPENDED, "suspended"),
        (SubscriptionState.CANCELED, "canceled"),
        (SubscriptionState.EXPIRED, "expired"),
    ],
)
def test_subscription_has_the_six_fields_of_the_document(state: SubscriptionState, shown: str) -> None:
    """A subscription is shown with the document's six fields, in its order."""
    subscription = replace(subscription_of(NO_TERMS, address="a", url="http://x/"), state=state, expires_at=MAY_2030)
    assert encode(subscription_json_of(subscription, now=SEEN_AT)) == (
        b'{"id":1,"address":"a","callback_url":"http://x/","created":"2023-11-14T22:13:20",'
        b'"expiration":"2030-05-12T05:26:35","state":"%s"}' % shown.encode()
    )


def test_expiry_shows_from_its_second_on() -> None:
    """A subscription is expired from the very second on, whoever has noticed; one that never expires has null."""
    subscription = replace(subscription_of(NO_TERMS), expires_at=MAY_2030)
    assert subscription_json_of(subscription, now=MAY_2030 - 0.1).state == "active"
    assert subscription_json_of(subscription, now=MAY_2030).state == "expired"
    assert subscription_json_of(replace(subscription, expires_at=None), now=MAY_2030).expiration is None
    canceled = replace(subscription, state=SubscriptionState.CANCELED)
    assert subscription_json_of(canceled, now=MAY_2030).state == "canceled"


# --- payloads ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 21 * 10**14), st.integers(0, 21 * 10**14))
@settings(deadline=None, max_examples=50)
def test_stored_payloads_read_back(received_sat: int, sent_sat: int) -> None:
    """A payload reads back as it was, money out included."""
    raw = encode_payload(
        txid_of(1),
        amount_sat=received_sat - sent_sat,
        received_sat=received_sat,
        sent_sat=sent_sat,
    )
    wanted = CallbackPayload(hex_of(txid_of(1)), received_sat - sent_sat, received_sat, sent_sat)
    assert decode_payload(raw) == wanted


# --- truth values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "truth"),
    [("true", True), ("True", True), ("TRUE", True), (" true ", True), ("1", True), ("false", False), ("0", False)],
)
def test_truth_values_are_read_in_every_spelling(text: str, truth: bool) -> None:
    """Clients write truth in capitals, as a digit, or as JSON does."""
    assert truth_of(text, "acknowledged") is truth


@pytest.mark.parametrize("text", ["", "yes", "2", "tru", "null", "x" * 500])
def test_what_is_no_truth_value_is_refused(text: str) -> None:
    """Anything else is refused with the name of the field."""
    with pytest.raises(RequestError, match=r"acknowledged is .{0,60}, want true or false"):
        truth_of(text, "acknowledged")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"acknowledged": True}',
        b"{'acknowledged': True}",
        b'\n    {\n        "acknowledged": True\n    }\n',
        b'{"acknowledged":True,}',
    ],
)
def test_body_that_the_document_prints_is_mended(raw: bytes) -> None:
    """The document prints ``True``, which is no JSON: exactly that body is read as it was meant."""
    assert mended_body(raw) == b'{"acknowledged": true}'


@pytest.mark.parametrize(
    "raw",
    [b"", b'{"acknowledged": true}', b'{"acknowledged": False}', b'{"acknowledged": True, "x": 1}', b"True", b"\xff"],
)
def test_other_bodies_stay_as_they_are(raw: bytes) -> None:
    """Nothing else is mended."""
    assert mended_body(raw) == raw
