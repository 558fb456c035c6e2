"""The README's advice to receivers of webhooks: its lines of Python and of JavaScript tell true from false."""

import base64
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.exceptions import InvalidSignature

from tests.clients.sdk import find_sdk
from tests.dialects.blockcypher.keys import public_pem
from tests.regtest.feed import WAIT_S
from tests.regtest.nodes import Bitcoind
from tests.regtest.shop import Shop, ShopRequest, silent_ok
from tests.regtest.webhooks import add_hook, signing_key
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.slow
README = Path(__file__).parents[2] / "README.md"
MOST_LINES = 12
# Reads cases as the parameters of the function, with the body in base64, and prints what it says of each.
DRIVER = """
const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const told = cases.map(one => verifyWebhook(...one.slice(0, 4), Buffer.from(one[4], 'base64')))
process.stdout.write(JSON.stringify(told))
"""

Case = tuple[str, str, str, dict[str, str], bytes]


def snippet_with(marker: str) -> str:
    """Return the README's indented block that has this text."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", README.read_text(), re.MULTILINE)
    [found] = [textwrap.dedent(block).strip("\n") for block in blocks if marker in block]
    assert len(found.splitlines()) <= MOST_LINES
    return f"{found}\n"


@pytest.fixture
async def cases(service: ServiceProcess, bitcoind: Bitcoind, shop: Shop) -> dict[str, Case]:
    """A webhook as it arrived, under the name ``right``; and the same with one thing changed, under what that is."""
    shop.policy = silent_ok
    address = await bitcoind.new_address()
    await add_hook(service, "unconfirmed-tx", f"{shop.url}/paid?order=7&secret=a%2Fb", address=address)
    await bitcoind.send(address, 12_345)
    request = await shop.wait_for(lambda request: True, WAIT_S)
    right = (await signing_key(service), request.method, request.target, request.headers, request.body)
    return {"right": right} | changed_of(right, request)


def changed_of(right: Case, request: ShopRequest) -> dict[str, Case]:
    """Return the same webhook with one thing changed, by the name of that."""
    key, method, target, headers, body = right
    unsigned_body = headers | {"x-blockcypher-signature": headers["signature"]}
    unsigned_request = headers | {"signature": headers["x-blockcypher-signature"]}
    return {
        "key": (public_pem(), method, target, headers, body),
        "method": (key, "PUT", target, headers, body),
        "target": (key, method, request.path, headers, body),
        "date": (key, method, target, headers | {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}, body),
        "body": (key, method, target, headers, body.replace(b"12345", b"92345")),
        "signature of the body": (key, method, target, unsigned_body, body),
        "signature of the request": (key, method, target, unsigned_request, body),
    }


def is_true(verify: Callable[..., None], case: Case) -> bool:
    """Tell what the lines of Python say of a webhook."""
    try:
        verify(*case)
    except InvalidSignature:
        return False
    return True


async def test_lines_of_python_in_the_readme_tell_true_webhooks_from_false_ones(cases: dict[str, Case]) -> None:
    """The README's Python takes a webhook as it arrived, and refuses it with anything that is signed changed."""
    named: dict[str, Any] = {}
    exec(snippet_with("def verify_webhook"), named)  # noqa: S102  # our own README
    told = {name: is_true(named["verify_webhook"], case) for name, case in cases.items()}
    assert told == {name: name == "right" for name in cases}


async def test_lines_of_javascript_in_the_readme_tell_true_webhooks_from_false_ones(
    sdks: None, cases: dict[str, Case], tmp_path: Path
) -> None:
    """The README's JavaScript does the same, and takes no webhook without a signature either."""
    key, method, target, headers, body = cases["right"]
    bare = {name: value for name, value in headers.items() if "signature" not in name}
    asked = cases | {"no signature": (key, method, target, bare, body)}
    script = tmp_path / "verify.js"
    script.write_text(snippet_with("function verifyWebhook") + DRIVER)
    done = await trio.run_process(
        [find_sdk("blockchain-node"), script],
        stdin=json.dumps([(*case[:4], base64.b64encode(case[4]).decode()) for case in asked.values()]).encode(),
        capture_stdout=True,
    )
    assert dict(zip(asked, json.loads(done.stdout), strict=True)) == {name: name == "right" for name in asked}
