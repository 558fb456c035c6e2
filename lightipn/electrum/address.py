"""Server addresses as operators write them."""

import re
from dataclasses import dataclass

_URL = re.compile(r"(?P<scheme>ssl|tcp)://(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]]+):(?P<port>\d{1,5})/?")
_ELECTRUM = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]]+):(?P<port>\d{1,5}):(?P<scheme>[st])")
_FINGERPRINT = re.compile(r"[0-9a-fA-F]{64}")
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an Electrum server listens.

    Args:
        fingerprint: SHA-256 of its certificate, where the operator gave it; 32 bytes.
    """

    host: str
    port: int
    uses_tls: bool
    fingerprint: bytes | None = None

    @property
    def name(self) -> str:
        """The address as Electrum writes it: ``host:port:s`` (TLS) or ``host:port:t`` (TCP)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{'s' if self.uses_tls else 't'}"

    @property
    def is_onion(self) -> bool:
        """Whether only Tor reaches it."""
        return self.host.endswith(".onion")

    @property
    def domain(self) -> str:
        """The part of the host that tells operators apart: the last two labels of a name, an address whole."""
        if ":" in self.host or self.host.replace(".", "").isdigit():
            return self.host
        return ".".join(self.host.split(".")[-2:])


def parse_server_address(text: str) -> ServerAddress:
    """Read ``ssl://host:port``, ``tcp://host:port`` or Electrum's ``host:port:s|t``; IPv6 in brackets.

    ``#`` and 64 hex digits may follow: the SHA-256 fingerprint that the certificate must have.

    Raises:
        ValueError: none of these.
    """
    where, has_fingerprint, fingerprint = text.strip().partition("#")
    found = _URL.fullmatch(where) or _ELECTRUM.fullmatch(where)
    if found is None:
        raise ValueError("want ssl://host:port, tcp://host:port or host:port:s|t")
    host, port = found["host"].strip("[]").lower(), int(found["port"])
    if not _HOST.fullmatch(host):
        raise ValueError("the host name has characters that no host name has")
    if not 0 < port < 65536:
        raise ValueError(f"port is {port}, want 1 to 65535")
    uses_tls = found["scheme"] in ("ssl", "s")
    if not has_fingerprint:
        return ServerAddress(host, port, uses_tls)
    digits = fingerprint.replace(":", "")
    if not uses_tls:
        raise ValueError("a fingerprint needs TLS: want ssl://host:port#fingerprint")
    if not _FINGERPRINT.fullmatch(digits):
        raise ValueError("the fingerprint is not SHA-256 in hex, want 64 hex digits")
    return ServerAddress(host, port, uses_tls, bytes.fromhex(digits))


def parse_server_list(text: str) -> list[ServerAddress]:
    """Read the list that ships with the program: ``host<TAB>TCP port<TAB>TLS port``; TLS wins where both are there."""
    addresses = []
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        host, tcp_port, tls_port = line.split("\t")
        uses_tls = tls_port != "-"
        addresses.append(ServerAddress(host.lower(), int(tls_port if uses_tls else tcp_port), uses_tls))
    return addresses
