"""Routes and error handling, put together."""

from collections.abc import Callable, Sequence

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from lightipn.api.errors import error_response
from lightipn.errors import RequestError, StoreError

log = structlog.get_logger("api")


def build_app(routes: Sequence[BaseRoute], *, stop_for: Callable[[StoreError], None]) -> ASGIApp:
    """Return the ASGI application.

    Args:
        stop_for: called when the database fails under a request: the process cannot go on.
    """

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error_response(error)

    async def refuse_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, message = "bad-request", str(error.detail)
        if error.status_code == 404:
            code, message = "unknown-path", "there is nothing at this path"
        elif error.status_code == 405:
            code, message = "wrong-method", f"this path does not take {request.method[:20]!a}"
        response = error_response(RequestError(message, code=code, status_hint=error.status_code))
        for name, value in (error.headers or {}).items():
            response.headers[name] = value
        return response

    async def fail(request: Request, error: Exception) -> Response:
        assert isinstance(error, StoreError)
        stop_for(error)
        return error_response(RequestError("the service is stopping", code="stopping", status_hint=503))

    async def crash(request: Request, error: Exception) -> Response:
        log.error("api.request_crashed", method=request.method, path=_shape_of(request), exc_info=error)
        return error_response(RequestError("the request could not be answered", code="internal", status_hint=500))

    app = Starlette(
        routes=list(routes),
        exception_handlers={RequestError: refuse, HTTPException: refuse_route, StoreError: fail, Exception: crash},
    )
    # A redirect to the path without its slash would have to repeat a query that may be no UTF-8.
    app.router.redirect_slashes = False
    return app


def _shape_of(request: Request) -> str:
    """Return the path as its route is written: what was filled in may be a secret."""
    route = request.scope.get("route")
    return str(getattr(route, "path", ""))
