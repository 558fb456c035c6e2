"""What a client of other hands gets from an Electrum server.

The client is ``electrum-client`` from PyPI: asyncio, and no line of ours in it. The same view is taken of the
simulator and of a real server; where both have the same shape, what is tested on the simulator holds for the real one.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from electrum_client import ElectrumClient

NOTICE_DEADLINE_S = 20.0  # a stock ElectrumX polls its node every few seconds
View = dict[str, Any]


def _plain(value: Any) -> Any:
    """Turn the client's models into plain values."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.dict() if hasattr(value, "dict") else value


async def client_view(
    url: str,
    scripthash_hex: str,
    *,
    txid_hex: str,
    height: int,
    raw_hex: str,
    mine: Callable[[], object],
) -> View:
    """Ask a server for everything the client knows to ask, and wait for one notice of each kind.

    Args:
        url: ``tcp://HOST:PORT`` of a server that speaks protocol 1.4.
        scripthash_hex: of a script with a history.
        txid_hex, height: a transaction in that history, and the block it is in.
        raw_hex: a transaction that pays the script and was not broadcast yet.
        mine: mines a block; called from the client's event loop, which may be blocked meanwhile.

    Returns:
        Plain values by the name of what was asked.
    """
    statuses: asyncio.Queue[Any] = asyncio.Queue()
    tips: asyncio.Queue[Any] = asyncio.Queue()
    async with ElectrumClient(url, ping_interval=0) as client:
        view: View = {
            "protocol": client.negotiated_protocol,
            "features": await client.server_features(),
            "banner": await client.server_banner(),
            "ping": await client.server_ping(),
            "peers": await client.server_peers(),
            "tip": await client.subscribe_headers(tips.put_nowait),
            "status": await client.subscribe_scripthash(scripthash_hex, statuses.put_nowait),
            "history": await client.get_history(scripthash_hex),
            "balance": await client.get_balance(scripthash_hex),
            "unspent": await client.listunspent(scripthash_hex),
            "transaction": await client.get_transaction(txid_hex),
            "merkle": await client.get_merkle(txid_hex, height),
            "header": await client.get_block_header(height),
            "header_proof": await client.get_block_header(height, height + 1),
            "headers": await client.get_block_headers(0, 3),
            "estimate_fee": float(await client.estimate_fee(6)),  # -1, an integer, where a server knows none
        }
        position = view["merkle"].pos
        view["txid_at"] = await client.get_tx_id_from_pos(height, position)
        view["txid_proof"] = await client.get_tx_id_from_pos(height, position, merkle=True)
        view["broadcast"] = await client.broadcast(raw_hex)
        view["status_notice"] = await asyncio.wait_for(statuses.get(), NOTICE_DEADLINE_S)
        view["mempool"] = await client.get_mempool(scripthash_hex)
        view["history_after"] = await client.get_history(scripthash_hex)
        view["balance_after"] = await client.get_balance(scripthash_hex)
        view["fee_histogram"] = await client.fee_histogram()
        mine()
        view["tip_notice"] = await asyncio.wait_for(tips.get(), NOTICE_DEADLINE_S)
    return {name: _plain(value) for name, value in view.items()}


def differences_of(left: Any, right: Any, *, at: str = "view") -> list[str]:
    """Compare the shapes of two views: their keys, and the types of their values.

    Items of a list may have several shapes (only unconfirmed entries have a fee): each must have that of some item of
    the other list. An empty list fits every list.

    Returns:
        What differs, each with the place where it does; empty for equal shapes.
    """
    if type(left) is not type(right):
        return [f"{at}: {type(left).__name__} is not {type(right).__name__}"]
    if isinstance(left, dict):
        found = [f"{at}.{key}: only on one side" for key in sorted(left.keys() ^ right.keys())]
        for key in sorted(left.keys() & right.keys()):
            found += differences_of(left[key], right[key], at=f"{at}.{key}")
        return found
    if isinstance(left, list) and left and right:
        found = []
        for items, others in ((left, right), (right, left)):
            for item in items:
                candidates = [differences_of(item, other, at=f"{at}[]") for other in others]
                found += min(candidates, key=len)
        return list(dict.fromkeys(found))
    return []
