"""What the IPN dialect reads and writes."""

import json
from decimal import Decimal
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.transaction import MAX_MONEY_SAT
from lightipn.dialects.ipn.wire import (
    SAT_PER_BTC,
    IpnTerms,
    Totals,
    btc_text,
    decode_payload,
    decode_terms,
    encode_form,
    encode_payload,
    encode_terms,
    encode_totals,
    error_header,
    is_echo_of,
)

ADDRESS = "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"
TOTALS = Totals(address=ADDRESS, confirmed_sat=1_000_000, unconfirmed_sat=0)  # 0.01 and 0.0
AMOUNTS = st.integers(0, MAX_MONEY_SAT)


def echo(confirmed: str = '"0.01"', unconfirmed: str = '"0.0"', *, address: str = ADDRESS, more: str = "") -> bytes:
    """Return a receiver's JSON; the two amounts are JSON as they shall stand there."""
    return f'{{"address": "{address}", "confirmed": {confirmed}, "unconfirmed": {unconfirmed}{more}}}'.encode()


# --- amounts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount_sat", "text"),
    [
        (0, "0.0"),
        (1, "0.00000001"),
        (10, "0.0000001"),
        (12_345_678, "0.12345678"),
        (10_000_000, "0.1"),
        (50_000_000, "0.5"),
        (99_999_999, "0.99999999"),
        (SAT_PER_BTC, "1.0"),
        (SAT_PER_BTC + 1, "1.00000001"),
        (10 * SAT_PER_BTC, "10.0"),
        (MAX_MONEY_SAT, "21000000.0"),
        (MAX_MONEY_SAT - 1, "20999999.99999999"),
    ],
)
def test_amounts_are_printed_in_fixed_notation(amount_sat: int, text: str) -> None:
    """BTC is printed from satoshis: no exponent, no trailing zeros, at least one decimal."""
    assert btc_text(amount_sat) == text


@given(AMOUNTS)
@settings(deadline=None)
def test_printed_amounts_are_exact(amount_sat: int) -> None:
    """No satoshi is lost in the text, and the text has one spelling."""
    text = btc_text(amount_sat)
    assert Decimal(text) * SAT_PER_BTC == amount_sat
    whole, _, decimals = text.partition(".")
    assert whole == str(amount_sat // SAT_PER_BTC)
    assert 1 <= len(decimals) <= 8
    assert decimals == "0" or not decimals.endswith("0")


@pytest.mark.parametrize(
    ("confirmed_sat", "unconfirmed_sat", "body"),
    [
        (0, 0, b'{"confirmed": 0.0, "unconfirmed": 0.0}'),
        (1, 10_000_000, b'{"confirmed": 0.00000001, "unconfirmed": 0.1}'),
        (MAX_MONEY_SAT, 1, b'{"confirmed": 21000000.0, "unconfirmed": 0.00000001}'),
    ],
)
def test_answer_holds_json_numbers_with_the_printed_digits(
    confirmed_sat: int, unconfirmed_sat: int, body: bytes
) -> None:
    """The answer of a lookup is JSON with numbers, spelled as the amounts are printed."""
    assert encode_totals(confirmed_sat=confirmed_sat, unconfirmed_sat=unconfirmed_sat) == body
    found = json.loads(body, parse_float=Decimal)
    assert [found["confirmed"], found["unconfirmed"]] == [
        Decimal(confirmed_sat) / SAT_PER_BTC,
        Decimal(unconfirmed_sat) / SAT_PER_BTC,
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, ""),
        ({"history_from": 0}, ', "history_from": 0'),
        ({"history_from": 860_000}, ', "history_from": 860000'),
        ({"history_from": 860_000, "unproved_sat": 150_000_000}, ', "history_from": 860000, "unproved": 1.5'),
    ],
)
def test_answer_says_more_only_where_not_all_is_known(more: dict[str, int], told: str) -> None:
    """A history that begins at a height is told with it, behind the original's two fields."""
    body = encode_totals(confirmed_sat=1_000_000, unconfirmed_sat=0, **more)
    assert body.decode() == f'{{"confirmed": 0.01, "unconfirmed": 0.0{told}}}'


# --- what is posted and stored -----------------------------------------------------------------------------------


def test_form_has_three_fields_in_order() -> None:
    """An IPN is a form with the address and both amounts as texts."""
    body = encode_form(Totals(address=ADDRESS, confirmed_sat=1, unconfirmed_sat=250_000_000))
    assert body == f"address={ADDRESS}&confirmed=0.00000001&unconfirmed=2.5".encode()


@given(AMOUNTS, AMOUNTS)
@settings(deadline=None)
def test_form_reads_back_as_what_was_meant(confirmed_sat: int, unconfirmed_sat: int) -> None:
    """A receiver that decodes the form has the exact amounts."""
    totals = Totals(address=ADDRESS, confirmed_sat=confirmed_sat, unconfirmed_sat=unconfirmed_sat)
    fields = dict(parse_qsl(encode_form(totals).decode("ascii"), strict_parsing=True))
    assert fields.pop("address") == ADDRESS
    assert {name: int(Decimal(text) * SAT_PER_BTC) for name, text in fields.items()} == {
        "confirmed": confirmed_sat,
        "unconfirmed": unconfirmed_sat,
    }


def test_form_escapes_what_is_no_form_text() -> None:
    """Signs with a meaning in forms are escaped, and others are UTF-8."""
    body = encode_form(Totals(address="a&b=c d\u00e9+", confirmed_sat=0, unconfirmed_sat=0))
    assert body == b"address=a%26b%3Dc+d%C3%A9%2B&confirmed=0.0&unconfirmed=0.0"


@given(st.text(max_size=90), AMOUNTS, AMOUNTS)
@settings(deadline=None, max_examples=50)
def test_stored_payloads_read_back_and_are_equal_if_and_only_if_the_totals_are(
    address: str, confirmed_sat: int, unconfirmed_sat: int
) -> None:
    """A payload is the totals: equal totals have equal bytes, and the bytes read back."""
    totals = Totals(address=address, confirmed_sat=confirmed_sat, unconfirmed_sat=unconfirmed_sat)
    other = Totals(address=address, confirmed_sat=confirmed_sat + 1, unconfirmed_sat=unconfirmed_sat)
    assert decode_payload(encode_payload(totals)) == totals
    assert encode_payload(totals) == encode_payload(decode_payload(encode_payload(totals))) != encode_payload(other)


def test_stored_terms_read_back() -> None:
    """Terms are stored as JSON and read back as they were."""
    assert encode_terms(IpnTerms(max_confirms=6)) == b'{"max_confirms":6}'
    assert decode_terms(b'{"max_confirms":6}') == IpnTerms(max_confirms=6)


# --- what acknowledges -------------------------------------------------------------------------------------------

ACCEPTED = [
    pytest.param(echo(), id="texts"),
    pytest.param(echo("0.01", "0.0"), id="numbers"),
    pytest.param(echo("0.01", '"0.0"'), id="number and text"),
    pytest.param(echo("0.01", "0"), id="integer zero"),
    pytest.param(echo('"0.01"', '"0"'), id="text without decimals"),
    pytest.param(echo("0.01", "-0.0"), id="negative zero"),
    pytest.param(echo("0.010000000", "0.00000000"), id="trailing zeros"),
    pytest.param(echo("1e-2", "0e0"), id="exponents"),
    pytest.param(echo('"1E-2"', '"0E+7"'), id="exponents in texts"),
    pytest.param(echo('"00.01"', '"0"'), id="leading zeros in a text"),
    pytest.param(echo('" 0.01 "', '"0.0\\n"'), id="blanks in texts"),
    pytest.param(echo('"\\u0030.01"', '"0.0"'), id="escapes in texts"),
    pytest.param(echo("   0.01  ", ' \t"0.0" \n'), id="blanks around values"),
    pytest.param(echo(more=', "ok": true, "nested": {"a": [1, null]}'), id="other keys"),
    pytest.param(b"\xef\xbb\xbf" + echo(), id="byte order mark"),
    pytest.param(b"\r\n  " + echo() + b"  \r\n", id="blanks around"),
    pytest.param(json.dumps({"unconfirmed": 0, "confirmed": 0.01, "address": ADDRESS}).encode(), id="any order"),
]


@pytest.mark.parametrize("body", ACCEPTED)
def test_echo_of_the_values_acknowledges(body: bytes) -> None:
    """A JSON object with the three values acknowledges, however they are spelled and whatever else it holds."""
    assert is_echo_of(body, TOTALS)


DEEP = b"[" * 200 + b"]" * 200

REFUSED = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"success", id="a word"),
    pytest.param(b"<html></html>", id="a web page"),
    pytest.param(b"null", id="null"),
    pytest.param(b"true", id="true"),
    pytest.param(b"[" + echo() + b"]", id="in a list"),
    pytest.param(b'{"ipn": ' + echo() + b"}", id="one level down"),
    pytest.param(json.dumps(echo().decode()).encode(), id="as a text"),
    pytest.param(echo() + echo(), id="two objects"),
    pytest.param(echo()[:-1], id="cut short"),
    pytest.param(echo() + b"x", id="something behind"),
    pytest.param(b"\xef\xbb\xbf\xef\xbb\xbf" + echo(), id="two byte order marks"),
    pytest.param(b"\xff\xfe" + echo().decode().encode("utf-16-le"), id="UTF-16"),
    pytest.param(b"{}", id="no field"),
    pytest.param(b'{"confirmed": 0.01, "unconfirmed": 0.0}', id="no address"),
    pytest.param(f'{{"address": "{ADDRESS}", "unconfirmed": 0.0}}'.encode(), id="no confirmed"),
    pytest.param(f'{{"address": "{ADDRESS}", "confirmed": 0.01}}'.encode(), id="no unconfirmed"),
    pytest.param(f'{{"Address": "{ADDRESS}", "confirmed": 0.01, "unconfirmed": 0}}'.encode(), id="other letter case"),
    pytest.param(echo(address="bc1qnjg0jd8228aq7egyzacy8cys3knf9xvrerkf9g"), id="another address"),
    pytest.param(echo(address=ADDRESS.upper()), id="address in upper case"),
    pytest.param(echo(address=""), id="empty address"),
    pytest.param(echo("0.01", "0.01"), id="another amount"),
    pytest.param(echo("0.0", "0.01"), id="amounts swapped"),
    pytest.param(echo("0.01000001", "0"), id="one satoshi more"),
    pytest.param(echo("0.010000000000000001", "0"), id="a fraction of a satoshi more"),
    pytest.param(echo("-0.01", "0"), id="negative"),
    pytest.param(echo("1000000", "0"), id="satoshis"),
    pytest.param(echo("null", "0"), id="null as amount"),
    pytest.param(echo("0.01", "null"), id="null instead of zero"),
    pytest.param(echo("0.01", "false"), id="false instead of zero"),
    pytest.param(echo("true", "0"), id="true as amount"),
    pytest.param(echo("0.01", '""'), id="empty text instead of zero"),
    pytest.param(echo('"0,01"', "0"), id="decimal comma"),
    pytest.param(echo('"0.01 BTC"', "0"), id="with a unit"),
    pytest.param(echo("[0.01]", "0"), id="amount in a list"),
    pytest.param(echo('{"btc": 0.01}', "0"), id="amount in an object"),
    pytest.param(echo("NaN", "NaN"), id="NaN"),
    pytest.param(echo('"NaN"', '"NaN"'), id="NaN as text"),
    pytest.param(echo('"sNaN"', '"0"'), id="signalling NaN as text"),
    pytest.param(echo('"Infinity"', '"0"'), id="infinity as text"),
    pytest.param(echo("0.01", "01"), id="leading zero in a number"),
    pytest.param(echo("0x1", "0"), id="hex"),
    pytest.param(echo('"1e999999999999999999999"', "0"), id="exponent without end"),
    pytest.param(echo("1e999999999", "0"), id="huge exponent"),
    pytest.param(echo("0.01", '"1e-999999999"'), id="tiny exponent"),
    pytest.param(echo('"\\ud800"', "0"), id="half of a surrogate pair"),
    pytest.param(echo().replace(b"0.01", b"0.01\xff"), id="not UTF-8"),
    pytest.param(DEEP, id="200 lists deep"),
    pytest.param(echo("0.01", DEEP.decode()), id="200 lists deep as amount"),
    pytest.param(b"[" * 60_000, id="60,000 brackets"),
    pytest.param(b'{"address":' * 5_000, id="5,000 objects deep"),
    pytest.param(echo("9" * 60_000, "0"), id="60,000 digits"),
]


@pytest.mark.parametrize("body", REFUSED)
def test_whatever_is_no_echo_does_not_acknowledge(body: bytes) -> None:
    """A missing, other or unreadable value is no acknowledgement, and no answer can make the judge fail."""
    assert not is_echo_of(body, TOTALS)


def test_deep_value_beside_the_echo_is_ignored_within_reason() -> None:
    """Extra keys are ignored though they are nested 200 deep; what is nested thousands deep is no echo."""
    assert is_echo_of(echo(more=f', "x": {DEEP.decode()}'), TOTALS)
    assert not is_echo_of(echo(more=f', "x": {"[" * 50_000 + "]" * 50_000}'), TOTALS)


def test_last_of_repeated_keys_counts() -> None:
    """Of a key that stands twice the last value counts, as in the JSON readers of most languages."""
    assert is_echo_of(echo(more=', "confirmed": 0.01'), TOTALS)
    assert is_echo_of(echo("7", more=', "confirmed": 0.01'), TOTALS)
    assert not is_echo_of(echo(more=', "confirmed": 7'), TOTALS)


@given(AMOUNTS, AMOUNTS, st.booleans())
@settings(deadline=None)
def test_any_amounts_are_acknowledged_by_themselves_only(
    confirmed_sat: int, unconfirmed_sat: int, as_text: bool
) -> None:
    """The printed amounts acknowledge themselves, as numbers and as texts, and one satoshi more does not."""
    quote = '"' if as_text else ""
    body = echo(*(f"{quote}{btc_text(amount_sat)}{quote}" for amount_sat in (confirmed_sat, unconfirmed_sat)))
    for more in (0, 1):
        totals = Totals(address=ADDRESS, confirmed_sat=confirmed_sat + more, unconfirmed_sat=unconfirmed_sat)
        assert is_echo_of(body, totals) is (more == 0)


@given(st.one_of(st.binary(max_size=80), st.text(max_size=40).map(lambda text: echo(json.dumps(text), "0"))))
@settings(deadline=None, max_examples=60)
def test_no_answer_makes_the_judge_fail(body: bytes) -> None:
    """Bytes and texts of any kind are judged without an error, and are no echo of an amount that they do not hold."""
    assert not is_echo_of(body, Totals(address=ADDRESS, confirmed_sat=1_234_567_891, unconfirmed_sat=0))


# --- the reason of a refusal -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        pytest.param("address: is empty", "address: is empty", id="plain"),
        pytest.param("", "", id="empty"),
        pytest.param("a\r\nSet-Cookie: x=1", "a\\r\\nSet-Cookie: x=1", id="line breaks"),
        pytest.param("a\0b\x7f", "a\\x00b\\x7f", id="control characters"),
        pytest.param("\u00e9 \u20bf \U0001f4b0", "\\xe9 \\u20bf \\U0001f4b0", id="not ASCII"),
        pytest.param("it's", "it's", id="one quote"),
        pytest.param('say "x"', 'say "x"', id="double quotes"),
    ],
)
def test_reasons_are_made_fit_for_a_header(reason: str, header: str) -> None:
    """What a caller typed comes back escaped, as Python's ``ascii()`` does it."""
    assert error_header(reason) == header


@given(st.text(max_size=400))
@settings(deadline=None)
def test_header_is_printable_ascii_of_bounded_length(reason: str) -> None:
    """Whatever the reason holds, the header is printable ASCII and at most 200 characters long."""
    header = error_header(reason)
    assert len(header) <= 200
    assert all(" " <= letter <= "~" for letter in header)


def test_long_reason_is_cut() -> None:
    """A reason of 300 characters keeps its first 200."""
    assert error_header("x" * 300) == "x" * 200
