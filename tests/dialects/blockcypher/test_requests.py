"""What clients of the blockcypher dialect send: fields, types, and what no client would send."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.dialects.blockcypher.requests import (
    MOST_BATCH,
    HookRequest,
    IncomingWebhook,
    PushRequest,
    WalletRequest,
    batch_of,
    fields_of,
    read_as,
)
from lightipn.errors import RequestError


def refusal(fields: Any, shape: type = HookRequest) -> str:
    """Read what must be refused, and return the reason, which is short."""
    with pytest.raises(RequestError) as caught:
        read_as(fields, shape)
    assert (caught.value.code, caught.value.status_hint) == ("bad-field", 400)
    assert len(str(caught.value)) < 200
    return str(caught.value)


# --- query and body ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"", {}),
        (b" \n", {}),
        (b"{}", {}),
        (b'{"a":1,"b":["x"]}', {"a": 1, "b": ["x"]}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":null,"b":false}', {"b": False}),
    ],
)
def test_body_is_a_json_object(body: bytes, wanted: dict[str, object]) -> None:
    """A body is a JSON object, with or without a byte order mark; what is null was not sent."""
    assert fields_of({}, body) == wanted


def test_query_and_body_are_one_table() -> None:
    """What both say may be said in two ways, as long as it is the same."""
    assert fields_of({"token": "t", "n": "6"}, b'{"n":6,"url":"u"}') == {"token": "t", "n": 6, "url": "u"}
    assert fields_of({"token": "t"}, b'{"token":null}') == {"token": "t"}
    with pytest.raises(RequestError, match="'token' is given twice, with different values"):
        fields_of({"token": "t"}, b'{"token":"u"}')


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[]", id="list"),
        pytest.param(b'"x"', id="text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"5", id="number"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"{}{}", id="two"),
        pytest.param(b"{'a':1}", id="single quotes"),
        pytest.param(b'{"a":\xff}', id="no UTF-8"),
        pytest.param(b'{"a":"\\ud800"}', id="half a character"),
        pytest.param(b'{"a":1e999}', id="endless number"),
        pytest.param(b'{"a":' + b"9" * 60_000 + b"}", id="60,000 digits"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":' * 10_000, id="deep object"),
        pytest.param(b"[" * 60_000, id="deep list"),
        pytest.param(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", id="deep and whole"),
        pytest.param(b"\x00", id="NUL"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Anything else is refused, however it is broken, and raises nothing else."""
    with pytest.raises(RequestError, match=r"^body is not (JSON|a JSON object)$") as caught:
        fields_of({}, body)
    assert (caught.value.code, caught.value.status_hint) == ("bad-json", 400)


# --- types -------------------------------------------------------------------------------------------------------


def test_hook_is_read_as_clients_write_it() -> None:
    """A hook may be sent as it was answered, numbers as texts too; what is not known is ignored."""
    fields = {
        "id": "x",
        "event": "tx-confirmation",
        "url": "https://shop.example/",
        "address": "a",
        "confirmations": "6",
        "confidence": "0.5",
        "callback_errors": 0,
        "filter": "addr=a&event=tx-confirmation",
        "hash": "",
    }
    assert read_as(fields, HookRequest) == HookRequest(
        event="tx-confirmation", url="https://shop.example/", address="a", confirmations=6, confidence=0.5
    )
    assert read_as({}, HookRequest) == HookRequest()


@pytest.mark.parametrize(
    ("fields", "shape", "reason"),
    [
        ({"event": ["a"]}, HookRequest, "event has the wrong type: expected `str`, got `array`"),
        ({"event": 5}, HookRequest, "event has the wrong type: expected `str`, got `int`"),
        ({"url": {"a": 1}}, HookRequest, "url has the wrong type: expected `str`, got `object`"),
        ({"address": True}, HookRequest, "address has the wrong type: expected `str`, got `bool`"),
        ({"wallet_name": [[]]}, HookRequest, "wallet_name has the wrong type: expected `str`, got `array`"),
        ({"signkey": 5}, HookRequest, "signkey has the wrong type: expected `str`, got `int`"),
        ({"confirmations": "many"}, HookRequest, "confirmations has the wrong type"),
        ({"confirmations": [6]}, HookRequest, "confirmations has the wrong type"),
        ({"confirmations": 1.5}, HookRequest, "confirmations has the wrong type"),
        ({"confirmations": 1e30}, HookRequest, "confirmations has the wrong type"),
        ({"confirmations": True}, HookRequest, "confirmations has the wrong type"),
        ({"confidence": "high"}, HookRequest, "confidence has the wrong type"),
        ({"confidence": 10**400}, HookRequest, "confidence has the wrong type"),
        ({"name": 5}, WalletRequest, "name has the wrong type"),
        ({"addresses": "a"}, WalletRequest, "addresses has the wrong type: expected `array`, got `str`"),
        ({"addresses": {"a": 1}}, WalletRequest, "addresses has the wrong type: expected `array`, got `object`"),
        ({"addresses": ["a", 5]}, WalletRequest, "addresses[1] has the wrong type: expected `str`, got `int`"),
        ({"subchain_indexes": 0}, WalletRequest, "subchain_indexes has the wrong type"),
        ({"subchain_indexes": ["x"]}, WalletRequest, "subchain_indexes[0] has the wrong type"),
        ({"tx": ["00"]}, PushRequest, "tx has the wrong type: expected `str`, got `array`"),
        ({"addresses": [None]}, IncomingWebhook, "addresses[0] has the wrong type"),
    ],
)
def test_wrong_type_names_its_field(fields: dict[str, object], shape: type, reason: str) -> None:
    """A field of the wrong type is named, with what was wanted and what came."""
    assert refusal(fields, shape).startswith(reason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
NAMES = sorted({name for shape in (HookRequest, WalletRequest, IncomingWebhook) for name in shape.__struct_fields__})


@settings(deadline=None, max_examples=50)
@given(
    fields=st.dictionaries(st.sampled_from(NAMES) | st.text(), JSON, max_size=6),
    shape=st.sampled_from([HookRequest, WalletRequest, PushRequest, IncomingWebhook]),
)
def test_any_json_is_read_or_refused(fields: dict[str, Any], shape: type[msgspec.Struct]) -> None:
    """Whatever JSON comes, it is read in full or refused by name."""
    with suppress(RequestError):
        assert isinstance(read_as(fields_of({}, json.dumps(fields).encode()), shape), shape)


# --- batches -----------------------------------------------------------------------------------------------------


def test_batch_is_split_at_semicolons() -> None:
    """Several are separated by semicolons, in their order, each once; nothing between two is nothing."""
    assert batch_of("b;a;b;c;a") == ["b", "a", "c"]
    assert batch_of(";a;;b;") == ["a", "b"]
    hundred = [str(number) for number in range(MOST_BATCH)]
    assert batch_of(";".join(hundred)) == hundred


def test_more_than_a_hundred_are_refused() -> None:
    """A hundred are answered at once, and no more."""
    with pytest.raises(RequestError, match="101 are asked for at once, want at most 100"):
        batch_of(";".join(str(number) for number in range(MOST_BATCH + 1)))
