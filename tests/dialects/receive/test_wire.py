"""What the receive dialect reads and writes."""

from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.network import REGTEST
from lightipn.dialects.receive.wire import (
    AddressJson,
    AddressTerms,
    BalanceJson,
    BalanceTerms,
    BlockJson,
    BlockTerms,
    CallJson,
    DeletedJson,
    GapJson,
    OnNotification,
    Operation,
    Terms,
    decode_terms,
    encode_block,
    encode_payment,
    encode_terms,
    error_json_of,
    is_acknowledgement,
    time_text,
    url_of,
)
from lightipn.errors import RequestError
from lightipn.outbox.policy import Block
from tests.builders import genesis_of, subscription_of, txid_of

ADDRESS = "bcrt1qaddress"
PAYMENT = encode_payment(txid_of(1), value_sat=100_000)
HEADER = genesis_of(REGTEST)
BLOCK = encode_block(Block(height=500_000, header=HEADER))
TOLD = f"transaction_hash={hex_of(txid_of(1))}&address={ADDRESS}&confirmations=2&value=100000"


def called(url: str, payload: bytes = PAYMENT, *, confirmations: int = 2, tip_height: int = 500_002) -> str:
    """Return the URL of a call for a registered one."""
    subscription = subscription_of(b"{}", address=ADDRESS, url=url)
    return url_of(subscription, payload, confirmations=confirmations, tip_height=tip_height)


# --- the URL of a call -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "joint"),
    [
        pytest.param("https://mystore.com", "?", id="bare host"),
        pytest.param("https://mystore.com/", "?", id="slash"),
        pytest.param("https://mystore.com?invoice_id=058921123", "&", id="query without a path"),
        pytest.param("https://mystore.com/ipn?secret=ZzsMLGKe162CfA5EcG6j&invoice_id=1", "&", id="two fields"),
        pytest.param("https://mystore.com/ipn?a=1&", "", id="ends in an ampersand"),
        pytest.param("http://127.0.0.1:8080/a%20b?x=%2F%3f&x=2&empty=&flag", "&", id="escapes, repeats, no values"),
        pytest.param("https://mystore.com/ipn?value=7&address=mine", "&", id="names that are ours too"),
        pytest.param("https://mystore.com/a;b?c=d;e=f+g", "&", id="semicolons and plus"),
        pytest.param("HTTPS://MyStore.com/IPN", "?", id="capitals"),
    ],
)
def test_parameters_are_appended_to_the_url_as_it_was_registered(url: str, joint: str) -> None:
    """The registered URL stands before the parameters, sign by sign, with its query in order."""
    text = called(url)
    assert text.lower() == f"{url}{joint}{TOLD}".lower()
    assert text.partition("://")[2] == f"{url}{joint}{TOLD}".partition("://")[2]


def test_empty_query_gets_the_parameters() -> None:
    """A URL that ends in a question mark gets no second one."""
    assert called("https://mystore.com/ipn?") == f"https://mystore.com/ipn?{TOLD}"


def test_money_out_is_negative() -> None:
    """The value is net, and negative where the address paid."""
    text = called("https://mystore.com/", encode_payment(txid_of(1), value_sat=-123))
    assert parse_qsl(urlsplit(text).query)[-1] == ("value", "-123")


@pytest.mark.parametrize(("tip_height", "shown"), [(500_000, "1"), (500_002, "3"), (499_999, "0"), (400_000, "0")])
def test_block_says_how_deep_it_is(tip_height: int, shown: str) -> None:
    """A block's confirmations count from our tip; one above a shorter chain has none."""
    fields = parse_qsl(
        urlsplit(called("https://mystore.com/block?request_id=1234", BLOCK, tip_height=tip_height)).query
    )
    assert fields == [
        ("request_id", "1234"),
        ("hash", hex_of(HEADER.block_hash)),
        ("confirmations", shown),
        ("height", "500000"),
        ("timestamp", str(HEADER.time)),
        ("size", "0"),
    ]


@given(
    st.lists(st.tuples(st.text("abc-_", min_size=1, max_size=5), st.text("xyz019%", max_size=5)), max_size=4),
    st.integers(-(21 * 10**14), 21 * 10**14),
)
@settings(deadline=None, max_examples=50)
def test_receiver_reads_its_own_fields_first_and_then_ours(fields: list[tuple[str, str]], value_sat: int) -> None:
    """Whatever the registered query holds, a receiver finds it in front, and the payment's four fields behind it."""
    query = "&".join(f"{name}={value}" for name, value in fields)
    text = called(f"https://mystore.com/?{query}", encode_payment(txid_of(2), value_sat=value_sat))
    assert text.startswith(f"https://mystore.com/?{query}")
    assert parse_qsl(urlsplit(text).query)[-4:] == [
        ("transaction_hash", hex_of(txid_of(2))),
        ("address", ADDRESS),
        ("confirmations", "2"),
        ("value", str(value_sat)),
    ]


# --- the acknowledgement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"*ok*", b"*ok*\n", b"\r\n\t *ok* ", b"\xef\xbb\xbf*ok*", b"\xef\xbb\xbf\n*ok*\n"])
def test_ok_between_white_space_acknowledges(body: bytes) -> None:
    """``*ok*`` is heard with white space around it, and behind the mark that editors put before a PHP file."""
    assert is_acknowledgement(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ok",
        b"*OK*",
        b"* ok *",
        b"*ok",
        b"ok*",
        b"**ok**",
        b'"*ok*"',
        b"<html>*ok*</html>",
        b"*ok**ok*",
        b"*ok* thanks",
        b"*not ok*",
        b"*bad*",
        b"\x00*ok*",
        b"\xff\xfe*\x00o\x00k\x00*\x00",
    ],
)
def test_everything_else_does_not(body: bytes) -> None:
    """Without both asterisks, in capitals, or with anything beside it, it is no acknowledgement."""
    assert not is_acknowledgement(body)


# --- terms and times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms",
    [
        AddressTerms(),
        BalanceTerms(op=Operation.SPEND, confirmations=5, on_notification=OnNotification.DELETE),
        BlockTerms(height=500_000, confirmations=1, on_notification=OnNotification.KEEP),
    ],
    ids=["address", "balance", "block"],
)
def test_stored_terms_read_back(terms: Terms) -> None:
    """Each kind of terms reads back as it was, and equal terms are equal bytes."""
    assert decode_terms(encode_terms(terms)) == terms
    assert encode_terms(decode_terms(encode_terms(terms))) == encode_terms(terms)


def test_calls_are_dated_as_the_document_does() -> None:
    """A time is ISO 8601 in UTC with ``Z``, without fractions of a second."""
    assert time_text(1_445_467_427.9) == "2015-10-21T22:43:47Z"


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            AddressJson(address="a", index=23, callback="https://mystore.com?invoice_id=058921123"),
            '{"address":"a","index":23,"callback":"https://mystore.com?invoice_id=058921123"}',
        ),
        (GapJson(gap=2), '{"gap":2}'),
        (DeletedJson(), '{"deleted":true}'),
        (
            BalanceJson(id=70, addr="a", op="RECEIVE", confs=5, callback="u", onNotification="KEEP"),
            '{"id":70,"addr":"a","op":"RECEIVE","confs":5,"callback":"u","onNotification":"KEEP"}',
        ),
        (
            BlockJson(id=64, height=500_000, callback="u", confs=1, onNotification="DELETE"),
            '{"id":64,"height":500000,"callback":"u","confs":1,"onNotification":"DELETE"}',
        ),
        (
            CallJson(callback="u", called_at="2015-10-21T22:43:47Z", raw_response="*bad*", response_code=200),
            '{"callback":"u","called_at":"2015-10-21T22:43:47Z","raw_response":"*bad*","response_code":200}',
        ),
    ],
)
def test_answers_have_the_fields_of_the_document_in_its_order(answer: object, text: str) -> None:
    """Each answer is the document's JSON, field by field."""
    assert msgspec.json.encode(answer).decode() == text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("bad-key", "Problem with xpub"),
        ("unused-type", "Problem with xpub"),
        ("bad-address-type", "Problem with xpub"),
        ("xpub-not-found", "xpub not found"),
        ("scan-pending", "xpub is being scanned"),
        ("key-missing", "API key is missing"),
        ("key-unknown", "Invalid API key"),
        ("bad-url", "Problem with callback"),
        ("bad-address", "Problem with address"),
        ("not-found", "Request not found"),
        ("missing-parameter", "Missing parameter"),
        ("bad-number", "Invalid request"),
    ],
)
def test_refusal_begins_with_message(code: str, message: str) -> None:
    """``message`` is the first key of every refusal, for shops look at the first key; the reason is the second."""
    body = msgspec.json.encode(error_json_of(RequestError("the reason", code=code)))
    assert body.decode() == f'{{"message":"{message}","description":"the reason"}}'


def test_gap_is_refused_in_the_words_that_shops_compare() -> None:
    """A gap that is too large is told in exactly the original's words."""
    body = msgspec.json.encode(error_json_of(RequestError("anything", code="gap-too-large")))
    assert body == (
        b'{"message":"Problem with xpub","description":"Gap between last used address and next address too large.'
        b' This might make funds inaccessible."}'
    )
