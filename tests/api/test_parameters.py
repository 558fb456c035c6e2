"""What a caller sent, from wherever it sent it."""

import pytest
from starlette.types import ASGIApp

from lightipn.api.parameters import MAX_BODY_BYTES, MAX_FIELDS, required, whole_number
from lightipn.errors import RequestError
from tests.api.asgi import FORM, JSON, call


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param([FORM], b"address=1abc&url=http%3A%2F%2Fx%2F%3Fa%3D1%26b", id="form"),
        pytest.param([], b"address=1abc&url=http://x/?a%3D1%26b", id="form without a type"),
        pytest.param([JSON], b'{"address": "1abc", "url": "http://x/?a=1&b"}', id="JSON"),
        pytest.param([(b"content-type", b"text/plain")], b' {"address":"1abc","url":"http://x/?a=1&b"}', id="text"),
        pytest.param(
            [(b"content-type", b"Application/JSON; charset=utf-8")],
            b'{"address":"1abc","url":"http://x/?a=1&b"}',
            id="JSON with a charset",
        ),
    ],
)
async def test_body_is_read_as_form_or_json(
    app: ASGIApp, method: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """A form and a JSON object mean the same, with or without the right content type."""
    reply = await call(app, method, "/echo", headers=headers, body=[body])
    assert (reply.status, reply.json) == (200, {"address": "1abc", "url": "http://x/?a=1&b"})


async def test_query_is_read_with_every_method(app: ASGIApp) -> None:
    """Parameters of the query count whatever the method, together with those of the body."""
    assert (await call(app, "GET", "/echo", query=b"a=1&b=%C3%A4+x")).json == {"a": "1", "b": "ä x"}
    reply = await call(app, "POST", "/echo", query=b"a=1", headers=[FORM], body=[b"b=", b"2"])
    assert reply.json == {"a": "1", "b": "2"}


async def test_body_of_a_get_is_not_read(app: ASGIApp) -> None:
    """A GET means what its query says."""
    assert (await call(app, "GET", "/echo", query=b"a=1", body=[b"b=2"])).json == {"a": "1"}


async def test_empty_and_blank_bodies_are_no_parameters(app: ASGIApp) -> None:
    """A POST without a body is a POST with a query alone, whatever its content type says."""
    for body in ([], [b""], [b" \r\n"]):
        assert (await call(app, "POST", "/echo", query=b"a=1", headers=[JSON], body=body)).json == {"a": "1"}


async def test_body_may_be_mended_before_it_is_read(app: ASGIApp) -> None:
    """A dialect may put a body right that its clients write wrong; the query, and a GET, are read as they are."""
    reply = await call(app, "POST", "/mended", query=b"b=WRONG", body=[b"{WRO", b"NG}"])
    assert reply.json == {"a": "1", "b": "WRONG"}
    assert (await call(app, "GET", "/mended", query=b"b=WRONG", body=[b"{WRONG}"])).json == {"b": "WRONG"}


async def test_same_value_twice_is_no_contradiction(app: ASGIApp) -> None:
    """A parameter that is given twice counts if both are equal, and is refused if they differ."""
    same = await call(app, "POST", "/echo", query=b"a=1&a=1", headers=[FORM], body=[b"a=1"])
    assert same.json == {"a": "1"}
    for query, body in ((b"a=1&a=2", b""), (b"a=1", b"a=2"), (b"a=1", b'{"a": "2"}')):
        reply = await call(app, "POST", "/echo", query=query, body=[body])
        assert (reply.status, reply.code) == (400, "bad-request")
        assert "'a' is given twice" in reply.json["error"]["message"]


async def test_whole_numbers_of_json_become_texts(app: ASGIApp) -> None:
    """A JSON number means the same as its digits in a form."""
    reply = await call(app, "POST", "/echo", headers=[JSON], body=[b'{"a": 7, "b": -1, "c": 123456789012345678901234}'])
    assert reply.json == {"a": "7", "b": "-1", "c": "123456789012345678901234"}


async def test_truth_values_and_null_of_json_become_texts(app: ASGIApp) -> None:
    """``true`` and ``false`` mean the same as those words in a form; ``null`` is a parameter that is not there."""
    body = b'{"a": true, "b": false, "c": null, "d": "True"}'
    assert (await call(app, "PATCH", "/echo", headers=[JSON], body=[body])).json == {
        "a": "true",
        "b": "false",
        "d": "True",
    }
    reply = await call(app, "POST", "/echo", query=b"c=1", headers=[JSON], body=[b'{"c": null}'])
    assert reply.json == {"c": "1"}


@pytest.mark.parametrize("value", [b"1.5", b"[]", b"{}", b"1e3", b'["x"]', b"[null]", b"[true]"])
async def test_other_json_values_are_refused(app: ASGIApp, value: bytes) -> None:
    """A value that no form could hold, and that is no truth value either, is refused, and the field is named."""
    reply = await call(app, "POST", "/echo", headers=[JSON], body=[b'{"amount": ' + value + b"}"])
    assert (reply.status, reply.code) == (400, "bad-json")
    assert "'amount'" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"a": "1"',
        b'{"a": 1} x',
        b"[]",
        b'["a"]',
        b'"a"',
        b"7",
        b"null",
        b"{'a': 1}",
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
    ],
)
async def test_what_is_no_json_object_is_refused(app: ASGIApp, body: bytes) -> None:
    """A body that calls itself JSON and is no object of texts and numbers is refused."""
    reply = await call(app, "POST", "/echo", headers=[JSON], body=[body])
    assert (reply.status, reply.code) == (400, "bad-json")


async def test_json_may_begin_with_a_byte_order_mark(app: ASGIApp) -> None:
    """Some clients write a mark before their JSON; it is left out."""
    reply = await call(app, "POST", "/echo", headers=[JSON], body=[b'\xef\xbb\xbf{"a": "b"}'])
    assert (reply.status, reply.json) == (200, {"a": "b"})


@pytest.mark.parametrize(
    ("query", "body"),
    [
        pytest.param(b"a=%ff", b"", id="query, escaped"),
        pytest.param(b"a=\xc3\xa4", b"", id="query, raw"),
        pytest.param(b"%ff=a", b"", id="query, name"),
        pytest.param(b"a=%ed%a0%80", b"", id="query, surrogate"),
        pytest.param(b"", b"a=%ff", id="form, escaped"),
        pytest.param(b"", b"a=\xff", id="form, raw"),
    ],
)
async def test_bad_utf8_is_refused(app: ASGIApp, query: bytes, body: bytes) -> None:
    """Bytes that are no UTF-8 are refused; nothing is guessed."""
    reply = await call(app, "POST", "/echo", query=query, headers=[FORM], body=[body])
    assert (reply.status, reply.code) == (400, "bad-encoding")


async def test_fields_are_limited(app: ASGIApp) -> None:
    """A hundred fields are read, more are refused, in query and form alike."""
    most = b"&".join(b"f%d=1" % number for number in range(MAX_FIELDS))
    assert len((await call(app, "GET", "/echo", query=most)).json) == MAX_FIELDS
    for query, body in ((most + b"&x=1", b""), (b"", most + b"&x=1")):
        reply = await call(app, "POST", "/echo", query=query, headers=[FORM], body=[body])
        assert (reply.status, reply.code) == (400, "bad-request")


async def test_body_at_the_limit_is_read(app: ASGIApp) -> None:
    """A body of exactly 64 KiB is read, in any number of parts."""
    body = b"a=" + b"x" * (MAX_BODY_BYTES - 2)
    length = (b"content-length", str(len(body)).encode())
    reply = await call(app, "POST", "/echo", headers=[FORM, length], body=[body[:10], body[10:60_000], body[60_000:]])
    assert reply.json == {"a": "x" * (MAX_BODY_BYTES - 2)}


async def test_body_over_the_limit_is_refused_by_its_length(app: ASGIApp) -> None:
    """A body that announces more than 64 KiB is refused before it is read."""
    length = (b"content-length", str(MAX_BODY_BYTES + 1).encode())
    reply = await call(app, "POST", "/echo", headers=[FORM, length], body=[], is_cut=True)
    assert (reply.status, reply.code) == (413, "body-too-large")


async def test_body_over_the_limit_is_refused_without_a_length(app: ASGIApp) -> None:
    """A body that announces nothing, or too little, is refused once it is too long."""
    for headers in ([FORM], [FORM, (b"content-length", b"10")]):
        reply = await call(app, "POST", "/echo", headers=headers, body=[b"a=" + b"x" * 40_000, b"x" * 40_000])
        assert (reply.status, reply.code) == (413, "body-too-large")


@pytest.mark.parametrize("length", [b"9" * 30, b"9" * 5000, b"-1", b"abc", b"", "٣".encode(), b"1, 2"])
async def test_nonsense_in_the_length_is_no_500(app: ASGIApp, length: bytes) -> None:
    """Whatever the length header says, the answer is one of ours."""
    reply = await call(app, "POST", "/echo", headers=[FORM, (b"content-length", length)], body=[b"a=1"])
    assert reply.status in (200, 400, 413)


async def test_caller_that_goes_away_is_refused(app: ASGIApp) -> None:
    """Half a body is never acted upon."""
    reply = await call(app, "POST", "/echo", headers=[FORM], body=[b"a=1&b="], is_cut=True)
    assert (reply.status, reply.code) == (400, "bad-request")


# --- single parameters -------------------------------------------------------------------------------------------


def number(text: str | None) -> int:
    """Read a number from 1 to 1000, 3 by default."""
    parameters = {} if text is None else {"confirms": text}
    return whole_number(parameters, "confirms", default=3, lowest=1, highest=1000)


@pytest.mark.parametrize(("text", "value"), [(None, 3), ("1", 1), ("1000", 1000), ("007", 7)])
def test_whole_numbers_are_read(text: str | None, value: int) -> None:
    """A number inside its range is read; a missing one has its default."""
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "0", "1001", "-1", "+1", "1.0", "1e2", " 1", "1 ", "0x1", "٣", "²", "9" * 5000])
def test_other_texts_are_no_whole_numbers(text: str) -> None:
    """All else is refused, with the name, what came, and what was wanted."""
    with pytest.raises(RequestError, match=r"confirms is .*, want a whole number from 1 to 1000") as caught:
        number(text)
    assert caught.value.code == "bad-number"
    assert len(str(caught.value)) < 200
    assert str(caught.value).isascii()


def test_required_parameter_must_be_there() -> None:
    """A missing, empty or blank parameter is refused by its name; another comes back as it is."""
    for parameters in ({}, {"url": ""}, {"url": " \t"}):
        with pytest.raises(RequestError, match="url is missing") as caught:
            required(parameters, "url")
        assert caught.value.code == "missing-parameter"
    assert required({"url": " x "}, "url") == " x "
