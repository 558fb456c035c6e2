"""Configuration: defaults, file, environment, and every problem named with its key."""

import ipaddress
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lightipn.bitcoin.network import MAINNET, REGTEST, TESTNET4
from lightipn.config import (
    AccountsConfig,
    ApiConfig,
    BitcoindConfig,
    BlockcypherConfig,
    CallbackConfig,
    Config,
    DeliveryConfig,
    ElectrumConfig,
    ForwardingConfig,
    IpnConfig,
    LogConfig,
    load_config,
)
from lightipn.config_keys import KEYS, example_text
from lightipn.errors import ConfigError

ROOT = Path(__file__).parents[1]
ADDRESS = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
ONION = f"{'a' * 56}.onion"
FINGERPRINT = "0123456789abcdef" * 4
TPUB = "tpubDC5FSnBiZDMmhiuCmWAYsLwgLYrrT9rAqvTySfuCCrgsWz8wxMXUS9Tb9iVMvcRbvFcAHGkMD5Kx8koh4GquNGNTfohfk7pgjhaPCdXpoba"
PUBLIC_KEY = (ROOT / "lightipn" / "data" / "blockcypher.pem").read_text("ascii")
OTHER_CURVE = (
    ec.derive_private_key(7, ec.SECP256K1())
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)
DEFAULTS = Config(
    network=MAINNET,
    backend="electrum",
    database=Path("lightipn.db"),
    api=ApiConfig(bind="127.0.0.1:8080", public_url="", anonymous=()),
    electrum=ElectrumConfig(
        servers=(),
        connections=3,
        redundancy=3,
        min_seen_by=2,
        drop_after_s=600.0,
        ban_s=86400.0,
        proxy="",
        allow_plaintext=False,
        sweep_interval_s=600.0,
    ),
    bitcoind=BitcoindConfig(
        url="http://127.0.0.1:8332",
        cookie_file=None,
        user="",
        password="",
        zmq=(),
        poll_interval_s=2.0,
        drop_after_s=600.0,
    ),
    delivery=DeliveryConfig(timeout_s=15.0, max_in_flight=64, max_in_flight_per_host=8, allow_networks=(), proxy=""),
    ipn=IpnConfig(xpub="", auth_token="", confirmations=3, max_retry_interval_s=3600.0),
    callback=CallbackConfig(retries=3, retry_period_s=120.0, confirmations=3, zero_conf=False),
    blockcypher=BlockcypherConfig(verify_signature=True, public_key=""),
    accounts=AccountsConfig(credit_confirmations=2, inactive_after_days=90),
    forwarding=ForwardingConfig(
        seed_file=None,
        master_address="",
        confirmations=1,
        max_fee_percent=10.0,
        max_fee_rate=500.0,
        fee_target_blocks=6,
        bump_after_blocks=6,
    ),
    log=LogConfig(level="info", format="auto"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str = "", **environment: str) -> Config:
    """Load a file with this text, under this environment."""
    file = Path("shop.toml")
    file.write_text(text, "utf-8")
    return load_config(file, environment)


def problems_of(text: str = "", **environment: str) -> list[str]:
    """Return what is wrong with a file and an environment."""
    with pytest.raises(ConfigError) as caught:
        load(text, **environment)
    assert str(caught.value) == "; ".join(caught.value.problems)
    return list(caught.value.problems)


# --- defaults and the example ------------------------------------------------------------------------------------


def test_every_key_has_its_default() -> None:
    """Without a file and without an environment everything is as the README says."""
    assert load_config(None, {}) == DEFAULTS
    assert load("") == DEFAULTS


def test_example_is_the_defaults() -> None:
    """The example that ``lightipn init`` writes means the same as no file at all."""
    assert load(example_text()) == DEFAULTS


def test_example_lists_every_key_once_with_a_comment() -> None:
    """Each key stands in the example in its section, below a comment that says what it means."""
    lines = example_text().splitlines()
    for key in KEYS:
        section_at = lines.index(f"[{key.section}]") if key.section else 0
        here = [
            number
            for number, line in enumerate(lines)
            if number > section_at and line.removeprefix("# ").startswith(f"{key.name} = ")
        ]
        assert here, key.path
        assert lines[here[0] - 1].startswith("# ")
        between = lines[section_at + 1 : here[0]]
        assert not any(line.startswith("[") for line in between)


def test_what_the_example_shows_is_a_good_value() -> None:
    """A key that the example shows commented out may be uncommented."""
    shown = {key.path: tomllib.loads(f"x = {key.shown}")["x"] for key in KEYS if key.shown}
    assert set(shown) == {
        "api.public_url",
        "electrum.proxy",
        "bitcoind.cookie_file",
        "bitcoind.user",
        "bitcoind.password_file",
        "bitcoind.zmq",
        "delivery.allow_networks",
        "delivery.proxy",
        "dialects.ipn.xpub",
        "dialects.ipn.auth_token_file",
        "dialects.blockcypher.public_key_file",
        "forwarding.seed_file",
        "forwarding.master_address",
    }
    text = f'[api]\npublic_url = "{shown["api.public_url"]}"\n'
    text += f'[electrum]\nproxy = "{shown["electrum.proxy"]}"\n'
    text += f'[bitcoind]\ncookie_file = "{shown["bitcoind.cookie_file"]}"\nzmq = {shown["bitcoind.zmq"]}\n'
    text += f"[delivery]\nallow_networks = {shown['delivery.allow_networks']}\n"
    text += f'proxy = "{shown["delivery.proxy"]}"\n'
    config = load(text)
    assert config.api.public_url == "https://ipn.example.com"
    assert config.electrum.proxy == config.delivery.proxy == "socks5://127.0.0.1:9050"
    assert config.bitcoind.cookie_file == Path("/var/lib/bitcoind/.cookie")
    assert config.bitcoind.zmq == ("tcp://127.0.0.1:28332",)


def test_shipped_example_is_the_generated_one() -> None:
    """``config.example.toml`` is what the program itself writes, to the letter."""
    assert (ROOT / "config.example.toml").read_text("utf-8") == example_text()


# --- the file ----------------------------------------------------------------------------------------------------

CHANGES = {
    "network": ('"testnet4"', "testnet4", TESTNET4),
    "backend": ('"electrum"', "electrum", "electrum"),
    "database": ('"/var/lib/lightipn/shop.db"', "/var/lib/lightipn/shop.db", Path("/var/lib/lightipn/shop.db")),
    "api.bind": ('"[::1]:9090"', "[::1]:9090", "[::1]:9090"),
    "api.public_url": ('"https://ipn.example.com/"', "https://ipn.example.com/", "https://ipn.example.com"),
    "api.anonymous": ('["ipn"]', "ipn", ("ipn",)),
    "electrum.servers": (
        '["ssl://a.example:50002", "b.example:50001:t"]',
        "ssl://a.example:50002, b.example:50001:t",
        ("ssl://a.example:50002", "b.example:50001:t"),
    ),
    "electrum.connections": ("20", "20", 20),
    "electrum.redundancy": ("1", "1", 1),
    "electrum.min_seen_by": ("5", "5", 5),
    "electrum.drop_after_s": ("0.5e2", "50.0", 50.0),
    "electrum.ban_s": ("0", "0", 0.0),
    "electrum.proxy": ('"socks5://[::1]:9050"', "socks5://[::1]:9050", "socks5://[::1]:9050"),
    "electrum.allow_plaintext": ("true", "true", True),
    "electrum.sweep_interval_s": ("10.5", "10.5", 10.5),
    "bitcoind.url": ('"https://node.example:8332/"', "https://node.example:8332/", "https://node.example:8332"),
    "bitcoind.cookie_file": ('"/var/lib/node/.cookie"', "/var/lib/node/.cookie", Path("/var/lib/node/.cookie")),
    "bitcoind.user": ('"shop"', "shop", "shop"),
    "bitcoind.password_file": ('"token.txt"', "token.txt", "s3cret"),
    "bitcoind.zmq": (
        '["tcp://127.0.0.1:28332", "ipc:///run/node/zmq"]',
        "tcp://127.0.0.1:28332, ipc:///run/node/zmq",
        ("tcp://127.0.0.1:28332", "ipc:///run/node/zmq"),
    ),
    "bitcoind.poll_interval_s": ("0.05", "0.05", 0.05),
    "bitcoind.drop_after_s": ("1", "1", 1.0),
    "delivery.timeout_s": ("0.1", "0.1", 0.1),
    "delivery.max_in_flight": ("1000", "1000", 1000),
    "delivery.max_in_flight_per_host": ("1", "1", 1),
    "delivery.allow_networks": (
        '["127.0.0.1/32", "fd00::/8"]',
        "127.0.0.1/32,fd00::/8",
        (ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("fd00::/8")),
    ),
    "delivery.proxy": ('"socks5h://tor.example:9050"', "socks5h://tor.example:9050", "socks5h://tor.example:9050"),
    "dialects.ipn.xpub": (f'"{TPUB}"', TPUB, TPUB),
    "dialects.ipn.auth_token_file": ('"token.txt"', "token.txt", "s3cret"),
    "dialects.ipn.confirmations": ("6", "6", 6),
    "dialects.ipn.max_retry_interval_s": ("60", "60", 60.0),
    "dialects.callback.retries": ("0", "0", 0),
    "dialects.callback.retry_period_s": ("1.5", "1.5", 1.5),
    "dialects.callback.confirmations": ("6", "6", 6),
    "dialects.callback.zero_conf": ("true", "true", True),
    "dialects.blockcypher.verify_signature": ("false", "false", False),
    "dialects.blockcypher.public_key_file": ('"webhooks.pem"', "webhooks.pem", PUBLIC_KEY),
    "accounts.credit_confirmations": ("6", "6", 6),
    "accounts.inactive_after_days": ("0", "0", 0),
    "forwarding.seed_file": ('"forwarding.seed"', "forwarding.seed", Path("forwarding.seed")),
    "forwarding.master_address": (f'"{ADDRESS}"', ADDRESS, ADDRESS),
    "forwarding.confirmations": ("3", "3", 3),
    "forwarding.max_fee_percent": ("2.5", "2.5", 2.5),
    "forwarding.max_fee_rate": ("50", "50", 50.0),
    "forwarding.fee_target_blocks": ("2", "2", 2),
    "forwarding.bump_after_blocks": ("12", "12", 12),
    "log.level": ('"debug"', "debug", "debug"),
    "log.format": ('"json"', "json", "json"),
}


def test_every_dialect_may_be_open_to_callers_without_a_key() -> None:
    """Each dialect may be named, alone or beside the others, as one that needs no key."""
    named = ("ipn", "callback", "receive", "blockcypher")
    assert load('[api]\nanonymous = ["ipn", "callback", "receive", "blockcypher"]').api.anonymous == named
    assert load("", LIGHTIPN_API_ANONYMOUS="receive").api.anonymous == ("receive",)


# Keys that name a file whose contents the configuration holds.
CONTENTS = {"auth_token_file": "auth_token", "password_file": "password", "public_key_file": "public_key"}


def value_in(config: Config, path: str) -> object:
    """Return what a configuration has for a key."""
    section, _, name = path.rpartition(".")
    if not section:
        return getattr(config, name)
    part = getattr(config, section.removeprefix("dialects."))
    return getattr(part, CONTENTS.get(name, name))


def text_of(path: str, value: str) -> str:
    """Write a file with one key, and the network that the keys of these tests belong to."""
    section, _, name = path.rpartition(".")
    network = "" if path == "network" else 'network = "regtest"\n'
    return network + (f"[{section}]\n" if section else "") + f"{name} = {value}\n"


def test_tests_know_every_key() -> None:
    """A key that is added must be added to the tests."""
    assert list(CHANGES) == [key.path for key in KEYS]


@pytest.mark.parametrize("path", CHANGES)
def test_file_changes_a_key(path: str) -> None:
    """What the file says takes the default's place, and nothing else changes."""
    Path("token.txt").write_text("s3cret\n")
    Path("webhooks.pem").write_text(PUBLIC_KEY)
    written, _, expected = CHANGES[path]
    config = load(text_of(path, written))
    assert value_in(config, path) == expected
    others = [key.path for key in KEYS if key.path not in (path, "network")]
    assert [value_in(config, other) for other in others] == [value_in(DEFAULTS, other) for other in others]


@pytest.mark.parametrize("path", CHANGES)
def test_environment_overrides_a_key(path: str) -> None:
    """What the environment says takes the file's place."""
    Path("token.txt").write_text("s3cret\n")
    Path("webhooks.pem").write_text(PUBLIC_KEY)
    _, text, expected = CHANGES[path]
    variable = "LIGHTIPN_" + path.replace(".", "_").upper()
    environment = {variable: text} | ({} if path == "network" else {"LIGHTIPN_NETWORK": "regtest"})
    assert value_in(load("", **environment), path) == expected
    wrong = {"network": '"signet"', "database": '"other.db"'}.get(path)
    if wrong:
        assert value_in(load(text_of(path, wrong), **environment), path) == expected


BOOLEANS = ("electrum.allow_plaintext", "dialects.callback.zero_conf", "dialects.blockcypher.verify_signature")
WRONG_TYPES = ["{ a = 1 }", "1979-05-27", "[[1]]", "true", "nan", "-1"]


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path in CHANGES for value in WRONG_TYPES if value != "true" or path not in BOOLEANS],
)
def test_wrong_type_is_named_with_its_key(path: str, value: str) -> None:
    """A value of the wrong type is one problem, with the key's path."""
    (problem,) = problems_of(text_of(path, value))
    assert path in problem


RANGES = [
    ("network", '"mainnet2"'),
    ("backend", '"bitcoin"'),
    ("database", '""'),
    ("api.bind", '"8080"'),
    ("api.bind", '"shop.example:80"'),
    ("api.bind", '"127.0.0.1:65536"'),
    ("api.public_url", '"ftp://x"'),
    ("api.public_url", '"https://"'),
    ("api.public_url", '"http://[::1"'),
    ("api.anonymous", '["callbacks"]'),
    ("electrum.servers", '["a.example"]'),
    ("electrum.servers", '["ssl://a.example:0"]'),
    ("electrum.servers", '["http://a.example:80"]'),
    ("electrum.servers", f'["ssl://a.example:50002#{FINGERPRINT[:-1]}"]'),
    ("electrum.servers", f'["ssl://a.example:50002#{FINGERPRINT[:-1]}g"]'),
    ("electrum.servers", '["ssl://a.example:50002#"]'),
    ("electrum.servers", f'["tcp://127.0.0.1:50001#{FINGERPRINT}"]'),
    ("electrum.connections", "0"),
    ("electrum.connections", "21"),
    ("electrum.connections", "2.5"),
    ("electrum.redundancy", "0"),
    ("electrum.redundancy", "21"),
    ("electrum.min_seen_by", "0"),
    ("electrum.min_seen_by", "21"),
    ("electrum.drop_after_s", "0.9"),
    ("electrum.drop_after_s", "86401"),
    ("electrum.ban_s", "-0.1"),
    ("electrum.ban_s", "31536001"),
    ("electrum.proxy", '"127.0.0.1:9050"'),
    ("electrum.proxy", '"http://127.0.0.1:8080"'),
    ("electrum.proxy", '"socks5://127.0.0.1"'),
    ("electrum.proxy", '"socks5://user@127.0.0.1:9050"'),
    ("electrum.proxy", "9050"),
    ("electrum.allow_plaintext", "1"),
    ("electrum.allow_plaintext", '"yes"'),
    ("electrum.allow_plaintext", '""'),
    ("electrum.allow_plaintext", "[true]"),
    ("bitcoind.url", '""'),
    ("bitcoind.url", '"127.0.0.1:8332"'),
    ("bitcoind.url", '"tcp://127.0.0.1:8332"'),
    ("bitcoind.url", '"http://:8332"'),
    ("bitcoind.url", '"http://[::1"'),
    ("bitcoind.url", '"http://127.0.0.1:rpc"'),
    ("bitcoind.url", '"http://127.0.0.1:65536"'),
    ("bitcoind.url", '"http://127.0.0.1:8332?wallet=shop"'),
    ("bitcoind.url", '"http://127.0.0.1:8332#top"'),
    ("bitcoind.url", '"http://8.8.8.8:8332"'),
    ("bitcoind.url", '"http://[2600::1]:8332"'),
    ("bitcoind.user", '"a:b"'),
    ("bitcoind.cookie_file", '"~no-such-user/.cookie"'),
    ("bitcoind.password_file", '"missing.txt"'),
    ("bitcoind.password_file", '"."'),
    ("bitcoind.zmq", '["127.0.0.1:28332"]'),
    ("bitcoind.zmq", '["tcp://127.0.0.1"]'),
    ("bitcoind.zmq", '["tcp://127.0.0.1:0"]'),
    ("bitcoind.zmq", '["tcp://127.0.0.1:65536"]'),
    ("bitcoind.zmq", '["tcp://:28332"]'),
    ("bitcoind.zmq", '["udp://127.0.0.1:28332"]'),
    ("bitcoind.zmq", '["ipc://"]'),
    ("bitcoind.zmq", '["tcp://127.0.0.1:28332", ""]'),
    ("bitcoind.poll_interval_s", "0.04"),
    ("bitcoind.poll_interval_s", "601"),
    ("bitcoind.poll_interval_s", "inf"),
    ("bitcoind.drop_after_s", "0.9"),
    ("bitcoind.drop_after_s", "86401"),
    ("delivery.proxy", '"socks4://127.0.0.1:9050"'),
    ("delivery.proxy", '"socks5://127.0.0.1:0"'),
    ("electrum.sweep_interval_s", "9.9"),
    ("electrum.sweep_interval_s", "86401"),
    ("electrum.sweep_interval_s", "inf"),
    ("delivery.timeout_s", "0"),
    ("delivery.timeout_s", "301"),
    ("delivery.timeout_s", '"soon"'),
    ("delivery.max_in_flight", "0"),
    ("delivery.max_in_flight", "1001"),
    ("delivery.max_in_flight", "1.5"),
    ("delivery.max_in_flight_per_host", "0"),
    ("delivery.allow_networks", '["10.0.0.1/8"]'),
    ("delivery.allow_networks", '["shop.example"]'),
    ("dialects.ipn.xpub", '"xpub"'),
    ("dialects.ipn.auth_token_file", '"missing.txt"'),
    ("dialects.ipn.auth_token_file", '"."'),
    ("dialects.ipn.confirmations", "0"),
    ("dialects.ipn.confirmations", "1001"),
    ("dialects.ipn.max_retry_interval_s", "0.5"),
    ("dialects.callback.retries", "-1"),
    ("dialects.callback.retries", "1001"),
    ("dialects.callback.retries", "2.5"),
    ("dialects.callback.retry_period_s", "0.9"),
    ("dialects.callback.retry_period_s", "86401"),
    ("dialects.callback.confirmations", "0"),
    ("dialects.callback.confirmations", "1001"),
    ("dialects.callback.zero_conf", "1"),
    ("dialects.callback.zero_conf", '"yes"'),
    ("dialects.blockcypher.verify_signature", '"yes"'),
    ("dialects.blockcypher.verify_signature", "0"),
    ("dialects.blockcypher.public_key_file", '"missing.pem"'),
    ("dialects.blockcypher.public_key_file", '"."'),
    ("accounts.credit_confirmations", "0"),
    ("accounts.credit_confirmations", "1001"),
    ("accounts.credit_confirmations", "1.5"),
    ("accounts.inactive_after_days", "36501"),
    ("accounts.inactive_after_days", "0.5"),
    ("log.level", '"loud"'),
    ("log.format", '"xml"'),
]


@pytest.mark.parametrize(("path", "value"), RANGES)
def test_wrong_value_is_named_with_its_key(path: str, value: str) -> None:
    """A value out of its range is one problem, with the key's path and what was wanted."""
    (problem,) = problems_of(text_of(path, value))
    assert problem.startswith(f"{path}: ")
    assert len(problem) > len(path) + 10


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('netwrk = "mainnet"', "netwrk: there is no such key"),
        ("[api]\nbimd = 1", "api.bimd: there is no such key"),
        ("[dialects.ipn]\nconfirms = 1", "dialects.ipn.confirms: there is no such key"),
        ("[deliveries]\ntimeout_s = 1", "[deliveries]: there is no such section"),
        ("[dialects.callbacks]\nretries = 1", "[dialects.callbacks]: there is no such section"),
        ("[dialects.callback]\nretry = 1", "dialects.callback.retry: there is no such key"),
        ("[api.bind]\nx = 1", "[api.bind]: there is no such section"),
        ("api = 1", "api: there is no such key"),
        ("dialects = 1", "dialects: there is no such key"),
        ("[dialects]\nipn = 1", "dialects.ipn: there is no such key"),
        ("[[api]]\nbind = 1", "api: there is no such key"),
    ],
)
def test_what_is_not_a_key_is_named(text: str, problem: str) -> None:
    """A typing error in a key or a section is a problem, never ignored."""
    assert problems_of(text) == [problem]


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"secret", id="no PEM"),
        pytest.param("clé secrète".encode(), id="not ASCII"),
        pytest.param(PUBLIC_KEY.replace("PUBLIC", "PRIVATE").encode(), id="no public key"),
        pytest.param(OTHER_CURVE, id="of another curve"),
        pytest.param((PUBLIC_KEY[:60] + PUBLIC_KEY[70:]).encode(), id="cut"),
    ],
)
def test_file_that_holds_no_public_key_is_a_problem(contents: bytes) -> None:
    """A key that could check no signature is refused when the service starts, and what the file holds is not shown."""
    Path("webhooks.pem").write_bytes(contents)
    (problem,) = problems_of('[dialects.blockcypher]\npublic_key_file = "webhooks.pem"')
    assert problem.startswith("dialects.blockcypher.public_key_file: ")
    assert "secr" not in problem


def test_blockcyphers_own_variable_says_whether_signatures_are_checked() -> None:
    """The variable of the services that take BlockCypher's webhooks is understood, and stands above the file."""
    text = "[dialects.blockcypher]\nverify_signature = true\n"
    assert not load(text, VERIFY_BLOCKCYPHER_SIGNATURE="false").blockcypher.verify_signature
    assert load("", VERIFY_BLOCKCYPHER_SIGNATURE="true").blockcypher.verify_signature
    (problem,) = problems_of("", VERIFY_BLOCKCYPHER_SIGNATURE="perhaps")
    assert "VERIFY_BLOCKCYPHER_SIGNATURE" in problem


def test_several_problems_are_named_at_once() -> None:
    """Every problem of file and environment comes in one message, each with its key or variable."""
    text = """
        netwrk = "mainnet"
        [api]
        bind = "nowhere"
        [delivery]
        timeout_s = 0
        max_in_flight = "many"
        [servers]
        list = []
    """
    found = problems_of(text, LIGHTIPN_LOG_LEVEL="loud", LIGHTIPN_NOTHING="1")
    names = [problem.rpartition(": ")[0].partition(": ")[0] for problem in found]
    assert sorted(names) == sorted(
        [
            "netwrk",
            "[servers]",
            "LIGHTIPN_NOTHING",
            "api.bind",
            "delivery.timeout_s",
            "delivery.max_in_flight",
            "LIGHTIPN_LOG_LEVEL",
        ]
    )


def test_extended_key_must_fit_the_network() -> None:
    """A key of another network is named, and never repeated."""
    (problem,) = problems_of(f'[dialects.ipn]\nxpub = "{TPUB}"')
    assert problem.startswith("dialects.ipn.xpub: ")
    assert "mainnet" in problem
    assert TPUB[:12] not in problem


# --- servers -----------------------------------------------------------------------------------------------------


def electrum(servers: str, **keys: str) -> str:
    """Write the section with one server and other keys."""
    lines = [f"{name} = {value}" for name, value in keys.items()]
    return "\n".join(["[electrum]", f'servers = ["{servers}"]', *lines])


@pytest.mark.parametrize(
    "server",
    [
        f"ssl://a.example:50002#{FINGERPRINT}",
        f"ssl://a.example:50002#{FINGERPRINT.upper()}",
        "ssl://a.example:50002#" + ":".join(FINGERPRINT[at : at + 2] for at in range(0, 64, 2)),
        f"a.example:50002:s#{FINGERPRINT}",
        f"ssl://[2001:db8::1]:50002#{FINGERPRINT}",
    ],
)
def test_server_may_be_pinned(server: str) -> None:
    """A fingerprint may follow a server that speaks TLS, in any spelling, in the file and in the environment."""
    assert load(electrum(server)).electrum.servers == (server,)
    assert load("", LIGHTIPN_ELECTRUM_SERVERS=f"{server}, b.example:50002:s").electrum.servers == (
        server,
        "b.example:50002:s",
    )


@pytest.mark.parametrize("server", [f"tcp://{ONION}:50001", f"ssl://{ONION}:50002", f"{ONION}:50001:t"])
def test_onion_server_needs_a_proxy(server: str) -> None:
    """An onion server without a proxy could never be reached: the problem names the server, and the key it wants."""
    (problem,) = problems_of(electrum(server))
    assert problem.startswith(f"electrum.servers: {ONION}:5000")
    assert problem.endswith("want electrum.proxy")
    assert load(electrum(server, proxy='"socks5://127.0.0.1:9050"')).electrum.servers == (server,)
    assert load(electrum(server), LIGHTIPN_ELECTRUM_PROXY="socks5://127.0.0.1:9050").electrum.servers == (server,)


@pytest.mark.parametrize("server", ["tcp://8.8.8.8:50001", "8.8.8.8:50001:t", "tcp://[2600::1]:50001"])
def test_plain_tcp_to_a_public_address_must_be_allowed(server: str) -> None:
    """A literal public address without TLS is refused unless the operator allows it; the proxy does not."""
    for text in (electrum(server), electrum(server, proxy='"socks5://127.0.0.1:9050"')):
        (problem,) = problems_of(text)
        assert problem.startswith("electrum.servers: ")
        assert ":50001:t is plain TCP to a public address" in problem
        assert problem.endswith("electrum.allow_plaintext")
    assert load(electrum(server, allow_plaintext="true")).electrum.servers == (server,)
    assert load(electrum(server), LIGHTIPN_ELECTRUM_ALLOW_PLAINTEXT="true").electrum.servers == (server,)


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("ssl://8.8.8.8:50002", id="public with TLS"),
        pytest.param("tcp://127.0.0.1:50001", id="this machine"),
        pytest.param("tcp://192.168.1.5:50001", id="private"),
        pytest.param("tcp://[fd00::5]:50001", id="private IPv6"),
        pytest.param("tcp://[::1]:50001", id="this machine, IPv6"),
        pytest.param("tcp://electrs:50001", id="a name, which is judged when it is resolved"),
    ],
)
def test_other_servers_need_no_permission(server: str) -> None:
    """TLS anywhere, and plain TCP to what is not public, is used as it is."""
    assert load(electrum(server)).electrum.servers == (server,)


def test_every_server_that_cannot_be_used_is_named() -> None:
    """Each server has a problem of its own, beside those of other keys."""
    text = f"""
        [electrum]
        servers = ["tcp://8.8.8.8:50001", "ssl://good.example:50002", "tcp://{ONION}:50001", "tcp://9.9.9.9:50001"]
        connections = 0
    """
    found = problems_of(text)
    assert [problem.partition(": ")[0] for problem in found] == ["electrum.connections"] + ["electrum.servers"] * 3
    assert all(host in problem for host, problem in zip(("8.8.8.8", ONION, "9.9.9.9"), found[1:], strict=True))


def test_server_list_that_is_wrong_is_one_problem() -> None:
    """What cannot be read is not judged further: one mistake is told once."""
    assert len(problems_of(electrum("tcp://8.8.8.8"))) == 1
    assert len(problems_of(electrum(f"tcp://{ONION}:50001", proxy='"tor"'))) == 1


# --- one's own node ----------------------------------------------------------------------------------------------

NODE = 'backend = "bitcoind"\n[bitcoind]\n'
CREDENTIALS = [
    pytest.param('cookie_file = "/no/such/folder/.cookie"', id="cookie"),
    pytest.param('user = "shop"\npassword_file = "token.txt"', id="user"),
]


@pytest.mark.parametrize("credentials", CREDENTIALS)
def test_node_lets_in_a_cookie_or_a_user(credentials: str) -> None:
    """Either is enough; a cookie is the node's own, made anew at each start, so nobody looks for it here."""
    Path("token.txt").write_text("s3cret\n")
    config = load(NODE + credentials)
    assert config.backend == "bitcoind"
    assert (config.bitcoind.cookie_file, config.bitcoind.user, config.bitcoind.password) in [
        (Path("/no/such/folder/.cookie"), "", ""),
        (None, "shop", "s3cret"),
    ]


@pytest.mark.parametrize(
    ("credentials", "problem"),
    [
        pytest.param("", "bitcoind.cookie_file: want the node's cookie file, or ", id="neither"),
        pytest.param('cookie_file = ""', "bitcoind.cookie_file: want the node's cookie file, or ", id="empty"),
        pytest.param('password_file = "token.txt"', "bitcoind.cookie_file: want ", id="password of nobody"),
        pytest.param('user = "shop"', "bitcoind.password_file: want ", id="user without a password"),
        pytest.param('user = "shop"\ncookie_file = "c"', "bitcoind.user: want it only without ", id="both"),
        pytest.param(
            'user = "shop"\npassword_file = "token.txt"\ncookie_file = "c"',
            "bitcoind.user: want it only without ",
            id="both, with the password",
        ),
    ],
)
def test_node_wants_either_a_cookie_or_a_user_with_a_password(credentials: str, problem: str) -> None:
    """What could never be let in, or names two ways, is one problem; without that backend nobody asks for it."""
    Path("token.txt").write_text("s3cret\n")
    (found,) = problems_of(NODE + credentials)
    assert found.startswith(problem)
    assert "s3cret" not in found
    assert load(f"[bitcoind]\n{credentials}").backend == "electrum"


def test_credentials_of_the_node_may_come_from_the_environment() -> None:
    """File and environment are judged together: each may give what the other lacks, or take it away."""
    Path("token.txt").write_text("s3cret\n")
    config = load('[bitcoind]\nuser = "shop"', LIGHTIPN_BACKEND="bitcoind", LIGHTIPN_BITCOIND_PASSWORD_FILE="token.txt")
    assert (config.bitcoind.user, config.bitcoind.password) == ("shop", "s3cret")
    assert len(problems_of(NODE + 'cookie_file = "c"', LIGHTIPN_BITCOIND_COOKIE_FILE="")) == 1


def test_credentials_that_cannot_be_read_are_one_problem() -> None:
    """A password file that is missing is told once, not as a missing password besides."""
    (problem,) = problems_of(NODE + 'user = "shop"\npassword_file = "missing.txt"')
    assert problem.startswith("bitcoind.password_file: cannot read 'missing.txt'")


@pytest.mark.parametrize("host", ["https://8.8.8.8", "http://10.1.2.3", "http://[::1]", "http://node.example"])
def test_password_of_a_node_may_go_to_a_private_address_or_over_tls(host: str) -> None:
    """Plain HTTP is refused where it is known to lead over the internet; of a name that is not known."""
    assert load(NODE + f'cookie_file = "c"\nurl = "{host}:8332"').bitcoind.url == f"{host}:8332"


def test_notices_want_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZMQ endpoints without pyzmq are a problem when the service starts, and say what to install."""
    text = NODE + 'cookie_file = "c"\nzmq = ["tcp://127.0.0.1:28332"]'
    assert load(text).bitcoind.zmq == ("tcp://127.0.0.1:28332",)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert problems_of(text) == ["bitcoind.zmq: want the package pyzmq: pip install pyzmq"]
    assert load(text.replace('"bitcoind"', '"electrum"', 1)).backend == "electrum"


# --- the environment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False)],
)
def test_boolean_in_the_environment(text: str, expected: bool) -> None:
    """A truth is written as in TOML, in any case, and overrides the file both ways."""
    for written in ("true", "false"):
        config = load(f"[electrum]\nallow_plaintext = {written}", LIGHTIPN_ELECTRUM_ALLOW_PLAINTEXT=text)
        assert config.electrum.allow_plaintext is expected


def test_empty_proxy_in_the_environment_is_none() -> None:
    """An empty variable takes the file's proxy away."""
    text = '[electrum]\nproxy = "socks5://127.0.0.1:9050"\n[delivery]\nproxy = "socks5://127.0.0.1:9050"'
    config = load(text, LIGHTIPN_ELECTRUM_PROXY="", LIGHTIPN_DELIVERY_PROXY="")
    assert (config.electrum.proxy, config.delivery.proxy) == ("", "")


def test_unknown_variable_is_a_problem() -> None:
    """A variable with our prefix that names no key is a typing error."""
    assert problems_of("", LIGHTIPN_API_BIMD="x") == ["LIGHTIPN_API_BIMD: there is no such key"]
    assert problems_of("", LIGHTIPN_CONFIGS="x") == ["LIGHTIPN_CONFIGS: there is no such key"]
    assert load("", HOME="/", LIGHTIPNX="1", lightipn_log="x") == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LIGHTIPN_NETWORK", "Mainnet"),
        ("LIGHTIPN_API_BIND", "x"),
        ("LIGHTIPN_DELIVERY_TIMEOUT_S", "1.2.3"),
        ("LIGHTIPN_DELIVERY_TIMEOUT_S", "nan"),
        ("LIGHTIPN_DELIVERY_TIMEOUT_S", ""),
        ("LIGHTIPN_DELIVERY_MAX_IN_FLIGHT", "-1"),
        ("LIGHTIPN_DELIVERY_MAX_IN_FLIGHT", "1.0"),
        ("LIGHTIPN_DELIVERY_MAX_IN_FLIGHT", "9" * 5000),
        ("LIGHTIPN_DELIVERY_ALLOW_NETWORKS", "10.0.0.1/8"),
        ("LIGHTIPN_ELECTRUM_SERVERS", "a.example"),
        ("LIGHTIPN_API_ANONYMOUS", "ipn,callbacks"),
        ("LIGHTIPN_ELECTRUM_ALLOW_PLAINTEXT", "1"),
        ("LIGHTIPN_ELECTRUM_ALLOW_PLAINTEXT", "yes"),
        ("LIGHTIPN_ELECTRUM_ALLOW_PLAINTEXT", ""),
        ("LIGHTIPN_ELECTRUM_ALLOW_PLAINTEXT", " true"),
        ("LIGHTIPN_ELECTRUM_CONNECTIONS", "three"),
        ("LIGHTIPN_ELECTRUM_MIN_SEEN_BY", "0"),
        ("LIGHTIPN_ELECTRUM_DROP_AFTER_S", "inf"),
        ("LIGHTIPN_ELECTRUM_BAN_S", "-1"),
        ("LIGHTIPN_ELECTRUM_PROXY", "tor"),
        ("LIGHTIPN_BITCOIND_URL", ""),
        ("LIGHTIPN_BITCOIND_COOKIE_FILE", "~no-such-user/.cookie"),
        ("LIGHTIPN_BITCOIND_ZMQ", "tcp://127.0.0.1:28332,28333"),
        ("LIGHTIPN_BITCOIND_POLL_INTERVAL_S", "soon"),
        ("LIGHTIPN_DELIVERY_PROXY", "socks5://"),
        ("LIGHTIPN_DATABASE", ""),
        ("LIGHTIPN_DATABASE", "~no-such-user/shop.db"),
        ("LIGHTIPN_DIALECTS_IPN_AUTH_TOKEN_FILE", "~no-such-user/token"),
    ],
)
def test_wrong_value_in_the_environment_is_named_by_its_variable(variable: str, text: str) -> None:
    """The operator is told the variable that is wrong, not a key that does not stand in the file."""
    (problem,) = problems_of("", **{variable: text})
    assert problem.startswith(f"{variable}: ")


def test_empty_list_in_the_environment_is_empty() -> None:
    """An empty variable of a list overrides the file with nothing."""
    config = load('[api]\nanonymous = ["ipn"]', LIGHTIPN_API_ANONYMOUS="")
    assert config.api.anonymous == ()


def test_home_is_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    """File names may begin with the operator's home."""
    monkeypatch.setenv("HOME", "/home/shop")
    assert load('database = "~/lightipn.db"').database == Path("/home/shop/lightipn.db")


# --- which file --------------------------------------------------------------------------------------------------


def test_file_is_the_named_one_or_that_of_the_folder() -> None:
    """An argument goes before LIGHTIPN_CONFIG, that before ``./lightipn.toml``, and that before the defaults."""
    assert load_config(None, {}) == DEFAULTS
    for name, level in (("lightipn.toml", "debug"), ("second.toml", "warning"), ("third.toml", "error")):
        Path(name).write_text(f'[log]\nlevel = "{level}"')
    assert load_config(None, {}).log.level == "debug"
    assert load_config(None, {"LIGHTIPN_CONFIG": ""}).log.level == "debug"
    assert load_config(None, {"LIGHTIPN_CONFIG": "second.toml"}).log.level == "warning"
    assert load_config(Path("third.toml"), {"LIGHTIPN_CONFIG": "second.toml"}).log.level == "error"


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param(b"network: mainnet", id="YAML"),
        pytest.param(b"network = mainnet", id="no quotes"),
        pytest.param(b"[api", id="open bracket"),
        pytest.param(b'network = "mainnet"\nnetwork = "regtest"', id="twice"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param(b'x = "\x00"', id="NUL"),
    ],
)
def test_file_that_is_no_toml_is_named(contents: bytes) -> None:
    """A file of another kind is a problem with the file's name, and where it goes wrong."""
    Path("shop.toml").write_bytes(contents)
    with pytest.raises(ConfigError, match=r"^shop\.toml: is not TOML"):
        load_config(Path("shop.toml"), {})


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is a problem with its name."""
    with pytest.raises(ConfigError, match=r"^missing\.toml: cannot be read \(No such file"):
        load_config(Path("missing.toml"), {})
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(None, {"LIGHTIPN_CONFIG": "missing.toml"})


# --- secrets -----------------------------------------------------------------------------------------------------


def test_secret_comes_from_its_file_and_is_not_shown() -> None:
    """The token is the file's line without its end, and no representation of the configuration holds it."""
    Path("token.txt").write_text(" s3cret-token \n")
    config = load('[dialects.ipn]\nauth_token_file = "token.txt"\n[bitcoind]\npassword_file = "token.txt"')
    assert config.ipn.auth_token == config.bitcoind.password == "s3cret-token"
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize("section", ["electrum", "delivery"])
def test_password_of_a_proxy_is_not_shown(section: str) -> None:
    """A proxy may ask for a password; neither the configuration's text nor a problem with it repeats it."""
    config = load(f'[{section}]\nproxy = "socks5://shop:s3cret@127.0.0.1:9050"')
    assert getattr(config, section).proxy == "socks5://shop:s3cret@127.0.0.1:9050"
    assert "s3cret" not in repr(config)
    for wrong in ("socks5://shop:s3cret@127.0.0.1", "http://shop:s3cret@127.0.0.1:1", "socks5://shop:s3cret@a b:1"):
        (problem,) = problems_of(f'[{section}]\nproxy = "{wrong}"')
        assert problem.startswith(f"{section}.proxy: ")
        assert "s3cret" not in problem


@pytest.mark.parametrize("contents", [b"", b"\n", b"two\nlines", b"tab\tbed", "schlüssel".encode(), b"nul\x00"])
def test_secret_must_be_one_printable_line(contents: bytes) -> None:
    """A token or a password that no header could carry is refused, and not repeated."""
    Path("token.txt").write_bytes(contents)
    for section, name in (("dialects.ipn", "auth_token_file"), ("bitcoind", "password_file")):
        (problem,) = problems_of(f'[{section}]\n{name} = "token.txt"')
        assert problem.startswith(f"{section}.{name}: 'token.txt' holds ")
        assert "lines" not in problem.replace("single line", "")


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://shop:s3cret@127.0.0.1:8332", id="user and password"),
        pytest.param("http://s3cret@127.0.0.1:8332", id="user"),
        pytest.param("http://:s3cret@127.0.0.1:8332", id="password"),
        pytest.param("ftp://shop:s3cret@127.0.0.1:8332", id="of another scheme"),
        pytest.param("http://shop:s3cret@[::1", id="that cannot be read"),
        pytest.param("http://shop:s3cret@127.0.0.1:rpc", id="with a port that is none"),
        pytest.param("http://shop:s3cret@\u2100.example", id="with a host that is none"),
        pytest.param("http://127.0.0.1:8332/?password=s3cret", id="in the query"),
    ],
)
def test_url_of_the_node_holds_no_password(url: str) -> None:
    """A password in the URL would be shown wherever the node is named: it is refused, and the problem hides it."""
    (problem,) = problems_of(f'[bitcoind]\nurl = "{url}"')
    assert problem.startswith("bitcoind.url: ")
    assert "s3cret" not in problem


def test_regtest_is_a_network() -> None:
    """The network's name becomes the network itself."""
    assert load('network = "regtest"').network is REGTEST
