"""Webhooks of the dialect ``blockcypher`` as a shop has them, and what bitcoind says of the same.

What bitcoind says is put together here from its decoded transactions and its headers alone.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx

from tests.dialects.blockcypher.verifier import check_body, check_request
from tests.regtest.calls import answer_of
from tests.regtest.feed import WAIT_S
from tests.regtest.nodes import SAT_PER_BTC, Bitcoind
from tests.regtest.shop import Shop, ShopRequest
from tests.service_process import ServiceProcess

BASE = "/v1/btc/regtest"
SCRIPT_TYPES = {
    "pubkeyhash": "pay-to-pubkey-hash",
    "scripthash": "pay-to-script-hash",
    "witness_v0_keyhash": "pay-to-witness-pubkey-hash",
    "witness_v0_scripthash": "pay-to-witness-script-hash",
    "witness_v1_taproot": "pay-to-taproot",
    "nulldata": "null-data",
}
HIGHEST_FINAL_SEQUENCE = 0xFFFFFFFE  # BIP-125: an input below it lets the transaction be replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook as it arrived.

    Args:
        event, hook_id, message_id: as its headers have them.
        said: its body.
    """

    event: str
    hook_id: str
    message_id: str
    said: dict[str, Any]
    request: ShopRequest


def webhook_of(request: ShopRequest) -> Webhook:
    """Read a request as a webhook; its header and its body must name the same event."""
    said = json.loads(request.body)
    headers = request.headers
    assert (request.method, headers["content-type"]) == ("POST", "application/json")
    assert headers["x-eventtype"] == said["event"]
    return Webhook(
        event=said["event"],
        hook_id=headers["x-eventid"],
        message_id=headers["x-webhookid"],
        said=said,
        request=request,
    )


def webhooks_of(shop: Shop, **fields: object) -> list[Webhook]:
    """Return the webhooks whose bodies have these fields, oldest first."""
    found = map(webhook_of, shop.requests)
    return [webhook for webhook in found if fields.items() <= webhook.said.items()]


async def wait_webhook(shop: Shop, *, count: int = 1, deadline_s: float = WAIT_S, **fields: object) -> Webhook:
    """Wait for the ``count``-th webhook whose body has these fields.

    Raises:
        TimeoutError: it did not come before the deadline; the message lists what came.
    """

    def is_wanted(request: ShopRequest) -> bool:
        return fields.items() <= json.loads(request.body).items()

    try:
        return webhook_of(await shop.wait_for(is_wanted, deadline_s, count=count))
    except TimeoutError:
        names = ("event", "hash", "confirmations", "height")
        came = [{name: said[name] for name in names if name in said} for said in _said_to(shop)]
        listed = "\n  ".join(map(str, came))
        raise TimeoutError(f"not {count} within {deadline_s:g} s: {fields}; the shop heard:\n  {listed}") from None


def _said_to(shop: Shop) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in shop.requests]


def check_signatures(webhook: Webhook, public_pem: str, *, key_id: str) -> None:
    """Check both signatures of a webhook with a verifier that is none of the service's.

    Raises:
        cryptography.exceptions.InvalidSignature: one of them is not of this key.
    """
    request = webhook.request
    headers = httpx.Headers(request.headers)
    assert check_body(public_pem, headers, request.body) == key_id
    assert check_request(public_pem, request.method, request.target, headers, request.body) == key_id


async def add_hook(service: ServiceProcess, event: str, url: str, *, base: str = BASE, **fields: object) -> str:
    """Add a hook as clients do, and return its id."""
    data = json.dumps({"event": event, "url": url} | fields)
    path = f"{base}/hooks?token={service.key}"
    return str((await answer_of(service, "POST", path, status=201, data=data, key=""))["id"])


async def signing_key(service: ServiceProcess) -> str:
    """Return the PEM of the service's public key, as anybody gets it."""
    found = await answer_of(service, "GET", f"{BASE}/signing-key", key="")
    assert found.keys() == {"algorithm", "public_key"}
    assert found["algorithm"] == "sha256-ecdsa"
    return str(found["public_key"])


# --- the same, said by bitcoind ----------------------------------------------------------------------------------


def time_text(unix_s: int) -> str:
    """Print a time as webhooks have it."""
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sat_of(amount_btc: Decimal) -> int:
    """Return satoshis."""
    return int(amount_btc * SAT_PER_BTC)


async def raw_of(bitcoind: Bitcoind, txid: str) -> str:
    """Return a transaction that bitcoind knows, in hex."""
    return str((await bitcoind.transaction(txid))["hex"])


async def payment_truth(
    bitcoind: Bitcoind, raw: str, address: str, *, block_hash: str | None = None, confirmations: int = 0
) -> dict[str, Any]:
    """Return what must be told of a payment to an address: all but the event, and what only the service knows.

    Args:
        raw: of the transaction, in hex; bitcoind need not know it any more.
        block_hash: of its block; None outside a block.
    """
    decoded = await bitcoind.rpc("decoderawtransaction", raw)
    contents = await _contents_of(bitcoind, decoded)
    received = sum(output["value"] for output in contents["outputs"] if output["addresses"] == [address])
    sent = sum(part["output_value"] for part in contents["inputs"] if part["addresses"] == [address])
    place: dict[str, Any] = {"block_height": -1, "block_index": -1, "confirmations": confirmations}
    if block_hash is not None:
        block = await bitcoind.rpc("getblock", block_hash)
        place |= {
            "block_hash": block_hash,
            "block_height": block["height"],
            "block_index": block["tx"].index(decoded["txid"]),
            "confirmed": time_text((await bitcoind.rpc("getblockheader", block_hash))["time"]),
        }
    about = {"hash": decoded["txid"], "double_spend": False, "address": address, "value": received - sent}
    return contents | place | about


async def _contents_of(bitcoind: Bitcoind, decoded: dict[str, Any]) -> dict[str, Any]:
    inputs = [await _input_of(bitcoind, part) for part in decoded["vin"]]
    outputs = [_output_of(output) for output in decoded["vout"]]
    total = sum(output["value"] for output in outputs)
    contents = {
        "addresses": _joined(part["addresses"] or [] for part in (*inputs, *outputs)),
        "total": total,
        "fees": sum(part["output_value"] for part in inputs) - total,
        "size": decoded["size"],
        "vsize": decoded["vsize"],
        "ver": decoded["version"],
        "opt_in_rbf": any(part["sequence"] < HIGHEST_FINAL_SEQUENCE for part in inputs),
        "vin_sz": len(inputs),
        "vout_sz": len(outputs),
        "inputs": inputs,
        "outputs": outputs,
    }
    return contents | ({"lock_time": decoded["locktime"]} if decoded["locktime"] else {})


def _joined(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(address for addresses in lists for address in addresses))


async def _input_of(bitcoind: Bitcoind, part: dict[str, Any]) -> dict[str, Any]:
    spent = (await bitcoind.transaction(part["txid"]))["vout"][part["vout"]]
    script = part["scriptSig"]["hex"]
    return {
        "prev_hash": part["txid"],
        "output_index": part["vout"],
        "sequence": part["sequence"],
        "output_value": sat_of(spent["value"]),
        "addresses": [spent["scriptPubKey"]["address"]],
        "script_type": SCRIPT_TYPES[spent["scriptPubKey"]["type"]],
    } | ({"script": script} if script else {})


def _output_of(output: dict[str, Any]) -> dict[str, Any]:
    script = output["scriptPubKey"]
    found = {
        "value": sat_of(output["value"]),
        "script": script["hex"],
        "addresses": [script["address"]] if "address" in script else None,
        "script_type": SCRIPT_TYPES[script["type"]],
    }
    return found | ({"data_hex": script["asm"].split()[1]} if script["type"] == "nulldata" else {})


async def block_truth(bitcoind: Bitcoind, block_hash: str) -> dict[str, Any]:
    """Return all that must be told of a block."""
    header = await bitcoind.rpc("getblockheader", block_hash)
    return {
        "event": "new-block",
        "hash": block_hash,
        "height": header["height"],
        "chain": "BTC.regtest",
        "ver": header["version"],
        "time": time_text(header["time"]),
        "bits": int(header["bits"], 16),
        "nonce": header["nonce"],
        "prev_block": header["previousblockhash"],
        "mrkl_root": header["merkleroot"],
    }
