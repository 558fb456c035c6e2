"""Errors as HTTP answers, in one shape: ``{"error": {"code": "...", "message": "..."}}``."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.errors import RequestError


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a JSON value."""
    return Response(
        msgspec.json.encode(value), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


Endpoint = Callable[[Request], Awaitable[Response]]


def route_of(path: str, endpoint: Endpoint, methods: list[str]) -> Route:
    """Return a route that takes these methods alone: starlette adds HEAD, and a link's preview must change nothing."""
    route = Route(path, endpoint, methods=methods)
    route.methods = set(methods)
    return route


def in_shape(endpoint: Endpoint, error_json_of: Callable[[RequestError], object]) -> Endpoint:
    """Have an endpoint answer refusals in a dialect's own shape."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return json_response(error_json_of(error), status=error.status_hint, headers=_headers_of(error))

    return answer


def _headers_of(error: RequestError) -> dict[str, str]:
    """A missing key also says how one is sent."""
    return {"WWW-Authenticate": 'Basic realm="lightipn"'} if error.status_hint == 401 else {}


def error_response(error: RequestError) -> Response:
    """Answer with an error."""
    body = {"error": {"code": error.code, "message": str(error)}}
    return json_response(body, status=error.status_hint, headers=_headers_of(error))
