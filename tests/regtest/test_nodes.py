"""The harness itself: two real programs that do what the stories ask of them, and a shop that listens."""

import httpx
import pytest

from tests.regtest.nodes import (
    READY_HEIGHT,
    Bitcoind,
    ElectrumX,
    NodeError,
    ProgramMissingError,
    find_program,
    free_port,
    open_bitcoind,
    open_electrumx,
)
from tests.regtest.shop import Shop, always, echo_with, failure, hang, hang_up, redirect_to, silent_ok

AMOUNT_SAT = 123_456_789


@pytest.fixture(scope="session")
def backend() -> str:
    """ElectrumX is part of the harness."""
    return "electrum"


@pytest.mark.slow
async def test_mined_blocks_are_announced(bitcoind: Bitcoind, electrumx: ElectrumX) -> None:
    """Blocks that bitcoind mines become the tip that ElectrumX announces."""
    height = await bitcoind.height()
    hashes = await bitcoind.mine(2)
    await electrumx.wait_height(height + 2)
    await electrumx.wait_tip()
    assert (await bitcoind.height(), await bitcoind.tip_hash()) == (height + 2, hashes[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["legacy", "p2sh-segwit", "bech32", "bech32m", "p2wsh"])
async def test_payment_shows_in_history(bitcoind: Bitcoind, electrumx: ElectrumX, kind: str) -> None:
    """A payment to each kind of address stands in its history at height 0, and with its block's height once mined."""
    address = await bitcoind.new_address(kind)
    txid = await bitcoind.send(address, AMOUNT_SAT)
    [claimed] = await electrumx.wait_history(address, bool)
    assert (claimed["tx_hash"], claimed["height"]) == (txid, 0)
    [block_hash] = await bitcoind.mine(1)
    history = await electrumx.wait_history(address, lambda entries: entries[0]["height"] > 0)
    assert history == [{"tx_hash": txid, "height": (await bitcoind.rpc("getblock", block_hash))["height"]}]
    balance = await electrumx.call("blockchain.scripthash.get_balance", await bitcoind.scripthash(address))
    assert balance == {"confirmed": AMOUNT_SAT, "unconfirmed": 0}


@pytest.mark.slow
async def test_payments_do_not_hang_on_each_other(bitcoind: Bitcoind) -> None:
    """Payments made one after the other spend coins that are confirmed, so each can be replaced on its own."""
    for _ in range(5):
        txid = await bitcoind.send(await bitcoind.new_address(), AMOUNT_SAT)
        assert (await bitcoind.rpc("getmempoolentry", txid))["depends"] == []


@pytest.mark.slow
async def test_bump_fee_replaces(bitcoind: Bitcoind, electrumx: ElectrumX) -> None:
    """A payment with a raised fee takes the place of the first one in the history of its address."""
    address = await bitcoind.new_address()
    first = await bitcoind.send(address, AMOUNT_SAT, fee_rate=2)
    await electrumx.wait_history(address, lambda entries: [entry["tx_hash"] for entry in entries] == [first])
    second = await bitcoind.bump_fee(first)
    assert second != first
    await electrumx.wait_history(address, lambda entries: [entry["tx_hash"] for entry in entries] == [second])


@pytest.mark.slow
@pytest.mark.parametrize("with_transactions", [True, False])
async def test_reorg_changes_the_tip(bitcoind: Bitcoind, electrumx: ElectrumX, with_transactions: bool) -> None:
    """A reorg replaces the last blocks, and their payments are mined again or wait in the mempool, as was asked."""
    address = await bitcoind.new_address()
    txid = await bitcoind.send(address, AMOUNT_SAT)
    lost = await bitcoind.mine(3)
    await electrumx.wait_tip()
    reorg = await bitcoind.reorg(3, with_transactions=with_transactions)
    await electrumx.wait_tip()
    assert reorg.disconnected == tuple(lost)
    assert len(reorg.connected) == 4
    assert await bitcoind.tip_hash() == reorg.connected[-1]
    height = reorg.fork_height + 1 if with_transactions else 0
    await electrumx.wait_history(
        address, lambda entries: [(entry["tx_hash"], entry["height"]) for entry in entries] == [(txid, height)]
    )


@pytest.mark.slow
async def test_killed_electrumx_comes_back(private_bitcoind: Bitcoind, private_electrumx: ElectrumX) -> None:
    """An ElectrumX that was killed is back at the same address and catches up with what it missed."""
    url, height = private_electrumx.url, await private_bitcoind.height()
    assert height == READY_HEIGHT
    private_electrumx.kill()
    assert not await private_electrumx.answers()
    with pytest.raises(NodeError, match="is not started; its last lines"):
        await private_electrumx.call("server.ping")
    await private_bitcoind.mine(3)
    await private_electrumx.start()
    await private_electrumx.wait_height(height + 3)
    assert private_electrumx.url == url


@pytest.mark.slow
async def test_deep_reorg_keeps_the_payer_solvent(private_bitcoind: Bitcoind, private_electrumx: ElectrumX) -> None:
    """After a reorg of twenty blocks a payment of before waits in the mempool, and new ones can be made."""
    txid = await private_bitcoind.send(await private_bitcoind.new_address(), AMOUNT_SAT)
    await private_bitcoind.mine(20)
    await private_electrumx.wait_tip()
    await private_bitcoind.reorg(20, with_transactions=False)
    await private_electrumx.wait_tip()
    assert await private_bitcoind.rpc("getrawmempool") == [txid]
    await private_bitcoind.send(await private_bitcoind.new_address(), AMOUNT_SAT)


@pytest.mark.slow
async def test_bitcoind_restarts_with_its_chain(private_bitcoind: Bitcoind) -> None:
    """A bitcoind that was stopped comes back with its chain and its wallets."""
    tip_hash = await private_bitcoind.tip_hash()
    await private_bitcoind.stop()
    assert not await private_bitcoind.answers()
    await private_bitcoind.start()
    assert await private_bitcoind.tip_hash() == tip_hash
    await private_bitcoind.send(await private_bitcoind.new_address(), AMOUNT_SAT)


@pytest.mark.slow
async def test_two_bitcoinds_agree_once_they_meet(private_bitcoind: Bitcoind, tmp_path) -> None:
    """A node that listens takes the longer chain of a node that connects to it."""
    port = free_port()
    async with open_bitcoind(tmp_path / "listener", listen_port=port) as listener:
        await private_bitcoind.mine(2)
        assert await listener.tip_hash() != await private_bitcoind.tip_hash()
        await private_bitcoind.rpc("addnode", f"127.0.0.1:{port}", "onetry")
        reached = await listener.rpc("waitforblockheight", READY_HEIGHT + 2, 20_000)
        assert reached["hash"] == await private_bitcoind.tip_hash()


@pytest.mark.slow
async def test_electrumx_takes_other_options(private_bitcoind: Bitcoind, tmp_path) -> None:
    """A caller's environment values reach ElectrumX, and a value it refuses fails with its last lines."""
    async with open_electrumx(
        private_bitcoind, tmp_path / "stock", options={"COST_SOFT_LIMIT": None, "COST_HARD_LIMIT": None}
    ) as stock:
        said = stock.output.read_text()
        assert "session cost soft limit 1,000\n" in said
        assert "session cost hard limit 10,000\n" in said
    with pytest.raises(NodeError, match=r"ended with exit code(?s:.*)COST_HARD_LIMIT must be >="):
        async with open_electrumx(private_bitcoind, tmp_path / "wrong", options={"COST_SOFT_LIMIT": "9"}):
            pass


@pytest.mark.slow
async def test_deadline_shows_last_lines(electrumx: ElectrumX) -> None:
    """A wait that passes its deadline says what was wanted and shows what the server wrote last."""
    with pytest.raises(
        NodeError, match=r"longer than 0\.1 s to announce the header wanted; its last lines(?s:.*)INFO:"
    ):
        await electrumx.wait_height(1_000_000, 0.1)


def test_missing_program_names_the_installer(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lacks a program is told which script brings it."""
    monkeypatch.setenv("REGTEST_CACHE", str(tmp_path))
    with pytest.raises(ProgramMissingError, match=r"no bitcoind in .*: run tests/regtest/install\.sh"):
        find_program("bitcoind")


async def test_shop_records_and_answers_by_policy(shop: Shop) -> None:
    """A shop records each request in full, and answers by the policy that holds at that moment."""
    fields = {"address": "bcrt1q", "confirmed": "0.5", "note": ""}
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        answer = await client.post(f"{shop.url}/ipn?shop=7", data=fields, headers={"X-IPN-Id": "1"})
        assert (answer.status_code, answer.json()) == (200, {"shop": "7", **fields})
        for policy, status, body in [
            (silent_ok, 200, ""),
            (failure, 500, "out of order"),
            (redirect_to("http://127.0.0.1/"), 302, ""),
            (echo_with(confirmed="0.6"), 200, '{"address": "bcrt1q", "confirmed": "0.6", "note": ""}'),
            (always(200, b"*ok*"), 200, "*ok*"),
        ]:
            shop.policy = policy
            answer = await client.post(f"{shop.url}/ipn", data=fields)
            assert (answer.status_code, answer.text) == (status, body)
    heard = await shop.wait_for(lambda request: request.headers.get("x-ipn-id") == "1", 1)
    assert (heard.method, heard.path, heard.query, heard.form) == ("POST", "/ipn", {"shop": "7"}, fields)
    assert heard.arrived_at < (await shop.wait_for(lambda request: True, 1, count=6)).arrived_at


async def test_shop_can_be_silent(shop: Shop) -> None:
    """A shop that hangs or hangs up has heard the request and answers nothing."""
    async with httpx.AsyncClient(trust_env=False, timeout=0.05) as client:
        shop.policy = hang
        with pytest.raises(httpx.ReadTimeout):
            await client.post(shop.url)
        shop.policy = hang_up
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(shop.url)
    assert len(shop.requests) == 2


async def test_shop_says_what_it_heard_instead(shop: Shop) -> None:
    """A wait in vain fails and lists the requests that did come in."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        await client.post(f"{shop.url}/other", data={"a": "1"})
    with pytest.raises(TimeoutError, match=r"0 of 1 requests(?s:.*)POST /other \{'a': '1'\}"):
        await shop.wait_for(lambda request: request.path == "/ipn", 0.01)
