"""Who calls: keys in every place where one may travel."""

import base64

import pytest
from starlette.types import ASGIApp

from lightipn.service.desk import Service
from tests.api.asgi import FORM, JSON, Reply, call


def basic(user: str, password: str = "") -> tuple[bytes, bytes]:
    """Return the header of HTTP Basic."""
    return (b"authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode()))


def bearer(secret: str) -> tuple[bytes, bytes]:
    """Return the header of a bearer token."""
    return (b"authorization", f"Bearer {secret}".encode())


async def ask(app: ASGIApp, *headers: tuple[bytes, bytes], query: bytes = b"", dialect: str = "shut") -> Reply:
    """Ask who calls."""
    return await call(app, "GET", f"/owner/{dialect}", query=query, headers=headers)


async def test_key_travels_in_any_of_five_ways(app: ASGIApp, service: Service) -> None:
    """Bearer, Basic user name, X-API-Key, ``key`` and ``token`` all name the owner."""
    secret = await service.owners.create_key("shop")
    for headers, query in (
        ([bearer(secret)], b""),
        ([(b"authorization", f"bearer  {secret} ".encode())], b""),
        ([basic(secret)], b""),
        ([basic(secret, "any password")], b""),
        ([(b"x-api-key", secret.encode())], b""),
        ([], f"key={secret}".encode()),
        ([], f"token={secret}".encode()),
    ):
        reply = await ask(app, *headers, query=query)
        assert (reply.status, reply.json) == (200, {"owner": "shop"})


async def test_key_travels_in_the_body(app: ASGIApp, service: Service) -> None:
    """A form and a JSON object may carry the key too."""
    secret = await service.owners.create_key("shop")
    for header, body in ((FORM, f"key={secret}"), (JSON, f'{{"token": "{secret}"}}')):
        reply = await call(app, "POST", "/owner/shut", headers=[header], body=[body.encode()])
        assert reply.json == {"owner": "shop"}


async def test_missing_key_is_401_with_the_way_to_send_one(app: ASGIApp) -> None:
    """Without a key the answer says how one is sent."""
    reply = await ask(app)
    assert (reply.status, reply.code) == (401, "key-missing")
    assert reply.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        pytest.param([bearer("lipn_wrong")], b"", id="bearer"),
        pytest.param([bearer("")], b"", id="empty bearer"),
        pytest.param([(b"authorization", b"Bearer")], b"", id="bearer alone"),
        pytest.param([basic("lipn_wrong")], b"", id="basic"),
        pytest.param([(b"authorization", b"Basic !!!")], b"", id="basic, no base64"),
        pytest.param([(b"authorization", b"Basic /////w==")], b"", id="basic, no UTF-8"),
        pytest.param([(b"authorization", b"Basic")], b"", id="basic alone"),
        pytest.param([(b"authorization", b"Bearer \xff\xfe")], b"", id="bytes"),
        pytest.param([(b"x-api-key", b"lipn_wrong")], b"", id="header"),
        pytest.param([(b"x-api-key", b"\xff")], b"", id="header, bytes"),
        pytest.param([], b"key=lipn_wrong", id="key"),
        pytest.param([], b"key=%00", id="NUL"),
        pytest.param([], b"token=%F0%9F%98%80", id="token, emoji"),
        pytest.param([], b"key=" + b"x" * 10_000, id="endless"),
        pytest.param([], b"key=%27+OR+1%3D1--", id="SQL"),
    ],
)
async def test_unknown_key_is_401(app: ASGIApp, headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    """A key that is not ours opens nothing, whatever it is made of; not even an anonymous dialect."""
    for dialect in ("shut", "open"):
        reply = await ask(app, *headers, query=query, dialect=dialect)
        assert (reply.status, reply.code) == (401, "key-unknown")


async def test_anonymous_dialect_needs_no_key(app: ASGIApp, service: Service) -> None:
    """Callers without a key share the owner ``anonymous`` where the operator allows it; a key still names its owner."""
    assert (await ask(app, dialect="open")).json == {"owner": "anonymous"}
    secret = await service.owners.create_key("shop")
    assert (await ask(app, bearer(secret), dialect="open")).json == {"owner": "shop"}


async def test_revoked_key_is_refused_from_the_next_request_on(app: ASGIApp, service: Service) -> None:
    """Nothing of a key outlives its revocation, and a rotation's other key stays good."""
    old, new = await service.owners.create_key("shop"), await service.owners.create_key("shop")
    assert (await ask(app, bearer(old))).status == 200
    await service.owners.revoke_keys("shop", key_id=1)
    assert (await ask(app, bearer(old))).status == 401
    assert (await ask(app, bearer(new))).json == {"owner": "shop"}
    await service.owners.revoke_keys("shop")
    assert (await ask(app, bearer(new))).code == "key-unknown"


async def test_error_does_not_repeat_the_key(app: ASGIApp) -> None:
    """A key, even a wrong one, is not in any answer."""
    for headers, query in (([bearer("lipn_hunter2")], b""), ([], b"key=lipn_hunter2"), ([basic("lipn_hunter2")], b"")):
        reply = await ask(app, *headers, query=query)
        assert b"hunter2" not in reply.body
        assert "hunter2" not in str(reply.headers)
