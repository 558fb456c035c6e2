"""What a configuration chooses: dialects, checkpoints, servers, and the ways to them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lightipn.bitcoin.extended_key import parse_address_chain
from lightipn.bitcoin.network import Network
from lightipn.chain.checkpoint import Checkpoints, parse_checkpoints
from lightipn.config import Config
from lightipn.delivery.guard import AddressRules
from lightipn.dialects.blockcypher.objects import names_of
from lightipn.dialects.blockcypher.policy import BlockcypherPolicy
from lightipn.dialects.blockcypher.wire import FORWARD_TERMS, Event, HookTerms
from lightipn.dialects.blockcypher.wire import encode_terms as encode_hook_terms
from lightipn.dialects.callback.policy import CallbackPolicy
from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.dialects.ipn.routes import IpnSettings
from lightipn.dialects.receive.policy import ReceivePolicy
from lightipn.electrum.address import ServerAddress, parse_server_address, parse_server_list
from lightipn.electrum.connection import Connector
from lightipn.outbox.policy import Policy
from lightipn.proxy import parse_proxy
from lightipn.service.ground import AccountHooks, ForwardingKit

if TYPE_CHECKING:
    from lightipn.bitcoind.node import NodeRpc


def policies_of(config: Config) -> dict[str, Policy]:
    """Return every dialect's policy, by the dialect's name."""
    ipn = IpnPolicy(max_retry_interval_s=config.ipn.max_retry_interval_s, auth_token=config.ipn.auth_token)
    public_url = config.api.public_url
    blockcypher = BlockcypherPolicy(
        network=config.network,
        transactions_url=f"{public_url}/v1/btc/{names_of(config.network)[0]}/txs" if public_url else "",
    )
    return {
        "ipn": ipn,
        "callback": callback_policy_of(config),
        "receive": ReceivePolicy(),
        "blockcypher": blockcypher,
    }


def account_hooks_of() -> AccountHooks:
    """Return the hooks that an account's addresses get: what its flow of locking, crediting and failing needs."""
    events = (Event.UNCONFIRMED, Event.CONFIRMED, Event.CONFIRMATION, Event.DOUBLE_SPEND)
    return AccountHooks(dialect="blockcypher", terms=tuple(encode_hook_terms(HookTerms(event)) for event in events))


def forwarding_kit_of(config: Config) -> ForwardingKit | None:
    """Return what forwards are made of; None where forwarding is off. The recovery words are read, and forgotten.

    Raises:
        ConfigError: the seed file cannot be read, others may read it, or it holds no recovery words.
    """
    forwarding = config.forwarding
    if forwarding.seed_file is None:
        return None
    from lightipn.forwarding.seed import addresses_of, read_words

    return ForwardingKit(
        addresses=addresses_of(read_words(forwarding.seed_file), config.network),
        master_address=forwarding.master_address,
        dialect="blockcypher",
        hook_terms=FORWARD_TERMS,
    )


def webhook_key_of(config: Config) -> str:
    """Return the PEM of the key that the real BlockCypher's webhooks are signed with; empty where any are taken."""
    if not config.blockcypher.verify_signature:
        return ""
    return config.blockcypher.public_key or _shipped("blockcypher.pem")


def callback_policy_of(config: Config) -> CallbackPolicy:
    """Return the decisions of the callback dialect."""
    return CallbackPolicy(
        retries=config.callback.retries,
        retry_period_s=config.callback.retry_period_s,
        confirmations=config.callback.confirmations,
        zero_conf=config.callback.zero_conf,
    )


def ipn_settings_of(config: Config) -> IpnSettings:
    """Return what the IPN dialect's routes need; a configured key is read here."""
    chain = parse_address_chain(config.ipn.xpub, config.network) if config.ipn.xpub else None
    return IpnSettings(confirmations=config.ipn.confirmations, user_addresses=chain)


def _shipped(name: str) -> str:
    """Return a data file that ships with the program; an empty text where a network has none."""
    file = resources.files("lightipn") / "data" / name
    return file.read_text("utf-8") if file.is_file() else ""


def checkpoints_of(network: Network) -> Checkpoints:
    """Return the checkpoints that ship with the program."""
    return parse_checkpoints(_shipped(f"checkpoints-{network.name}.tsv"), network)


def servers_of(config: Config) -> tuple[list[ServerAddress], bool]:
    """Return the servers to use, and whether they are the built-in ones.

    Without a proxy the onion servers are left out: nothing else reaches them.
    """
    if config.electrum.servers:
        return [parse_server_address(text) for text in config.electrum.servers], False
    builtin = parse_server_list(_shipped(f"servers-{config.network.name}.tsv"))
    has_proxy = bool(config.electrum.proxy)
    return [address for address in builtin if (has_proxy if address.is_onion else address.uses_tls)], True


def address_rules_of(config: Config) -> AddressRules:
    """Return which addresses callbacks may reach, and how."""
    proxy = parse_proxy(config.delivery.proxy) if config.delivery.proxy else None
    return AddressRules(config.delivery.allow_networks, proxy)


def connector_of(config: Config) -> Connector:
    """Return the way out to servers."""
    return Connector(
        proxy=parse_proxy(config.electrum.proxy) if config.electrum.proxy else None,
        allow_plaintext=config.electrum.allow_plaintext,
    )


@asynccontextmanager
async def open_node(config: Config) -> AsyncIterator["NodeRpc"]:
    """Open the way to one's own bitcoind; it connects when it is asked."""
    # A service on Electrum servers does not carry it.
    from lightipn.bitcoind.node import NodeRpc
    from lightipn.bitcoind.rpc import Credentials, open_http_wire

    bitcoind = config.bitcoind
    credentials = Credentials(cookie_file=bitcoind.cookie_file, user=bitcoind.user, password=bitcoind.password)
    async with open_http_wire(bitcoind.url, credentials) as wire:
        yield NodeRpc(wire, name=urlsplit(bitcoind.url).netloc)
