"""Transactions that compete: payments out of chosen coins, and others that spend the same coins elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.regtest.nodes import SAT_PER_BTC, Bitcoind, btc_text_of

FEE_SAT = 500
HIGHER_FEE_SAT = 5_000
TWO_HOURS_S = 7_200


@dataclass(frozen=True, slots=True)
class Coin:
    """A confirmed output of the wallet ``main``, locked so that no other payment picks it."""

    txid: str
    index: int
    amount_sat: int


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed transaction with one output; ``raw`` is hex."""

    txid: str
    raw: str
    address: str
    amount_sat: int


async def make_coins(bitcoind: Bitcoind, amounts_sat: Sequence[int]) -> list[Coin]:
    """Make coins of these amounts, each at an address of its own, and mine them; the amounts must differ."""
    addresses = [await bitcoind.rpc("getnewaddress") for _ in amounts_sat]
    outputs = {address: btc_text_of(amount_sat) for address, amount_sat in zip(addresses, amounts_sat, strict=True)}
    txid = await bitcoind.rpc("sendmany", "", outputs)
    await bitcoind.mine(1)
    transaction = await bitcoind.transaction(txid)
    places = {output["scriptPubKey"]["address"]: output["n"] for output in transaction["vout"]}
    coins = [
        Coin(txid, places[address], amount_sat) for address, amount_sat in zip(addresses, amounts_sat, strict=True)
    ]
    await bitcoind.rpc("lockunspent", False, [{"txid": coin.txid, "vout": coin.index} for coin in coins])
    return coins


async def sign_payment(bitcoind: Bitcoind, coin: Coin, address: str, *, fee_sat: int = FEE_SAT) -> Signed:
    """Sign a replaceable payment of a whole coin, less the fee; nobody is told of it yet."""
    amount_sat = coin.amount_sat - fee_sat
    inputs = [{"txid": coin.txid, "vout": coin.index}]
    unsigned = await bitcoind.rpc("createrawtransaction", inputs, [{address: btc_text_of(amount_sat)}], 0, True)
    raw = (await bitcoind.rpc("signrawtransactionwithwallet", unsigned))["hex"]
    txid = (await bitcoind.rpc("decoderawtransaction", raw))["txid"]
    return Signed(txid, raw, address, amount_sat)


async def sign_rival(bitcoind: Bitcoind, coin: Coin) -> Signed:
    """Sign a transaction that spends the same coin for a higher fee, and pays somebody else."""
    return await sign_payment(bitcoind, coin, await bitcoind.new_address(), fee_sat=HIGHER_FEE_SAT)


async def publish(signed: Signed, *nodes: Bitcoind) -> str:
    """Hand a transaction to nodes and return its txid."""
    for node in nodes:
        await node.rpc("sendrawtransaction", signed.raw)
    return signed.txid


async def empty_mempool(bitcoind: Bitcoind) -> None:
    """Have a node forget what waits in its mempool: for a moment its clock is hours ahead, and all of it too old.

    The node must have been started with ``-mempoolexpiry=1`` (hours). What is too old is dropped when the next
    transaction comes in; that one is paid by a coin of ``main`` and stays.
    """
    await bitcoind.rpc("setmocktime", int(time.time()) + TWO_HOURS_S)
    await bitcoind.send(await bitcoind.new_address(), SAT_PER_BTC // 100)
    await bitcoind.rpc("setmocktime", 0)
