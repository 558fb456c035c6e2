"""All routes of the dialect, put together."""

from collections.abc import Callable

from starlette.routing import Route

from lightipn.api.owners import Doorkeeper
from lightipn.bitcoin.network import Network
from lightipn.dialects.blockcypher.forward_routes import ForwardApi
from lightipn.dialects.blockcypher.frame import Frame
from lightipn.dialects.blockcypher.hook_routes import HookApi
from lightipn.dialects.blockcypher.inbox import Inbox
from lightipn.dialects.blockcypher.read_routes import ReadApi
from lightipn.service.desk import Service


def blockcypher_routes(
    service: Service,
    doorkeeper: Doorkeeper,
    *,
    network: Network,
    public_url: str,
    webhook_key: str,
    connected: Callable[[], int],
    clock: Callable[[], float],
) -> list[Route]:
    """Return the dialect's routes.

    Args:
        public_url: what links in answers begin with; empty for what the caller called.
        webhook_key: PEM of the key that the real BlockCypher's webhooks are signed with; empty to take any.
        connected: returns how many servers are connected.
        clock: unix seconds.
    """
    frame = Frame(service=service, doorkeeper=doorkeeper, network=network, public_url=public_url)
    return [
        *HookApi(frame=frame).routes(),
        *ReadApi(frame=frame, connected=connected, clock=clock).routes(),
        *ForwardApi(frame=frame).routes(),
        *Inbox(frame=frame, public_key=webhook_key).routes(),
        *frame.nothing_here(),
    ]
