"""The keys of the configuration: name, default, check and meaning of each, and the example that is made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightipn import config_values as read
from lightipn.bitcoin.network import NETWORKS

ENVIRONMENT_PREFIX = "LIGHTIPN_"
DIALECTS = ("ipn", "callback", "receive", "blockcypher")


@dataclass(frozen=True, slots=True)
class Key:
    """One key: where it stands, its default, how it is read, and what it means.

    Args:
        shown: how the example writes it where that differs from the default; it is then a comment.
        alias: another environment variable that says it, from a system that LightIPN follows.
    """

    section: str
    name: str
    default: Any
    read: Callable[[Any], Any]
    meaning: str
    shown: str = ""
    alias: str = ""

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
    Key(
        "",
        "backend",
        "electrum",
        read.choice("electrum", "bitcoind"),
        "Where evidence about the chain comes from: electrum (servers, no node of your own) or bitcoind (your node).",
    ),
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
    Key(
        "bitcoind",
        "url",
        "http://127.0.0.1:8332",
        read.rpc_url,
        'Where your node\'s RPC listens, with backend = "bitcoind". Plain http belongs on your own machine only.',
    ),
    Key(
        "bitcoind",
        "cookie_file",
        "",
        read.optional_path,
        "The cookie that the node makes at each start; this service must be able to read it. Default none.",
        shown='"/var/lib/bitcoind/.cookie"',
    ),
    Key(
        "bitcoind",
        "user",
        "",
        read.rpc_user,
        "User of its RPC (-rpcauth), instead of the cookie. Default none.",
        shown='"lightipn"',
    ),
    Key(
        "bitcoind",
        "password_file",
        "",
        read.secret_file,
        "File with that user's password. Default none.",
        shown='"bitcoind-password.txt"',
    ),
    Key(
        "bitcoind",
        "zmq",
        [],
        read.list_of(read.zmq_endpoint),
        "ZMQ publishers of the node (hashblock and rawtx or hashtx, or sequence alone), for notice within\n"
        "# milliseconds. Wants the package pyzmq: pip install pyzmq. Default none.",
        shown='["tcp://127.0.0.1:28332"]',
    ),
    Key(
        "bitcoind",
        "poll_interval_s",
        2,
        read.number(0.05, 600),
        "Seconds between two looks at the node where no ZMQ is set. Each lists its whole mempool.",
    ),
    Key(
        "bitcoind",
        "drop_after_s",
        600,
        read.number(1, 86400),
        "Seconds for which an unconfirmed payment must be gone from its mempool before it is told as dropped.",
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
    Key(
        "dialects.blockcypher",
        "verify_signature",
        True,
        read.boolean,
        "Whether webhooks of the real BlockCypher that come in must be signed. They are hints, and never evidence.\n"
        "# VERIFY_BLOCKCYPHER_SIGNATURE in the environment says the same.",
        alias="VERIFY_BLOCKCYPHER_SIGNATURE",
    ),
    Key(
        "dialects.blockcypher",
        "public_key_file",
        "",
        read.public_key_file,
        "File with the PEM of the P-256 public key that they are signed with. Default: BlockCypher's own.",
        shown='"webhooks.pem"',
    ),
    Key(
        "accounts",
        "credit_confirmations",
        2,
        read.integer(1, 1000),
        "Blocks: the depth at which a new account credits a deposit, unless it is made with another one.",
    ),
    Key(
        "accounts",
        "inactive_after_days",
        90,
        read.integer(0, 36500),
        "Days without a payment after which an account's address loses its webhooks; its payments count all the same.\n"
        "# 0: never.",
    ),
    Key(
        "forwarding",
        "seed_file",
        "",
        read.optional_path,
        "File with the recovery words of the input addresses (mode 0600); lightipn forwarding init makes it. Default\n"
        "# none: forwarding is off.",
        shown='"forwarding.seed"',
    ),
    Key(
        "forwarding",
        "master_address",
        "",
        lambda value: read.text(value).strip(),
        "Where a forward without a destination passes its coins on to. BTC_MASTER_ADDRESS in the environment says the\n"
        "# same. Default none.",
        shown='"bc1q..."',
        alias="BTC_MASTER_ADDRESS",
    ),
    Key("forwarding", "confirmations", 1, read.integer(1, 1000), "Blocks: the depth at which a coin is passed on."),
    Key(
        "forwarding",
        "max_fee_percent",
        10,
        read.number(0.01, 100),
        "Percent of what is passed on: a higher mining fee is never paid; the coins wait, and status says so.",
    ),
    Key(
        "forwarding",
        "max_fee_rate",
        500,
        read.number(1, 100000),
        "Satoshis a virtual byte: a higher rate is never paid, whatever the servers say.",
    ),
    Key(
        "forwarding",
        "fee_target_blocks",
        6,
        read.integer(1, 1000),
        "Blocks within which a transfer shall be mined; its fee is the servers' estimate for that.",
    ),
    Key(
        "forwarding",
        "bump_after_blocks",
        6,
        read.integer(1, 1000),
        "Blocks after which a transfer that is not mined is replaced by one that pays more.",
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
