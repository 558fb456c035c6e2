"""A client of the bitcoin-callback API, by the standard library alone and blocking, as a small shop has one."""

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from tests.regtest.shop import ShopAnswer, ShopRequest

TIMEOUT_S = 10
JSON_ACKNOWLEDGEMENT = b'{"acknowledged": true}'
# As the API's document prints it, and as Python prints a dictionary.
PYTHON_ACKNOWLEDGEMENT = b"{'acknowledged': True}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackClient:
    """Subscribes, looks at callbacks, and acknowledges them.

    Args:
        url: base URL of the API.
        key: sent as the user name of HTTP Basic, as ``https://KEY@host/`` means it.
    """

    url: str
    key: str

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Make a call, and return its status and the JSON of its answer, a refusal too."""
        basic = base64.b64encode(f"{self.key}:".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {basic}"}
        opener = build_opener(ProxyHandler({}))
        request = Request(self.url + path, data=body, headers=headers, method=method)  # noqa: S310  # http of a test
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def subscribe(self, address: str, callback_url: str) -> int:
        """Subscribe to an address, and return the subscription's id."""
        body = json.dumps({"address": address, "callback_url": callback_url}).encode()
        status, answer = self.call("POST", "/subscription", body)
        assert status == 202, answer
        return answer["id"]

    def callbacks(self, subscription_id: int) -> list[dict[str, Any]]:
        """Return the callbacks of a subscription."""
        status, answer = self.call("GET", f"/callback?subscription={subscription_id}")
        assert status == 200, answer
        return answer["callbacks"]

    def acknowledge(self, callback_id: str, body: bytes = JSON_ACKNOWLEDGEMENT) -> tuple[int, Any]:
        """Acknowledge a callback; returns as ``call`` does."""
        return self.call("PATCH", f"/callback/{callback_id}", body)

    def acknowledge_at_once(self, request: ShopRequest) -> ShopAnswer:
        """Acknowledge a callback while its sender still waits for the answer: the policy of an eager shop."""
        status, answer = self.acknowledge(json.loads(request.body)["id"])
        return ShopAnswer(status=200 if (status, answer["acknowledged"]) == (200, True) else 500)
