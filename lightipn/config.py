"""Configuration: TOML and environment to frozen values; every problem is reported at once, with its key.

The loader and the environment are made from the table of all keys (``config_keys``).
"""

import importlib.util
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightipn.bitcoin.network import NETWORKS, Network
from lightipn.config_keys import ENVIRONMENT_PREFIX, KEYS
from lightipn.config_values import IpNetwork
from lightipn.errors import ConfigError

DEFAULT_FILE = Path("lightipn.toml")
CONFIG_VARIABLE = "LIGHTIPN_CONFIG"


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
class BitcoindConfig:
    """The section ``[bitcoind]``; ``password`` is the content of the operator's file."""

    url: str
    cookie_file: Path | None
    user: str
    password: str = field(repr=False)
    zmq: tuple[str, ...]
    poll_interval_s: float
    drop_after_s: float


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
class BlockcypherConfig:
    """The section ``[dialects.blockcypher]``; the key is the contents of ``public_key_file``."""

    verify_signature: bool
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountsConfig:
    """The section ``[accounts]``."""

    credit_confirmations: int
    inactive_after_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingConfig:
    """The section ``[forwarding]``; without a seed file forwarding is off."""

    seed_file: Path | None
    master_address: str
    confirmations: int
    max_fee_percent: float
    max_fee_rate: float
    fee_target_blocks: int
    bump_after_blocks: int


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
    bitcoind: BitcoindConfig
    delivery: DeliveryConfig
    ipn: IpnConfig
    callback: CallbackConfig
    blockcypher: BlockcypherConfig
    accounts: AccountsConfig
    forwarding: ForwardingConfig
    log: LogConfig


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
    by_variable = {key.variable: key for key in KEYS} | {key.alias: key for key in KEYS if key.alias}
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
    if {"network", "forwarding.master_address"} <= checked.keys():
        _check_master_address(checked, problems)
    if {"electrum.servers", "electrum.proxy", "electrum.allow_plaintext"} <= checked.keys():
        _check_servers(checked, problems)
    if {"backend", "bitcoind.cookie_file", "bitcoind.user", "bitcoind.password_file", "bitcoind.zmq"} <= checked.keys():
        _check_bitcoind(checked, problems)
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


def _check_bitcoind(checked: Mapping[str, Any], problems: list[str]) -> None:
    """A node lets in who shows its cookie, or a user with a password."""
    has_cookie, user = checked["bitcoind.cookie_file"] is not None, checked["bitcoind.user"]
    if checked["backend"] != "bitcoind":
        return
    if has_cookie and user:
        problems.append("bitcoind.user: want it only without bitcoind.cookie_file")
    elif not has_cookie and not user:
        problems.append("bitcoind.cookie_file: want the node's cookie file, or bitcoind.user and password_file")
    elif user and not checked["bitcoind.password_file"]:
        problems.append("bitcoind.password_file: want the file with the password of bitcoind.user")
    if checked["bitcoind.zmq"] and importlib.util.find_spec("zmq") is None:
        problems.append("bitcoind.zmq: want the package pyzmq: pip install pyzmq")


def _check_xpub(checked: Mapping[str, Any], problems: list[str]) -> None:
    from lightipn.bitcoin.extended_key import parse_address_chain
    from lightipn.errors import RequestError

    if checked["dialects.ipn.xpub"]:
        try:
            parse_address_chain(checked["dialects.ipn.xpub"], NETWORKS[checked["network"]])
        except RequestError as error:
            problems.append(f"dialects.ipn.xpub: {error}")


def _check_master_address(checked: Mapping[str, Any], problems: list[str]) -> None:
    from lightipn.bitcoin.address import parse_address
    from lightipn.errors import RequestError

    if checked["forwarding.master_address"]:
        try:
            parse_address(checked["forwarding.master_address"], NETWORKS[checked["network"]])
        except RequestError as error:
            problems.append(f"forwarding.master_address: {error}")


def _config_of(checked: Mapping[str, Any]) -> Config:
    def section(name: str) -> dict[str, Any]:
        return {key.name: checked[key.path] for key in KEYS if key.section == name}

    ipn = section("dialects.ipn")
    bitcoind = section("bitcoind")
    blockcypher = section("dialects.blockcypher")
    return Config(
        network=NETWORKS[checked["network"]],
        backend=checked["backend"],
        database=checked["database"],
        api=ApiConfig(**section("api")),
        electrum=ElectrumConfig(**section("electrum")),
        bitcoind=BitcoindConfig(password=bitcoind.pop("password_file"), **bitcoind),
        delivery=DeliveryConfig(**section("delivery")),
        ipn=IpnConfig(auth_token=ipn.pop("auth_token_file"), **ipn),
        callback=CallbackConfig(**section("dialects.callback")),
        blockcypher=BlockcypherConfig(public_key=blockcypher.pop("public_key_file"), **blockcypher),
        accounts=AccountsConfig(**section("accounts")),
        forwarding=ForwardingConfig(**section("forwarding")),
        log=LogConfig(**section("log")),
    )
