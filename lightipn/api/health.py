"""``/healthz``: the process lives. ``/readyz``: what it says about payments can be relied on."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import json_response
from lightipn.chain.source import ServerState, WatchStatistics

LONGEST_GAP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """How far the service is.

    Args:
        is_tip_proved: a server's tip was followed and verified since the start.
    """

    network: str
    tip_height: int
    is_tip_proved: bool
    watches: WatchStatistics
    servers: tuple[ServerState, ...]

    @property
    def reason(self) -> str:
        """Why the service is not ready; empty when it is."""
        connected = any(server.verdict == "connected" for server in self.servers)
        if not self.is_tip_proved and not connected:
            only = self.servers[0].reason if len(self.servers) == 1 else ""
            return f"no server is connected: {only}" if only else "no server is connected"
        if not self.is_tip_proved:
            return "headers are being proved"
        if self.watches.oldest_gap_s > LONGEST_GAP_S and not connected:
            only = f": {self.servers[0].reason}" if len(self.servers) == 1 and self.servers[0].reason else ""
            return f"no server has been connected for {self.watches.oldest_gap_s:.0f} s{only}"
        if self.watches.oldest_gap_s > LONGEST_GAP_S:
            return f"a watch has been without a subscription for {self.watches.oldest_gap_s:.0f} s"
        return ""


def health_routes(readiness: Callable[[], Readiness]) -> list[Route]:
    """Return the two routes; neither needs a key."""

    async def healthz(request: Request) -> Response:
        return json_response({"alive": True})

    async def readyz(request: Request) -> Response:
        state = readiness()
        body = {
            "ready": not state.reason,
            "reason": state.reason,
            "network": state.network,
            "tip_height": state.tip_height,
            "watches": {
                "total": state.watches.total,
                "subscribed": state.watches.subscribed,
                "quarantined": state.watches.quarantined,
                "oldest_gap_s": round(state.watches.oldest_gap_s, 1),
            },
            "servers": [
                {"name": server.name, "verdict": server.verdict, "reason": server.reason} for server in state.servers
            ],
        }
        return json_response(body, status=503 if state.reason else 200)

    return [Route("/healthz", healthz, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]
