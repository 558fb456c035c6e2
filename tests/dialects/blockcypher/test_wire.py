"""What a webhook says, and how it is signed."""

import json
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.chain.verifier import Unconfirmed
from lightipn.delivery.guard import AddressRules
from lightipn.dialects.blockcypher import wire
from lightipn.dialects.blockcypher.wire import Event, HookTerms
from lightipn.errors import RequestError
from lightipn.ledger.entries import LedgerEntry, Replaced
from lightipn.ledger.transactions import KnownTransaction
from lightipn.outbox.policy import Block, HookFacts
from tests.builders import OTHER_SCRIPT, SEEN_AT, confirmed, payment, raw_header, subscription_of, txid_of
from tests.dialects.blockcypher.keys import private_pem, public_pem
from tests.dialects.blockcypher.rig import EVENTS, entry_for
from tests.dialects.blockcypher.verifier import check_body, check_request
from tests.dialects.rig import ADDRESS

PAID = payment(1, spends=[Outpoint(txid_of(7), 0)])
KNOWN = KnownTransaction(transaction=PAID, spent=(TxOutput(amount_sat=101_000, script=OTHER_SCRIPT),))
TXS = "http://ipn.example/v1/btc/regtest/txs"
HEADER = parse_header(raw_header(bytes(32), time=SEEN_AT))


def facts(
    *, transaction: KnownTransaction | None = KNOWN, is_own_key: bool = False, block_time: int | None = None
) -> HookFacts:
    """Return what an attempt is made of."""
    return HookFacts(
        hook_id="a-hook",
        private_key=private_pem(),
        is_own_key=is_own_key,
        last_body=None,
        transaction=transaction,
        block_time=block_time,
    )


def body_of(event: Event, payload: bytes, hook: HookFacts) -> dict[str, Any]:
    """Return a webhook's body as its receiver reads it."""
    subscription = subscription_of(wire.encode_terms(HookTerms(event)), address=ADDRESS.text)
    return dict(json.loads(wire.body_of(subscription, payload, hook, REGTEST, transactions_url=TXS)))


def payload_of(entry: LedgerEntry, *, confirmations: int = 0, confidence: float = 0.5) -> bytes:
    """Return what is stored of a payment."""
    return wire.encode_payment(entry, confirmations=confirmations, confidence=confidence)


# --- terms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVENTS)
def test_events_are_read_by_name(name: str) -> None:
    """The six events go by the original's names."""
    assert wire.event_of(name).value == name


@pytest.mark.parametrize("name", ["", "tx", "Unconfirmed-tx", "all", "tx-forward", "x" * 5000])
def test_other_events_are_refused(name: str) -> None:
    """What is no event that a hook can be about is refused, and those that there are, are named."""
    with pytest.raises(RequestError) as caught:
        wire.event_of(name)
    assert (caught.value.code, caught.value.status_hint) == ("bad-event", 400)
    assert str(caught.value).endswith("want one of " + ", ".join(EVENTS))
    assert len(str(caught.value)) < 200


@settings(deadline=None, max_examples=50)
@given(
    event=st.sampled_from([Event(name) for name in EVENTS]),
    confirmations=st.integers(1, 10),
    confidence=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_terms_read_back(event: Event, confirmations: int, confidence: float) -> None:
    """What a hook asks for reads back as it was."""
    terms = HookTerms(event, confirmations=confirmations, confidence=confidence)
    assert wire.decode_terms(wire.encode_terms(terms)) == terms


def test_terms_have_the_originals_defaults() -> None:
    """Without a number a hook is about six confirmations, or a confidence of 0.99."""
    assert (HookTerms(Event.CONFIRMATION).confirmations, HookTerms(Event.CONFIDENCE).confidence) == (6, 0.99)


# --- bodies ------------------------------------------------------------------------------------------------------


def test_webhook_of_an_unconfirmed_payment() -> None:
    """The body is the original's transaction, and beside it what the known consumer reads at the top level."""
    found = body_of(Event.UNCONFIRMED, payload_of(entry_for(PAID, state=Unconfirmed(2))), facts())
    sender = address_of(OTHER_SCRIPT, REGTEST)
    assert found == {
        "hash": hex_of(PAID.txid),
        "block_height": -1,
        "block_index": -1,
        "received": "2023-11-14T22:13:20Z",
        "confirmations": 0,
        "double_spend": False,
        "confidence": 0.5,
        "receive_count": 2,
        "addresses": [sender, ADDRESS.text],
        "total": 100_000,
        "fees": 1_000,
        "size": len(PAID.raw),
        "vsize": len(PAID.raw),
        "ver": 2,
        "lock_time": 1,
        "opt_in_rbf": False,
        "vin_sz": 1,
        "vout_sz": 1,
        "inputs": [
            {
                "prev_hash": hex_of(txid_of(7)),
                "output_index": 0,
                "sequence": 0xFFFFFFFF,
                "output_value": 101_000,
                "addresses": [sender],
                "script_type": "pay-to-witness-pubkey-hash",
            }
        ],
        "outputs": [
            {
                "value": 100_000,
                "script": ADDRESS.script.hex(),
                "addresses": [ADDRESS.text],
                "script_type": "pay-to-witness-pubkey-hash",
            }
        ],
        "event": "unconfirmed-tx",
        "address": ADDRESS.text,
        "value": 100_000,
    }


@pytest.mark.parametrize("event", [Event.CONFIRMED, Event.CONFIRMATION, Event.CONFIDENCE])
def test_webhook_of_a_confirmed_payment(event: Event) -> None:
    """In a block its hash, height and time are there, and the confirmations that the notice is about."""
    entry = entry_for(PAID, state=confirmed(500, position=3))
    found = body_of(event, payload_of(entry, confirmations=4, confidence=1.0), facts(block_time=SEEN_AT + 60))
    assert (found["event"], found["confirmations"], found["confidence"]) == (event.value, 4, 1.0)
    assert (found["block_hash"], found["block_height"], found["block_index"]) == (
        hex_of(confirmed(500).block_hash),
        500,
        3,
    )
    assert (found["confirmed"], found["received"]) == ("2023-11-14T22:14:20Z", "2023-11-14T22:13:20Z")
    assert "receive_count" not in found


def test_webhook_of_a_double_spend_names_the_rival_twice() -> None:
    """``hash`` is the lost payment; what replaced it stands under both names that the original's documents use."""
    entry = entry_for(PAID, state=Replaced(txid_of(9)), gone_at=SEEN_AT)
    found = body_of(Event.DOUBLE_SPEND, payload_of(entry, confidence=0.0), facts())
    assert found["hash"] == hex_of(PAID.txid)
    assert found["double_spend"] is True
    assert found["double_spend_tx"] == found["double_of"] == hex_of(txid_of(9))
    assert (found["event"], found["value"], found["confirmations"]) == ("double-spend-tx", 100_000, 0)


def test_payment_that_confirms_before_its_webhook_was_written_says_what_it_says() -> None:
    """A notice about an unconfirmed payment shows no block, whatever holds the payment when it is sent."""
    found = body_of(Event.UNCONFIRMED, payload_of(entry_for(PAID, state=Unconfirmed(2))), facts(block_time=SEEN_AT))
    assert "confirmed" not in found
    assert found["block_height"] == -1


def test_webhook_without_the_transaction_says_what_is_known() -> None:
    """Where the whole transaction is not kept, the payment is told without inputs and outputs."""
    found = body_of(Event.UNCONFIRMED, payload_of(entry_for(PAID, state=Unconfirmed(2))), facts(transaction=None))
    assert set(found) == {
        "hash",
        "block_height",
        "block_index",
        "received",
        "confirmations",
        "double_spend",
        "confidence",
        "receive_count",
        "event",
        "address",
        "value",
    }


def test_links_lead_to_the_api() -> None:
    """A large transaction's webhook links to the rest of it."""
    wide = payment(1, spends=[Outpoint(txid_of(7), number) for number in range(30)])
    known = KnownTransaction(transaction=wide, spent=(None,) * 30)
    found = body_of(Event.UNCONFIRMED, payload_of(entry_for(wide)), facts(transaction=known))
    assert found["next_inputs"] == f"{TXS}/{hex_of(wide.txid)}?instart=20&outstart=0&limit=20"


def test_webhook_of_a_block() -> None:
    """The body is the block as its header tells it, and its event; no address and no payment."""
    found = body_of(Event.NEW_BLOCK, wire.encode_block(Block(height=7, header=HEADER)), facts(transaction=None))
    assert found == {
        "hash": hex_of(HEADER.block_hash),
        "height": 7,
        "chain": "BTC.regtest",
        "ver": 1,
        "time": "2023-11-14T22:13:20Z",
        "bits": HEADER.bits,
        "nonce": int.from_bytes(HEADER.raw[76:], "little"),
        "prev_block": "00" * 32,
        "mrkl_root": "00" * 32,
        "event": "new-block",
    }


# --- headers and signatures --------------------------------------------------------------------------------------

BODY = b'{"event":"unconfirmed-tx"}'


def headers(
    url: str = "https://shop.example/hook", *, now: float = SEEN_AT, is_own_key: bool = False
) -> dict[str, str]:
    """Return a webhook's headers."""
    return wire.headers_of(Event.UNCONFIRMED, facts(is_own_key=is_own_key), url, BODY, message_id="m1", now=now)


def test_headers_say_event_hook_and_time() -> None:
    """Event and hook travel as headers, the date as HTTP writes it, and the digest of the body."""
    found = headers(now=SEEN_AT + 0.9)
    assert (found["X-EventType"], found["X-EventId"]) == ("unconfirmed-tx", "a-hook")
    assert found["Content-Type"] == "application/json"
    assert found["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert parsedate_to_datetime(found["Date"]).timestamp() == SEEN_AT
    assert found["Digest"] == "SHA-256=rCzx7WR3eDLqoLCVNedYRb9W20QJgZupesoapCYT8FI="


@pytest.mark.parametrize(("is_own_key", "key_id"), [(False, "lightipn"), (True, "a-hook")])
def test_both_signatures_verify_with_other_hands(is_own_key: bool, key_id: str) -> None:
    """A receiver's own verifier takes both headers; the key id says whether the key is the hook's own."""
    found = headers(is_own_key=is_own_key)
    assert check_request(public_pem(), "POST", "/hook", found, BODY) == key_id
    assert check_body(public_pem(), found, BODY) == key_id


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"method": "PUT"}, id="method"),
        pytest.param({"target": "/hook?x=1"}, id="query"),
        pytest.param({"target": "/"}, id="path"),
        pytest.param({"public_pem": public_pem(2)}, id="key"),
    ],
)
def test_signature_binds_the_request(change: dict[str, str]) -> None:
    """Method, path, query and key are bound: another request does not verify."""
    call: dict[str, Any] = {"public_pem": public_pem(), "method": "POST", "target": "/hook"}
    with pytest.raises(InvalidSignature):
        check_request(**(call | change), headers=headers(), body=BODY)


def test_signature_binds_date_and_body() -> None:
    """Another date is no signature, and another body is not the digest's."""
    found = headers()
    with pytest.raises(InvalidSignature):
        check_request(public_pem(), "POST", "/hook", found | {"Date": "Tue, 14 Nov 2023 22:13:21 GMT"}, BODY)
    with pytest.raises(AssertionError):
        check_request(public_pem(), "POST", "/hook", found, BODY + b" ")
    with pytest.raises(InvalidSignature):
        check_body(public_pem(), found, BODY + b" ")


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example",
        "https://shop.example?secret=1",
        "https://shop.example/",
        "https://shop.example/hook?order=7&secret=a%20b",
        "https://shop.example:8443/a;p=1//b?x=1?y=2",
        "http://shop.example/%7Euser/%C3%A4?q=%2F",
        "https://shop.example/a'b(c)*!$,@:?q='[1]'",
        "https://shop.example/hook?",
        "https://shop.example/a/../b",
        "https://shop.example/./hook",
        'https://shop.example/{id}/hook?filter={"a":1}',
        "https://shop.example/a|b^c`d?x=<y>",
        "https://shop.example/hook#",
    ],
)
def test_signed_target_is_the_one_that_is_sent(url: str) -> None:
    """Whatever a URL looks like, the signature is over the request target that goes over the wire, or it is refused."""
    with suppress(RequestError):
        AddressRules().check_url(url)
        sent = httpx.Request("POST", url).url.raw_path.decode()
        check_request(public_pem(), "POST", sent, headers(url), BODY)


def test_signatures_are_anew_with_every_second() -> None:
    """Another attempt has another date, and therefore another request signature; the body's stays."""
    one, two = headers(now=SEEN_AT), headers(now=SEEN_AT + 1)
    assert one["Signature"] != two["Signature"]
    assert one["X-BlockCypher-Signature"] == two["X-BlockCypher-Signature"]
