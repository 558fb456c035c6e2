"""The HTTP server: Hypercorn's Trio worker on a socket of ours."""

import ipaddress
import socket
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.types import ASGIApp

from lightipn.errors import ConfigError

GRACEFUL_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 30
# Hypercorn shields its sends, so a client that does not read would hold the shutdown for ever; the kernel ends such a
# link instead (milliseconds).
USER_TIMEOUT_MS = 2500
BACKLOG = 512


def parse_bind(text: str) -> tuple[str, int]:
    """Read ``address:port``; IPv6 in brackets.

    Raises:
        ValueError: neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError("want ADDRESS:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    return str(address), int(port)


def open_listener(bind: str) -> socket.socket:
    """Open the listening socket.

    Raises:
        ConfigError: the address is not ours, or the port is taken.
    """
    host, port = parse_bind(bind)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError([f"api.bind: cannot listen on {bind} ({error.strerror})"]) from error
    return listener


async def serve_api(
    app: ASGIApp,
    listener: socket.socket,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set; requests under way get two seconds more."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = GRACEFUL_TIMEOUT_S
    config.read_timeout = READ_TIMEOUT_S
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    config.loglevel = "WARNING"
    run = partial(serve, shutdown_trigger=stop.wait, mode="asgi")
    async with trio.open_nursery() as nursery:
        application: Any = app  # Hypercorn spells ASGI's types its own way
        await nursery.start(run, application, config)
        task_status.started()
