"""Errors as HTTP answers, in one shape: ``{"error": {"code": "...", "message": "..."}}``."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from lightipn.errors import RequestError


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a JSON value."""
    return Response(
        msgspec.json.encode(value), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def error_response(error: RequestError) -> Response:
    """Answer with an error; a missing key also says how one is sent."""
    headers = {"WWW-Authenticate": 'Basic realm="lightipn"'} if error.status_hint == 401 else {}
    body = {"error": {"code": error.code, "message": str(error)}}
    return json_response(body, status=error.status_hint, headers=headers)
