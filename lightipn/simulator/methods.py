"""The methods of the Electrum protocol: what a server answers that believes in its chain and in its client's histories.

An answer is a plain JSON value; a refusal is raised. Nothing here does I/O.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.merkle import merkle_tree_of
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.history import HistoryEntry, status_of
from lightipn.errors import RequestError, TransactionError
from lightipn.simulator.request import (
    BAD_REQUEST,
    DAEMON_ERROR,
    INVALID_PARAMS,
    MAX_HEADERS,
    MIN_PROTOCOL,
    UNKNOWN_METHOD,
    Client,
    Refusal,
    Version,
    flag_from,
    number_from,
    scripthash_from,
    txid_from,
    version_from,
    version_text,
)

MIN_FEE_RATE = 0.00001  # BTC per 1,000 virtual bytes, Bitcoin Core's default minimum relay fee


@dataclass(frozen=True, slots=True)
class Method:
    """How one method is served: by which function, with how many parameters, in which protocol versions."""

    answer: Callable[..., Any]
    fewest: int = 0
    most: int = 0
    since: Version = MIN_PROTOCOL
    before: Version = (99,)


# server.*


def server_version(client: Client, _name: object = "", wanted: object = "1.4", *_ignored: object) -> Any:
    """Negotiate the protocol version; only once."""
    if client.protocol:
        raise Refusal(BAD_REQUEST, "server.version already sent")
    lowest, highest = wanted if isinstance(wanted, list) and len(wanted) == 2 else (wanted, wanted)
    chosen = min(version_from(highest), version_from(client.behaviour.max_protocol))
    if chosen < max(version_from(lowest), MIN_PROTOCOL):
        raise Refusal(BAD_REQUEST, "unsupported protocol version", closes=True)
    client.protocol = chosen
    return [client.behaviour.software, version_text(chosen)]


def server_features(client: Client) -> Any:
    """Describe the server."""
    return {
        "hosts": {},
        "pruning": None,
        "server_version": client.behaviour.software,
        "protocol_min": version_text(MIN_PROTOCOL),
        "protocol_max": client.behaviour.max_protocol,
        "genesis_hash": hex_of(REGTEST.genesis_hash),
        "hash_function": "sha256",
        "services": [],
    }


# blockchain.headers.* and blockchain.block.*


def headers_subscribe(client: Client) -> Any:
    """Tell the tip, and from now on its changes."""
    height = client.chain.tip_height
    return {"hex": client.chain.header_at(height).hex(), "height": height}


def _header_proof(client: Client, height: int, cp_height: int) -> dict[str, Any]:
    if not height <= cp_height <= client.chain.tip_height:
        raise Refusal(BAD_REQUEST, "cp_height is below the header or above the tip")
    leaves = [Txid(client.chain.block_at(below).block_hash) for below in range(cp_height + 1)]
    levels = merkle_tree_of(leaves)
    branch = []
    for level in levels[:-1]:
        branch.append(hex_of(level[min(height ^ 1, len(level) - 1)]))
        height >>= 1
    return {"branch": branch, "root": hex_of(levels[-1][0])}


def block_header(client: Client, height: object, cp_height: object = 0) -> Any:
    """Serve one header, with its place among all headers up to ``cp_height`` if that is not 0."""
    height, cp_height = number_from(height), number_from(cp_height)
    header = client.chain.header_at(height).hex()
    return {"header": header, **_header_proof(client, height, cp_height)} if cp_height else header


def block_headers(client: Client, start: object, count: object, cp_height: object = 0) -> Any:
    """Serve consecutive headers: a list since protocol 1.6, one string before."""
    start, count, cp_height = number_from(start), number_from(count), number_from(cp_height)
    headers = [header.hex() for header in client.chain.headers_from(start, min(count, MAX_HEADERS))]
    answer: dict[str, Any] = {"count": len(headers), "max": MAX_HEADERS}
    if client.protocol >= (1, 6):
        answer["headers"] = headers
    else:
        answer["hex"] = "".join(headers)
    if headers and cp_height:
        answer |= _header_proof(client, start + len(headers) - 1, cp_height)
    return answer


# blockchain.scripthash.*


def scripthash_subscribe(client: Client, scripthash: object) -> Any:
    """Tell a status. That it is remembered, and its changes pushed, is the session's work."""
    status = status_of(client.history(scripthash_from(scripthash)))
    return None if status is None else status.hex()


def scripthash_unsubscribe(client: Client, scripthash: object) -> Any:
    """Stop pushing a status; tell whether it was subscribed."""
    known = scripthash_from(scripthash)
    subscribed = known in client.statuses
    client.statuses.pop(known, None)
    return subscribed


def _entry(client: Client, entry: HistoryEntry) -> dict[str, Any]:
    txid = hex_of(entry.txid)
    if entry.height is not None:
        return {"tx_hash": txid, "height": entry.height}
    return {"tx_hash": txid, "height": -int(entry.has_unconfirmed_parent), "fee": client.chain.fee_sat(entry.txid)}


def scripthash_get_history(client: Client, scripthash: object) -> Any:
    """List confirmed transactions, then unconfirmed ones."""
    return [_entry(client, entry) for entry in client.history(scripthash_from(scripthash))]


def scripthash_get_mempool(client: Client, scripthash: object) -> Any:
    """List unconfirmed transactions."""
    history = client.history(scripthash_from(scripthash))
    return [_entry(client, entry) for entry in history if entry.height is None]


def scripthash_get_balance(client: Client, scripthash: object) -> Any:
    """Sum what blocks left unspent, and what the mempool adds or takes."""
    confirmed_sat = unconfirmed_sat = 0
    for coin in client.chain.coins(scripthash_from(scripthash)):
        is_spent_in_block = coin.spent_by is not None and client.chain.height_of(coin.spent_by) is not None
        if coin.height is None:
            unconfirmed_sat += coin.amount_sat if coin.spent_by is None else 0
        elif not is_spent_in_block:
            confirmed_sat += coin.amount_sat
            unconfirmed_sat -= coin.amount_sat if coin.spent_by is not None else 0
    return {"confirmed": confirmed_sat, "unconfirmed": unconfirmed_sat}


def scripthash_listunspent(client: Client, scripthash: object) -> Any:
    """List outputs that nothing spends, not even the mempool."""
    return [
        {
            "tx_hash": hex_of(coin.outpoint.txid),
            "tx_pos": coin.outpoint.index,
            "height": coin.height or 0,
            "value": coin.amount_sat,
        }
        for coin in client.chain.coins(scripthash_from(scripthash))
        if coin.spent_by is None
    ]


# blockchain.transaction.*


def transaction_get(client: Client, tx_hash: object, verbose: object = False) -> Any:
    """Serve raw bytes."""
    if flag_from(verbose):
        raise Refusal(BAD_REQUEST, "verbose transactions are not supported")
    raw = client.chain.transaction(txid_from(tx_hash))
    if raw is None:
        raise Refusal(DAEMON_ERROR, "daemon error: no such mempool or blockchain transaction")
    return raw.hex()


def transaction_get_merkle(client: Client, tx_hash: object, height: object) -> Any:
    """Serve the proof that a transaction is in a block."""
    branch = client.chain.merkle(txid_from(tx_hash), number_from(height))
    return {"block_height": height, "merkle": [hex_of(one) for one in branch.siblings], "pos": branch.position}


def transaction_id_from_pos(client: Client, height: object, tx_pos: object, merkle: object = False) -> Any:
    """Serve the txid at a position of a block, with its proof if wanted."""
    height, tx_pos, is_proof_wanted = number_from(height), number_from(tx_pos), flag_from(merkle)
    branch = client.chain.merkle_at(height, tx_pos)
    txid = hex_of(client.chain.block_txids(height)[tx_pos])
    return {"tx_hash": txid, "merkle": [hex_of(one) for one in branch.siblings]} if is_proof_wanted else txid


def transaction_broadcast(client: Client, raw: object) -> Any:
    """Take a transaction into the mempool."""
    try:
        return hex_of(client.node.submit(bytes.fromhex(raw if isinstance(raw, str) else "-")))
    except (ValueError, TransactionError, RequestError):
        raise Refusal(BAD_REQUEST, "the transaction was rejected by network rules") from None


# fees


def estimatefee(_client: Client, blocks: object, _mode: object = None) -> Any:
    """Tell a made-up fee rate, higher for those in a hurry; BTC per 1,000 virtual bytes."""
    return MIN_FEE_RATE * (2 if number_from(blocks) > 2 else 5)


def fee_histogram(client: Client) -> Any:
    """List [satoshis per byte, bytes] of the mempool, highest first."""
    sizes: dict[int, int] = {}
    for txid in client.chain.mempool:
        size_bytes = len(client.chain.transaction(txid) or b"")
        rate = client.chain.fee_sat(txid) // size_bytes
        sizes[rate] = sizes.get(rate, 0) + size_bytes
    return sorted(([rate, size_bytes] for rate, size_bytes in sizes.items()), reverse=True)


def mempool_get_info(_client: Client) -> Any:
    """Tell the fee rates below which nothing is relayed."""
    return dict.fromkeys(("mempoolminfee", "minrelaytxfee", "incrementalrelayfee"), MIN_FEE_RATE)


METHODS = {
    "server.version": Method(server_version, most=99),
    "server.features": Method(server_features),
    "server.banner": Method(lambda _client: "A simulated server over a made-up chain."),
    "server.donation_address": Method(lambda _client: ""),
    "server.ping": Method(lambda _client, *_ignored: None, most=2),
    "server.peers.subscribe": Method(lambda _client: []),
    "blockchain.headers.subscribe": Method(headers_subscribe),
    "blockchain.block.header": Method(block_header, fewest=1, most=2),
    "blockchain.block.headers": Method(block_headers, fewest=2, most=3),
    "blockchain.scripthash.subscribe": Method(scripthash_subscribe, fewest=1, most=1),
    "blockchain.scripthash.unsubscribe": Method(scripthash_unsubscribe, fewest=1, most=1, since=(1, 4, 2)),
    "blockchain.scripthash.get_history": Method(scripthash_get_history, fewest=1, most=1),
    "blockchain.scripthash.get_mempool": Method(scripthash_get_mempool, fewest=1, most=1),
    "blockchain.scripthash.get_balance": Method(scripthash_get_balance, fewest=1, most=1),
    "blockchain.scripthash.listunspent": Method(scripthash_listunspent, fewest=1, most=1),
    "blockchain.transaction.get": Method(transaction_get, fewest=1, most=2),
    "blockchain.transaction.get_merkle": Method(transaction_get_merkle, fewest=2, most=2),
    "blockchain.transaction.id_from_pos": Method(transaction_id_from_pos, fewest=2, most=3),
    "blockchain.transaction.broadcast": Method(transaction_broadcast, fewest=1, most=1),
    "blockchain.estimatefee": Method(estimatefee, fewest=1, most=2),
    "blockchain.relayfee": Method(lambda _client: MIN_FEE_RATE, before=(1, 6)),
    "mempool.get_info": Method(mempool_get_info, since=(1, 6)),
    "mempool.get_fee_histogram": Method(fee_histogram),
}


def answer(client: Client, name: str, params: list[Any]) -> Any:
    """Answer a request honestly.

    Raises:
        Refusal: the answer is an error object.
    """
    method = METHODS.get(name)
    if method is None or (name != "server.version" and not method.since <= client.protocol < method.before):
        raise Refusal(UNKNOWN_METHOD, "unknown method")
    if not method.fewest <= len(params) <= method.most:
        raise Refusal(INVALID_PARAMS, f"{name} takes {method.fewest} to {method.most} parameters")
    try:
        return method.answer(client, *params)
    except LookupError as error:
        raise Refusal(BAD_REQUEST, str(error)) from None
