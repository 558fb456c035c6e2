"""What all of the dialect's calls have in common: the network, the fields, who calls, how a refusal looks."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import Endpoint, in_shape, route_of
from lightipn.api.owners import Doorkeeper
from lightipn.api.parameters import MAX_BODY_BYTES, body_of, query_of
from lightipn.bitcoin.network import Network
from lightipn.dialects.blockcypher import answers
from lightipn.dialects.blockcypher.objects import names_of
from lightipn.dialects.blockcypher.requests import fields_of
from lightipn.errors import RequestError
from lightipn.service.desk import Service

DIALECT = "blockcypher"
BASE = "/v1/btc/{network}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call whose caller is known.

    Args:
        fields: of query and body together.
        parts: of the path.
        url: of the chain, as the caller sees it.
    """

    fields: Mapping[str, object]
    parts: Mapping[str, str]
    owner: str
    url: str

    def text(self, name: str) -> str:
        """Return a field as text; empty where it is not there, or is no text, number or truth value."""
        value = self.fields.get(name, "")
        if not isinstance(value, str | int | float):
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    def texts(self) -> dict[str, str]:
        """Return all fields as texts, for what reads a query."""
        return {name: self.text(name) for name in self.fields}

    @property
    def token(self) -> str:
        """The key, where it came as the field ``token``."""
        return self.text("token")


Work = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What all calls of the dialect have in common: who calls, of which network, and how refusals look.

    Args:
        public_url: what links in answers begin with; empty for what the caller called.
    """

    service: Service
    doorkeeper: Doorkeeper
    network: Network
    public_url: str

    def routes(self, path: str, methods: Mapping[str, Work], *, most_body_bytes: int = MAX_BODY_BYTES) -> list[Route]:
        """Return the routes of a path below the chain's."""
        return [
            route_of(f"{BASE}{path}{slash}", self.answering(partial(self._answer, work, most_body_bytes)), [method])
            for method, work in methods.items()
            for slash in ("", "/")
        ]

    def nothing_here(self) -> list[Route]:
        """Return the route of everything else below the chain's path; it stands behind all others."""
        answer = self.answering(self._refuse_path)
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        return [route_of("/v1/btc/{network}/{rest:path}", answer, methods)]

    async def _refuse_path(self, request: Request) -> Response:
        self.check_network(request)
        raise RequestError(
            f"there is nothing at this path that takes {request.method}", code="unknown-path", status_hint=404
        )

    def answering(self, endpoint: Endpoint) -> Endpoint:
        """Have an endpoint answer refusals in the dialect's shape."""
        return in_shape(endpoint, lambda error: answers.ErrorJson(str(error)))

    async def _answer(self, work: Work, most_body_bytes: int, request: Request) -> Response:
        self.check_network(request)
        fields = fields_of(query_of(request), await body_of(request, most_bytes=most_body_bytes))
        call = Call(fields=fields, parts=request.path_params, owner="", url=self.url_of(request))
        owner = await self.doorkeeper.owner_of(request, call.texts(), dialect=DIALECT)
        return await work(replace(call, owner=owner))

    def check_network(self, request: Request) -> None:
        """Refuse the path of another network.

        Raises:
            RequestError: 404 ``other-network``.
        """
        asked = request.path_params["network"]
        if asked not in names_of(self.network):
            raise RequestError(
                f"this service runs on {self.network.name}, there is no chain btc/{asked[:40]!a} here;"
                f" want btc/{names_of(self.network)[0]}",
                code="other-network",
                status_hint=404,
            )

    def url_of(self, request: Request) -> str:
        """Return what links into the chain begin with."""
        base = (self.public_url or str(request.base_url)).rstrip("/")
        return f"{base}/v1/btc/{request.path_params['network']}"
