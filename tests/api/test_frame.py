"""Whatever a caller sends, the answer is JSON of one shape and never a 500."""

from collections.abc import Sequence

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lightipn.api.errors import json_response
from lightipn.api.frame import build_app
from lightipn.api.parameters import parameters_of, required, whole_number
from lightipn.errors import StoreError
from lightipn.service.desk import Service
from tests.api.asgi import FORM, JSON, Reply, call


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/echo/more", "/ECHO", "//echo", "/echo%00", "/\x00", "/ä", "/../echo"]
)
async def test_unknown_path_is_404(app: ASGIApp, path: str) -> None:
    """A path that nobody answers is a JSON error, whatever the method."""
    for method in ("GET", "POST", "BREW"):
        reply = await call(app, method, path)
        assert (reply.status, reply.code) == (404, "unknown-path")


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "X" * 9000]
)
async def test_wrong_method_is_405_with_allow(app: ASGIApp, method: str) -> None:
    """A method that a path does not take is refused with those it takes."""
    reply = await call(app, method, "/read")
    assert (reply.status, reply.code) == (405, "wrong-method")
    assert {name.strip() for name in reply.headers["allow"].split(",")} == {"GET", "HEAD"}
    assert len(reply.body) < 500


async def test_head_answers_like_get_without_a_body(app: ASGIApp) -> None:
    """HEAD is GET as far as the status and the type go."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://ipn") as client:
        got, headed = await client.get("/read?a=1"), await client.head("/read?a=1")
    assert (headed.status_code, headed.headers["content-type"]) == (got.status_code, got.headers["content-type"])


async def test_failing_database_stops_the_process(app: ASGIApp, failures: list[StoreError]) -> None:
    """A request that hits a broken database is 503 without its reason, and the process is told to stop."""
    reply = await call(app, "GET", "/broken")
    assert (reply.status, reply.code) == (503, "stopping")
    assert b"disk" not in reply.body
    assert [str(failure) for failure in failures] == ["the disk is full"]


async def test_dialect_answers_in_its_own_shape(app: ASGIApp) -> None:
    """A refusal inside a dialect's endpoint has the dialect's shape; a missing key also says how one is sent."""
    assert (await call(app, "GET", "/shaped/200")).json == {"fine": True}
    for status in (400, 401, 404, 503):
        reply = await call(app, "GET", f"/shaped/{status}")
        assert (reply.status, reply.json) == (status, {"oops": ["not-now", "not now"]})
        assert reply.headers["content-type"] == "application/json"
        assert ("www-authenticate" in reply.headers) == (status == 401)


async def test_message_is_one_printable_line(app: ASGIApp) -> None:
    """What a caller sent comes back escaped, never as it was."""
    for query in (b"a%0d%0aX: y=1&a%0d%0aX: y=2", b"%1b[31m=1&%1b[31m=2", b"%E2%80%AE=1&%E2%80%AE=2"):
        reply = await call(app, "GET", "/echo", query=query)
        assert reply.code == "bad-request"
        message = reply.json["error"]["message"]
        assert message.isascii()
        assert message.isprintable()


NASTY_HEADERS = [
    [],
    [FORM],
    [JSON],
    [(b"content-type", b"multipart/form-data; boundary=x")],
    [(b"content-type", b"\xff\xfe")],
    [(b"content-type", b";;;=")],
    [(b"content-length", b"99999999999999999999")],
    [(b"content-encoding", b"gzip")],
    [(b"authorization", b"Basic Og==")],
    [(b"authorization", b"Digest x")],
    [(b"authorization", b"\x00")],
    [(b"host", b"evil\xff")],
    [],
]
parts = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"{", b"}", b'"a":', b"\xff", b"&", b"=", b"%", b"\x00", b"key=", b"n=", b"[", b"1e9", b"\\u0000"]
    ),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", ""]),
    path=st.one_of(st.sampled_from(["/echo", "/read", "/number", "/echo/", ""]), st.text(max_size=10).map("/".__add__)),
    query=st.lists(parts, max_size=6).map(b"".join),
    headers=st.sampled_from(NASTY_HEADERS),
    body=st.lists(parts, max_size=6),
)
def test_no_request_is_answered_with_a_500(
    method: str, path: str, query: bytes, headers: Sequence[tuple[bytes, bytes]], body: list[bytes]
) -> None:
    """For any bytes in method, path, query, headers and body, nothing is raised and errors have the one shape."""

    async def echo(request: Request) -> Response:
        return json_response(await parameters_of(request))

    async def number(request: Request) -> Response:
        parameters = await parameters_of(request)
        required(parameters, "key")
        return json_response(whole_number(parameters, "n", default=1, lowest=0, highest=9))

    routes = [
        Route("/echo", echo, methods=["GET", "POST", "PUT", "DELETE"]),
        Route("/read", echo),
        Route("/number", number, methods=["GET", "POST"]),
    ]
    failures: list[StoreError] = []
    app = build_app(routes, stop_for=failures.append)

    async def run() -> Reply:
        return await call(app, method, path, query=query, headers=headers, body=body)

    reply = trio.run(run)
    assert reply.status < 500
    assert reply.status in (200, 307) or reply.code


async def test_error_of_a_route_has_the_one_shape(service: Service) -> None:
    """A request error that a route raises is answered with its code and status."""

    async def refuse(request: Request) -> Response:
        await service.deliveries.show(7)
        raise AssertionError

    failures: list[StoreError] = []
    app = build_app([Route("/", refuse)], stop_for=failures.append)
    reply = await call(app)
    assert (reply.status, reply.code) == (404, "unknown-delivery")
    assert reply.json["error"]["message"] == "there is no delivery 7"
