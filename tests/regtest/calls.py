"""The HTTP calls that the documents of two dialects show as curl lines, and what became of what is told."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import trio

from tests.regtest.feed import LOOK_AGAIN_S, WAIT_S
from tests.service_process import ServiceProcess

JSON = {"Content-Type": "application/json"}
PLAIN = {"Content-Type": "text/plain"}
CALL_DEADLINE_S = 20


async def curl(
    service: ServiceProcess,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    data: str = "",
    key: str = "",
) -> httpx.Response:
    """Make exactly this request.

    Args:
        path: with the query, as it stands on curl's command line.
        data: of ``--data``.
        key: sent as ``X-API-Key``; empty for a request without one, or with one in its path or data.
    """
    sent = dict(headers or {}) | ({"X-API-Key": key} if key else {})
    async with httpx.AsyncClient(trust_env=False, timeout=CALL_DEADLINE_S) as client:
        return await client.request(method, f"{service.url}{path}", headers=sent, content=data)


async def answer_of(service: ServiceProcess, method: str, path: str, *, status: int = 200, **more: Any) -> Any:
    """Make a request as ``curl`` does, with the first key, and return the JSON of its answer, which has this status."""
    answer = await curl(service, method, path, **{"key": service.key} | more)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


def deliveries(service: ServiceProcess) -> list[dict[str, Any]]:
    """Return the messages as the operator sees them, the oldest first."""
    found: list[dict[str, Any]] = json.loads(service.cli("delivery", "list", "--json").stdout)
    return found[::-1]


async def wait_deliveries(service: ServiceProcess, *states: str) -> list[dict[str, Any]]:
    """Wait until the messages are in these states, the oldest first, and return them.

    Raises:
        TimeoutError: they did not come to it before the deadline; the message tells what they are.
    """
    found: list[dict[str, Any]] = []
    with trio.move_on_after(WAIT_S):
        while [item["state"] for item in found] != list(states):
            await trio.sleep(LOOK_AGAIN_S)
            found = deliveries(service)
        return found
    raise TimeoutError(f"the messages are not {states} within {WAIT_S:g} s, but {found}")
