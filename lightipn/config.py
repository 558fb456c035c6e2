"""Configuration: TOML and environment to frozen values; every problem is reported at once, with its key.

One table (``KEYS``) holds name, default, meaning and check of each key; the loader, the environment, ``lightipn init``
and ``config.example.toml`` are all made from it.
"""

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightipn import config_values as read
from lightipn.bitcoin.network import NETWORKS, Network
from lightipn.config_values import IpNetwork
from lightipn.errors import ConfigError

DEFAULT_FILE = Path("lightipn.toml")
ENVIRONMENT_PREFIX = "LIGHTIPN_"
CONFIG_VARIABLE = "LIGHTIPN_CONFIG"
DIALECTS = ("ipn", "callback", "receive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """The section ``[api]``."""

    bind: str
    public_url: str
    anonymous: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectrumConfig:
    """The section ``[electrum]``; servers as the operator wrote them."""

    servers: tuple[str, ...]
    connections: int
    redundancy: int
    min_seen_by: int
    drop_after_s: float
    ban_s: float
    sweep_interval_s: float
    proxy: str = field(repr=False)
    allow_plaintext: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """The section ``[delivery]``."""

    timeout_s: float
    max_in_flight: int
    max_in_flight_per_host: int
    allow_networks: tuple[IpNetwork, ...]
    proxy: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpnConfig:
    """The section ``[dialects.ipn]``; the token is the contents of ``auth_token_file``."""

    xpub: str
    auth_token: str = field(repr=False)
    confirmations: int
    max_retry_interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackConfig:
    """The section ``[dialects.callback]``."""

    retries: int
    retry_period_s: float
    confirmations: int
    zero_conf: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The section ``[log]``."""

    level: str
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything an operator decides."""

    network: Network
    backend: str
    database: Path
    api: ApiConfig
    electrum: ElectrumConfig
    delivery: DeliveryConfig
    ipn: IpnConfig
    callback: CallbackConfig
    log: LogConfig


@dataclass(frozen=True, slots=True)
class Key:
    """One key: where it stands, its default, how it is read, and what it means.

    Args:
        shown: how the example writes it where that differs from the default; it is then a comment.
    """

    section: str
    name: str
    default: Any
    read: Callable[[Any], Any]
    meaning: str
    shown: str = ""

    @property
    def path(self) -> str:
        """The key as an operator says it, such as ``api.bind``."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return ENVIRONMENT_PREFIX + self.path.replace(".", "_").upper()


KEYS = (
    Key("", "network", "mainnet", read.choice(*NETWORKS), "Network: mainnet, testnet4, signet or regtest."),
    Key("", "backend", "electrum", read.choice("electrum"), "Where evidence about the chain comes from: electrum."),
    Key("", "database", "lightipn.db", read.path, "The one file that holds everything. Its folder must be writable."),
    Key(
        "api",
        "bind",
        "127.0.0.1:8080",
        read.bind,
        "Address and port of the HTTP API. Keep it local, or put TLS before it.",
    ),
    Key(
        "api",
        "public_url",
        "",
        read.url,
        "How shops reach the API from outside, for links in answers. Empty: as they called it.",
        shown='"https://ipn.example.com"',
    ),
    Key(
        "api",
        "anonymous",
        [],
        read.list_of(read.choice(*DIALECTS)),
        'Dialects that need no API key, such as ["ipn"]. Default none.',
    ),
    Key(
        "electrum",
        "servers",
        [],
        read.list_of(read.server),
        "Electrum servers: ssl://host:port, tcp://host:port or host:port:s|t; #fingerprint (SHA-256 of its\n"
        "# certificate) may follow. Each counts as independent. Empty: the built-in public ones.",
    ),
    Key("electrum", "connections", 3, read.integer(1, 20), "Servers in use at a time, where so many are there."),
    Key("electrum", "redundancy", 3, read.integer(1, 20), "Servers on which each address is watched, of those in use."),
    Key(
        "electrum",
        "min_seen_by",
        2,
        read.integer(1, 20),
        "Servers that must hold an unconfirmed payment before it is told; never more than are in use.",
    ),
    Key(
        "electrum",
        "drop_after_s",
        600,
        read.number(1, 86400),
        "Seconds for which every server must deny an unconfirmed payment before it is told as dropped.",
    ),
    Key("electrum", "ban_s", 86400, read.number(0, 31536000), "Seconds for which a server that lied is not used."),
    Key(
        "electrum",
        "proxy",
        "",
        read.proxy,
        "SOCKS5 proxy for all servers, such as Tor; it resolves the names, and onion servers need it. Default none.",
        shown='"socks5://127.0.0.1:9050"',
    ),
    Key(
        "electrum",
        "allow_plaintext",
        False,
        read.boolean,
        "Whether tcp:// servers on public addresses may be used; whoever is on the way can read and change all.",
    ),
    Key(
        "electrum", "sweep_interval_s", 600, read.number(10, 86400), "Seconds in which every watch is asked again once."
    ),
    Key("delivery", "timeout_s", 15, read.number(0.1, 300), "Seconds for one whole callback attempt."),
    Key("delivery", "max_in_flight", 64, read.integer(1, 1000), "Callback attempts under way at a time."),
    Key(
        "delivery",
        "max_in_flight_per_host",
        8,
        read.integer(1, 1000),
        "The same for one host and port of a callback URL.",
    ),
    Key(
        "delivery",
        "allow_networks",
        [],
        read.list_of(read.ip_network),
        "Networks (CIDR) that callbacks may reach although they are not public. Whoever holds an API key names the\n"
        "# URLs, and could probe every network listed here: list your shop's own address only. Default none.",
        shown='["127.0.0.1/32"]',
    ),
    Key(
        "delivery",
        "proxy",
        "",
        read.proxy,
        "SOCKS5 proxy for callbacks; it resolves names. Networks allowed above are reached directly. Default none.",
        shown='"socks5://127.0.0.1:9050"',
    ),
    Key(
        "dialects.ipn",
        "xpub",
        "",
        lambda value: read.text(value).strip(),
        "Extended public key or descriptor: child N is the address of user N (/btc?user_id=N). Default none.",
        shown='"zpub6..."',
    ),
    Key(
        "dialects.ipn",
        "auth_token_file",
        "",
        read.secret_file,
        "File with a secret that is sent with each IPN as the header IPN-Auth1. Default none.",
        shown='"ipn-auth.txt"',
    ),
    Key(
        "dialects.ipn",
        "confirmations",
        3,
        read.integer(1, 1000),
        "Blocks: the depth at which /btc counts as confirmed.",
    ),
    Key(
        "dialects.ipn",
        "max_retry_interval_s",
        3600,
        read.number(1, 86400),
        "Seconds: the longest pause between two IPNs.",
    ),
    Key(
        "dialects.callback",
        "retries",
        3,
        read.integer(0, 1000),
        "How often a callback is sent again, unless acknowledged.",
    ),
    Key("dialects.callback", "retry_period_s", 120, read.number(1, 86400), "Seconds between two sends of a callback."),
    Key(
        "dialects.callback",
        "confirmations",
        3,
        read.integer(1, 1000),
        "Blocks: the depth at which a payment becomes a callback.",
    ),
    Key(
        "dialects.callback",
        "zero_conf",
        False,
        read.boolean,
        "Whether there is a callback at 0 confirmations too; the body then has the field confirmations.",
    ),
    Key("log", "level", "info", read.choice("debug", "info", "warning", "error"), "Least level that is logged."),
    Key(
        "log",
        "format",
        "auto",
        read.choice("auto", "json", "text"),
        "json, text, or auto: text on a terminal, else json.",
    ),
)
_BY_PATH = {key.path: key for key in KEYS}
_SECTIONS = {key.section for key in KEYS}


def _flattened(table: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            if not any(section == path or section.startswith(path + ".") for section in _SECTIONS):
                problems.append(f"[{path}]: there is no such section")
                continue
            found |= _flattened(value, path + ".", problems)
        elif path not in _BY_PATH:
            problems.append(f"{path}: there is no such key")
        else:
            found[path] = value
    return found


def load_config(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration: defaults, the file over them, the environment over both.

    Args:
        file: None takes ``LIGHTIPN_CONFIG``, or ``./lightipn.toml`` if it is there.

    Raises:
        ConfigError: every problem of file and environment, each with its key.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    chosen = file or (Path(environment[CONFIG_VARIABLE]) if environment.get(CONFIG_VARIABLE) else None)
    if chosen is not None or DEFAULT_FILE.exists():
        values = _flattened(_read_toml(chosen or DEFAULT_FILE), "", problems)
    by_variable = {key.variable: key for key in KEYS}
    named = {path: path for path in values}
    for variable, text in environment.items():
        if variable in by_variable:
            path = by_variable[variable].path
            values[path], named[path] = text, variable
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable != CONFIG_VARIABLE:
            problems.append(f"{variable}: there is no such key")
    checked: dict[str, Any] = {}
    for key in KEYS:
        try:
            checked[key.path] = key.read(values.get(key.path, key.default))
        except (ValueError, TypeError) as error:
            problems.append(f"{named.get(key.path, key.path)}: {error}")
    if "network" in checked and "dialects.ipn.xpub" in checked:
        _check_xpub(checked, problems)
    if {"electrum.servers", "electrum.proxy", "electrum.allow_plaintext"} <= checked.keys():
        _check_servers(checked, problems)
    if problems:
        raise ConfigError(problems)
    return _config_of(checked)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read ({error.strerror})"]) from error
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise ConfigError([f"{file}: is not TOML ({error})"]) from error


def _check_servers(checked: Mapping[str, Any], problems: list[str]) -> None:
    """Name servers that could never be used; whether a name's address is public shows only when it is resolved."""
    from lightipn.electrum.address import parse_server_address

    for text in checked["electrum.servers"]:
        address = parse_server_address(text)
        if address.is_onion and not checked["electrum.proxy"]:
            problems.append(f"electrum.servers: {address.name} is an onion server, want electrum.proxy")
        try:
            is_public = ipaddress.ip_address(address.host).is_global
        except ValueError:
            is_public = False
        if is_public and not address.uses_tls and not checked["electrum.allow_plaintext"]:
            problems.append(
                f"electrum.servers: {address.name} is plain TCP to a public address, want ssl:// or"
                " electrum.allow_plaintext"
            )


def _check_xpub(checked: Mapping[str, Any], problems: list[str]) -> None:
    from lightipn.bitcoin.extended_key import parse_address_chain
    from lightipn.errors import RequestError

    if checked["dialects.ipn.xpub"]:
        try:
            parse_address_chain(checked["dialects.ipn.xpub"], NETWORKS[checked["network"]])
        except RequestError as error:
            problems.append(f"dialects.ipn.xpub: {error}")


def _config_of(checked: Mapping[str, Any]) -> Config:
    def section(name: str) -> dict[str, Any]:
        return {key.name: checked[key.path] for key in KEYS if key.section == name}

    ipn = section("dialects.ipn")
    return Config(
        network=NETWORKS[checked["network"]],
        backend=checked["backend"],
        database=checked["database"],
        api=ApiConfig(**section("api")),
        electrum=ElectrumConfig(**section("electrum")),
        delivery=DeliveryConfig(**section("delivery")),
        ipn=IpnConfig(auth_token=ipn.pop("auth_token_file"), **ipn),
        callback=CallbackConfig(**section("dialects.callback")),
        log=LogConfig(**section("log")),
    )


def example_text() -> str:
    """Return the commented configuration: every key, its meaning, and its default."""
    lines = [
        "# LightIPN configuration. Every key with its default; a key that is left out has that default.",
        "# The environment overrides any key: LIGHTIPN_<SECTION>_<KEY>, such as LIGHTIPN_API_BIND.",
    ]
    section = ""
    for key in KEYS:
        if key.section != section:
            section = key.section
            lines += ["", f"[{section}]"]
        else:
            lines.append("")
        lines.append(f"# {key.meaning}")
        lines.append(f"# {key.name} = {key.shown}" if key.shown else f"{key.name} = {_toml(key.default)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
