"""How each kind of value of the configuration is read: from TOML, or from the text of an environment variable.

Each raises ``ValueError`` or ``TypeError`` with what was wanted; the caller adds the key.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def text(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise ValueError("want a text")
    return value


def choice(*choices: str) -> Callable[[Any], str]:
    """Return a reader of one of these texts."""

    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError("want " + " or ".join(f'"{choice}"' for choice in choices))
        return str(value)

    return read


def number(lowest: float, highest: float) -> Callable[[Any], float]:
    """Return a reader of a number within these limits."""

    def read(value: Any) -> float:
        number = float(value) if isinstance(value, str) and value.replace(".", "", 1).isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int | float) or not lowest <= number <= highest:
            raise ValueError(f"want a number from {lowest:g} to {highest:g}")
        return float(number)

    return read


def integer(lowest: int, highest: int) -> Callable[[Any], int]:
    """Return a reader of a whole number within these limits."""

    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= highest:
            raise ValueError(f"want a whole number from {lowest} to {highest}")
        return number

    return read


def boolean(value: Any) -> bool:
    """Read true or false."""
    words = {"true": True, "false": False}
    found = words.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("want true or false")
    return found


def list_of(read_item: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a reader of a list, which in a text is separated by commas."""

    def read(value: Any) -> tuple[Any, ...]:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise ValueError("want a list")
        return tuple(read_item(item) for item in items)

    return read


def path(value: Any) -> Path:
    """Read a file name; ``~`` is the home."""
    if not text(value):
        raise ValueError("want a file name")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{value!a} begins with the home of a user who does not exist") from None


def optional_path(value: Any) -> Path | None:
    """Read a file name; an empty one is none."""
    return path(value) if text(value) else None


def bind(value: Any) -> str:
    """Read an address and port to listen on."""
    from lightipn.api.server import parse_bind

    parse_bind(text(value))
    return str(value)


def url(value: Any) -> str:
    """Read an http or https URL; an empty one is none."""
    try:
        parts = urlsplit(text(value))
    except ValueError:  # its words repeat the URL, which may hold a password
        raise ValueError("want http://host or https://host") from None
    if value and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("want http://host or https://host")
    return str(value).rstrip("/")


def rpc_url(value: Any) -> str:
    """Read the URL of a node's RPC: http or https, with a host and nothing secret."""
    parts = urlsplit(url(value))
    if not value:
        raise ValueError("want http://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or a password, want them in bitcoind.user and bitcoind.password_file")
    if parts.query or parts.fragment:
        raise ValueError("want http://host:port, with nothing behind it")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("want a port from 0 to 65535") from None
    if parts.scheme == "http" and _is_public(parts.hostname or ""):
        raise ValueError("would send the password over the internet in the clear, want https://, or a tunnel")
    return str(value).rstrip("/")


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False  # a name may lead anywhere


def rpc_user(value: Any) -> str:
    """Read a user of a node's RPC; HTTP Basic ends it at the first colon."""
    if ":" in text(value):
        raise ValueError("want no colon")
    return str(value)


def zmq_endpoint(value: Any) -> str:
    """Read the address of a ZMQ publisher."""
    endpoint = text(value)
    is_tcp = re.fullmatch(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", endpoint)
    if is_tcp and 0 < int(is_tcp[2]) < 65536:
        return endpoint
    if re.fullmatch(r"ipc:///[!-~]{1,99}", endpoint):
        return endpoint
    raise ValueError("want tcp://host:port or ipc:///path")


def server(value: Any) -> str:
    """Read the address of an Electrum server."""
    from lightipn.electrum.address import parse_server_address

    parse_server_address(text(value))
    return str(value)


def proxy(value: Any) -> str:
    """Read the address of a SOCKS5 proxy; an empty one is none."""
    from lightipn.proxy import parse_proxy

    if text(value):
        parse_proxy(value)
    return str(value)


def ip_network(value: Any) -> IpNetwork:
    """Read a network in CIDR notation."""
    try:
        return ipaddress.ip_network(text(value))
    except ValueError:
        raise ValueError(f"{value!a} is no network, want CIDR such as 127.0.0.0/8") from None


def public_key_file(value: Any) -> str:
    """Read the public key out of the PEM file that the operator names."""
    from lightipn.outbox.signature import check_public_key

    if not text(value):
        return ""
    try:
        pem = path(value).read_text("ascii")
    except OSError as error:
        raise ValueError(f"cannot read {value!a} ({error.strerror})") from error
    except UnicodeError:
        raise ValueError(f"{value!a} holds more than ASCII text") from None
    try:
        check_public_key(pem)
    except ValueError as error:
        raise ValueError(f"{value!a}: {error}") from None
    return pem


def secret_file(value: Any) -> str:
    """Read the secret out of the file that the operator names."""
    if not text(value):
        return ""
    try:
        secret = path(value).read_text("ascii").strip()
    except OSError as error:
        raise ValueError(f"cannot read {value!a} ({error.strerror})") from error
    except UnicodeError:
        raise ValueError(f"{value!a} holds more than ASCII text") from None
    if not secret or not secret.isprintable():
        raise ValueError(f"{value!a} holds no single line of text")
    return secret
