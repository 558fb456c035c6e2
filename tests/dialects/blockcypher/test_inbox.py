"""Webhooks of the real BlockCypher as they arrive here: who is let in, and what they cause."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import lightipn
from lightipn.bitcoin.address import Address
from lightipn.store import ledger
from tests.dialects.blockcypher.keys import private_pem, public_pem
from tests.dialects.blockcypher.rig import OpenCaller, hook, live_addresses, looked_at, rows_of
from tests.dialects.rig import ADDRESS, Caller
from tests.store.rows import regtest_address

PATHS = (
    "/btc/callbacks/address-webhook",
    "/api/v1/wallet/btc/callbacks/address-webhook",
    "/btc/callbacks/forward-webhook",
)
PATH = PATHS[0]
BODY = b'{"event":"unconfirmed-tx","hash":"test_hash_123","address":"%b","confirmations":0}' % ADDRESS.text.encode()
SUCCESS = {"status": "success", "event": "unconfirmed-tx"}
# The key that the original publishes.
PRESET = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEflgGqpIAC9k65JicOPBgXZUExen4rWLq05KwYmZHphTU"
    "/fmi3Oe/ckyxo2w3Ayo/SCO/rU2NB90jtCJfz9i1ow=="
)


def signed(message: bytes, *, number: int = 1) -> str:
    """Sign with a library, not with the service's functions."""
    key = serialization.load_pem_private_key(private_pem(number).encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA256()))).decode()


def body_header(body: bytes = BODY, *, number: int = 1) -> dict[str, str]:
    """Return the header that signs a body."""
    signature = signed(body, number=number)
    return {"X-BlockCypher-Signature": f'keyId="preset",algorithm="sha256-ecdsa",signature="{signature}"'}


def request_headers(
    body: bytes = BODY, *, target: str = PATH, names: str = "(request-target) digest date", number: int = 1
) -> dict[str, str]:
    """Return the headers that sign a request."""
    digest = "SHA-256=" + base64.b64encode(hashlib.sha256(body).digest()).decode()
    fields = {"(request-target)": f"post {target}", "digest": digest, "date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    message = "\n".join(f"{name}: {fields[name]}" for name in names.split())
    return {
        "Digest": fields["digest"],
        "Date": fields["date"],
        "Signature": f'keyId="preset",algorithm="sha256-ecdsa",headers="{names}",'
        f'signature="{signed(message.encode(), number=number)}"',
    }


async def received(
    caller: Caller, headers: dict[str, Any], body: bytes = BODY, path: str = PATH
) -> tuple[int, dict[str, str]]:
    """Have a webhook arrive, and return status and JSON of the answer."""
    answer = await caller.client.post(path, content=body, headers=headers)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


async def asked_for(caller: Caller) -> list[str]:
    """Return the addresses that the servers are asked for again, and forget them."""

    def work(db: Any) -> list[str]:
        changes = [
            scripthash
            for scripthash, kind, _ in ledger.take_watch_changes(db, limit=1000)
            if kind is ledger.WatchChange.ASKED
        ]
        found = ledger.load_addresses(db, changes)
        return [found.get(scripthash, "?") for scripthash in changes]

    return await caller.store.transact(work)


# --- signatures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_signed_webhook_is_taken_on_every_path(open_with: OpenCaller, path: str) -> None:
    """Both signature headers are taken on the three paths of the known consumer, with or without a slash, keyless."""
    async with open_with(webhook_key=public_pem()) as caller:
        for slash in ("", "/"):
            assert await received(caller, body_header(), path=path + slash) == (200, SUCCESS)
            headers = request_headers(target=path + slash)
            assert await received(caller, headers, path=path + slash) == (200, SUCCESS)


async def test_query_is_part_of_the_signed_request(open_with: OpenCaller) -> None:
    """A secret in the registered URL's query is signed with it."""
    async with open_with(webhook_key=public_pem()) as caller:
        target = f"{PATH}?secret=a%20b&x="
        assert await received(caller, request_headers(target=target), path=target) == (200, SUCCESS)
        status, _ = await received(caller, request_headers(target=PATH), path=target)
        assert status == 401


async def test_missing_signature_is_400(open_with: OpenCaller) -> None:
    """Without any signature header the answer is the known consumer's, and nobody is asked."""
    async with open_with(webhook_key=public_pem()) as caller:
        await looked_at(caller)
        await asked_for(caller)
        for headers in ({}, {"X-BlockCypher-Signature": ""}, {"Signature": ""}):
            assert await received(caller, headers) == (400, {"error": "No signature provided"})
        assert await asked_for(caller) == []


@pytest.mark.parametrize(
    "value",
    [
        b"test",
        b'keyId="test",algorithm="sha256-ecdsa"',
        b'keyId="test",algorithm="sha256-ecdsa",signature=""',
        b"signature=abc",
        b'keyId="test",algorithm="rsa-sha256",signature="AAAA"',
        b'keyId="test",algorithm="hs2019",signature="AAAA"',
    ],
)
@pytest.mark.parametrize("name", ["X-BlockCypher-Signature", "Signature"])
async def test_malformed_header_is_400(open_with: OpenCaller, name: str, value: bytes) -> None:
    """A header without a signature, or of another algorithm, is malformed."""
    async with open_with(webhook_key=public_pem()) as caller:
        answer = await caller.client.post(PATH, content=BODY, headers={name.encode(): value})
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid signature format"})


@pytest.mark.parametrize(
    "signature",
    [b"test", b"AAAA", b"not base64!", b"MEUCIQ===", b"\xe9", b"\xff\xfe", b"A" * 5000, b"MAYCAQACAQA="],
)
async def test_wrong_signature_is_401(open_with: OpenCaller, signature: bytes) -> None:
    """Whatever stands for a signature, it is no signature of the key: 401, and nobody is asked."""
    async with open_with(webhook_key=public_pem()) as caller:
        await looked_at(caller)
        await asked_for(caller)
        value = b'keyId="test",algorithm="sha256-ecdsa",signature="' + signature + b'"'
        answer = await caller.client.post(PATH, content=BODY, headers={b"X-BlockCypher-Signature": value})
        assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"})
        bound = {name.encode(): text.encode() for name, text in request_headers().items()}
        bound[b"Signature"] = b'headers="(request-target) digest date",' + value
        answer = await caller.client.post(PATH, content=BODY, headers=bound)
        assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"})
        assert await asked_for(caller) == []


async def test_signature_of_something_else_is_401(open_with: OpenCaller) -> None:
    """Another key, another body, another path, a hash of the body: none of them is this webhook's signature."""
    async with open_with(webhook_key=public_pem()) as caller:
        others: list[dict[str, str]] = [
            body_header(number=2),
            body_header(BODY + b" "),
            body_header(hashlib.sha256(BODY).digest()),
            request_headers(number=2),
            request_headers(target="/other"),
            request_headers() | {"Date": "Tue, 14 Nov 2023 22:13:21 GMT"},
        ]
        for headers in others:
            assert await received(caller, headers) == (401, {"error": "Invalid signature"})


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(request_headers(names="(request-target) date"), id="no digest"),
        pytest.param(request_headers(names="date"), id="date alone"),
        pytest.param(request_headers(BODY + b" "), id="digest of another body"),
        pytest.param({"Signature": request_headers()["Signature"]}, id="digest not sent"),
        pytest.param({"Signature": 'algorithm="sha256-ecdsa",signature="AAAA"'}, id="default is date alone"),
        pytest.param(
            request_headers() | {"Signature": 'headers="digest x-other",signature="AAAA"'}, id="header not there"
        ),
        pytest.param(
            request_headers() | {"Signature": 'headers="digest \u00e9",signature="AAAA"'}, id="header with odd name"
        ),
    ],
)
async def test_signature_that_does_not_bind_the_body_is_400(open_with: OpenCaller, headers: dict[str, str]) -> None:
    """A request signature must cover a digest that is the body's, and headers that are there."""
    async with open_with(webhook_key=public_pem()) as caller:
        raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        answer = await caller.client.post(PATH, content=BODY, headers=raw)
        assert answer.status_code == 400
        assert list(answer.json()) == ["error"]


async def test_without_verification_any_webhook_is_taken(caller: Caller) -> None:
    """Where the operator switched verification off no header is looked at."""
    headers: tuple[dict[str, str], ...] = ({}, {"X-BlockCypher-Signature": "test"}, body_header(number=2))
    for one in headers:
        assert await received(caller, one) == (200, SUCCESS)


async def test_preset_key_is_the_originals() -> None:
    """The key that comes with the package is the one that BlockCypher publishes."""
    pem = (Path(lightipn.__file__).parent / "data" / "blockcypher.pem").read_text("ascii")
    key = serialization.load_pem_public_key(pem.encode())
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64encode(der).decode() == PRESET


# --- what they cause ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"event":"unconfirmed-tx","address":"%b"}',
        b'{"event":"unconfirmed-tx","addresses":["%b","1BoatSLRHtKNngkdXEeobR76b53LETtpyT","x",""]}',
        b'{"event":"unconfirmed-tx","id":"1","input_address":"%b","destination_address":"x","value":5}',
        b'{"event":"unconfirmed-tx","address":"%b","hash":null,"value":"lots","confirmations":[1]}',
    ],
)
async def test_watched_address_is_looked_at_again(caller: Caller, body: bytes) -> None:
    """The servers are asked again for a watched address that a webhook names, under whichever of the known fields."""
    await looked_at(caller)
    await asked_for(caller)
    assert await received(caller, {}, body.replace(b"%b", ADDRESS.text.encode())) == (200, SUCCESS)
    assert await asked_for(caller) == [ADDRESS.text]


async def test_hint_that_comes_again_within_seconds_asks_nobody(caller: Caller) -> None:
    """Anybody may send what is not verified: the same address is asked for once in five seconds, others beside it."""
    await looked_at(caller)
    await looked_at(caller, regtest_address(1))
    await asked_for(caller)
    found = []
    for pause_s in (0.0, 1.0, 3.9, 0.1):
        caller.now += pause_s
        assert await received(caller, {}) == (200, SUCCESS)
        found.append(await asked_for(caller))
    assert found == [[ADDRESS.text], [], [], [ADDRESS.text]]
    await received(caller, {}, BODY.replace(ADDRESS.text.encode(), regtest_address(1).text.encode()))
    assert await asked_for(caller) == [regtest_address(1).text]


async def test_unwatched_address_asks_nobody(caller: Caller) -> None:
    """An address that nobody watches is no reason to ask: no row, no question, and the answer is the same."""
    assert await received(caller, {}) == (200, SUCCESS)
    assert await asked_for(caller) == []
    assert await rows_of(caller, "SELECT * FROM script") == []


async def test_webhook_is_a_hint_and_no_evidence(caller: Caller) -> None:
    """Whatever a webhook claims, no payment and no message comes of it."""
    await hook(caller, "unconfirmed-tx")
    body = b'{"event":"tx-confirmation","address":"%b","value":5000000,"confirmations":6,"hash":"%b"}'
    await received(caller, {}, body % (ADDRESS.text.encode(), b"ab" * 32))
    for table in ("ledger_entry", "message", "payment_transaction"):
        assert await rows_of(caller, f"SELECT * FROM {table}") == []
    assert await live_addresses(caller) == [ADDRESS.text]


async def test_each_address_is_asked_for_once(caller: Caller) -> None:
    """One that is named often is asked for once, and no more than a hundred names are read."""
    many: list[Address] = [regtest_address(number) for number in range(120)]
    for address in many:
        await looked_at(caller, address)
    await asked_for(caller)
    names = '","'.join(address.text for address in [many[0], many[0], *many])
    await received(
        caller, {}, f'{{"event":"unconfirmed-tx","address":"{many[0].text}","addresses":["{names}"]}}'.encode()
    )
    found = await asked_for(caller)
    assert found == [address.text for address in many[: len(found)]]
    assert 90 < len(found) <= 100


@pytest.mark.parametrize(
    ("body", "headers", "event"),
    [
        (b"{}", {}, ""),
        (b"", {"X-EventType": "new-block"}, "new-block"),
        (b'{"event":"confirmed-tx"}', {"X-EventType": "new-block"}, "confirmed-tx"),
        (b'{"event":"' + b"x" * 500 + b'"}', {}, "x" * 40),
    ],
)
async def test_event_is_repeated(caller: Caller, body: bytes, headers: dict[str, str], event: str) -> None:
    """The answer names the event: of the body, or of the header that the original sends."""
    assert await received(caller, headers, body) == (200, {"status": "success", "event": event})


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{", b"\xff", b'"x"', b"[" * 30_000, b'{"event":5}', b'{"addresses":"x"}', b'{"address":["x"]}'],
)
async def test_what_is_no_webhook_is_400(caller: Caller, body: bytes) -> None:
    """Bodies of another shape are refused in the dialect's shape."""
    status, answer = await received(caller, {}, body)
    assert (status, list(answer)) == (400, ["error"])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_only_post_is_taken(caller: Caller, method: str) -> None:
    """A webhook is a POST; anything else is 405, and causes nothing."""
    for path in PATHS:
        assert (await caller.client.request(method, path)).status_code == 405
