"""Makes calls of PyPI's ``blockcypher`` 1.0.93 to another API than BlockCypher's; runs in the Python of its own.

Standard input is JSON: ``{"url": "http://host", "calls": [["list_webhooks", {"api_key": key, ...}], ...]}``. Standard
output is a JSON list with one answer a call: ``{"result": ...}``, or ``{"error": {...}}`` with what the SDK raised.

The redirection is what a shop would write: one constant. The SDK has no exceptions of its own for refusals: what it
raises is whatever went wrong with the answer.
"""

import json
import sys

from blockcypher import api


def answer_of(name, arguments):
    """Make one call, and return what came of it; times as ISO 8601."""
    try:
        return {"result": getattr(api, name)(**arguments)}
    except Exception as error:  # noqa: BLE001  # whatever it is, the test names it
        return {"error": {"kind": type(error).__name__, "message": str(error)}}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    api.BLOCKCYPHER_DOMAIN = asked["url"].rstrip("/")
    answers = [answer_of(name, arguments) for name, arguments in asked["calls"]]
    json.dump(answers, sys.stdout, default=lambda value: value.isoformat())
