"""An Electrum client of other hands gets the same shapes from the simulator as from a real ElectrumX."""

import asyncio

import pytest
import trio

from lightipn.bitcoin.hashes import Txid, hex_of, scripthash_of, sha256
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.server import serve_electrum
from tests.regtest.nodes import Bitcoind, ElectrumX

pytest.importorskip("electrum_client", reason="electrum-client is not for this version of Python")

from tests.simulator.independent_client import View, client_view, differences_of

DEADLINE_S = 60


@pytest.fixture(scope="session")
def backend() -> str:
    """Its client speaks to ElectrumX."""
    return "electrum"


async def view_of_electrumx(bitcoind: Bitcoind, electrumx: ElectrumX) -> View:
    """Take the client's view of a real server."""
    address = await bitcoind.new_address()
    txid = await bitcoind.send(address, 100_000)
    await bitcoind.mine(2)
    await electrumx.wait_tip()
    height = await bitcoind.height() - 1  # a header's own proof needs a block above it
    unfunded = await bitcoind.rpc("createrawtransaction", [], [{address: "0.0005"}])
    funded = await bitcoind.rpc("fundrawtransaction", unfunded)
    signed = await bitcoind.rpc("signrawtransactionwithwallet", funded["hex"])
    scripthash = await bitcoind.scripthash(address)

    def look() -> View:
        seen = client_view(
            electrumx.url,
            scripthash,
            txid_hex=txid,
            height=height,
            raw_hex=signed["hex"],
            mine=lambda: trio.from_thread.run(bitcoind.mine, 1),
        )
        return asyncio.run(seen)

    return await trio.to_thread.run_sync(look)


async def view_of_simulator() -> View:
    """Take the client's view of the simulator, of a script with the same kind of past."""
    chain = SimulatedChain()
    chain.mine(10)
    script = forge.made_up_script("shop")
    txid = chain.pay(script, 100_000)
    chain.mine(2)
    payment = forge.payment_of([Outpoint(Txid(sha256(b"elsewhere")), 0)], [TxOutput(amount_sat=50_000, script=script)])
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_electrum, chain)

        async def mine() -> None:
            chain.mine()
            await server.publish()

        def look() -> View:
            seen = client_view(
                f"tcp://127.0.0.1:{server.port}",
                hex_of(scripthash_of(script)),
                txid_hex=hex_of(txid),
                height=chain.tip_height - 1,
                raw_hex=payment.raw.hex(),
                mine=lambda: trio.from_thread.run(mine),
            )
            return asyncio.run(seen)

        view = await trio.to_thread.run_sync(look)
        nursery.cancel_scope.cancel()
    return view


@pytest.mark.slow
async def test_simulator_answers_in_the_shapes_of_electrumx(bitcoind: Bitcoind, electrumx: ElectrumX) -> None:
    """The independent client gets values of the same shapes from the simulator as from a real ElectrumX."""
    with trio.fail_after(DEADLINE_S):
        real = await view_of_electrumx(bitcoind, electrumx)
        made_up = await view_of_simulator()

    assert differences_of(real, made_up) == []
