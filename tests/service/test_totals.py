"""Totals, and lookups that are shared, limited and never endless."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from lightipn.errors import RequestError
from lightipn.service import lookups as lookups_module
from lightipn.service.lookups import LOOKUP_WAIT_S, LOOKUPS_AT_ONCE
from lightipn.store import ledger, node_findings
from tests.builders import confirmed, entry_of
from tests.service.rig import NOTHING, Tools, open_asking, totals_of
from tests.store.node_rows import found
from tests.store.rows import NOW, TIP, regtest_address


async def test_known_address_is_answered_at_once(tools: Tools, autojump_clock: MockClock) -> None:
    """An address whose history was worked in is answered from the database, and nobody is asked."""
    address = regtest_address(0)
    await tools.subscribe(address)
    await tools.settle(address, entry_of(1, received_sat=40, state=confirmed(TIP)), entry_of(2, received_sat=2))
    asked = await tools.lookups_asked()
    totals = await tools.service.totals.received(address.text, confirmations=1)
    assert totals == totals_of(40, 2)
    totals = await tools.service.totals.received(address.text, confirmations=2)
    assert totals == totals_of(0, 42, changes_at_height=TIP + 1)
    assert (await tools.lookups_asked(), trio.current_time()) == (asked, 0.0)


async def test_unknown_address_is_looked_up(tools: Tools, autojump_clock: MockClock) -> None:
    """The first question leaves a row, rings, and is answered when the history was worked in."""
    async with open_asking(tools) as asking:
        asking.ask("a", regtest_address(0))
        await trio.sleep(3)
        assert await tools.wanted() == [regtest_address(0).text]
        assert tools.rung == ["watches"]
        await tools.settle(regtest_address(1))  # somebody else's history
        await tools.settle(regtest_address(0), entry_of(1, received_sat=7))
    assert asking.answers == {"a": (3.0, totals_of(0, 7))}
    assert await tools.service.totals.received(regtest_address(0).text, confirmations=1) == asking.answers["a"][1]
    assert await tools.lookups_asked() == 1


async def test_freshly_watched_address_is_looked_up_too(tools: Tools, autojump_clock: MockClock) -> None:
    """An address that is watched, and was not worked in yet, is asked for before its totals are told."""
    address = regtest_address(0)
    await tools.subscribe(address)
    async with open_asking(tools) as asking:
        asking.ask("a", address)
        await trio.sleep(1)
        assert asking.answers == {}
        await tools.settle(address)
    assert asking.answers == {"a": (1.0, NOTHING)}


async def test_callers_of_one_address_share_one_lookup(tools: Tools, autojump_clock: MockClock) -> None:
    """Whoever asks for the same address joins the lookup that is under way."""
    async with open_asking(tools) as asking:
        for number in range(20):
            asking.ask(str(number), regtest_address(0))
        await trio.sleep(1)
        assert await tools.lookups_asked() == 1
        await tools.settle(regtest_address(0))
    assert asking.answers == {str(number): (1.0, NOTHING) for number in range(20)}


async def test_lookup_goes_on_when_the_first_caller_goes_away(tools: Tools, autojump_clock: MockClock) -> None:
    """A caller that joined is answered although the one who began the lookup gave it up."""
    async with open_asking(tools) as asking:
        first = asking.ask("first", regtest_address(0))
        await trio.sleep(1)
        asking.ask("joined", regtest_address(0))
        await trio.sleep(1)
        first.cancel()
        await trio.sleep(1)
        await tools.settle(regtest_address(0))
    assert asking.answers == {"joined": (3.0, NOTHING)}


async def test_four_addresses_are_looked_up_at_once(tools: Tools, autojump_clock: MockClock) -> None:
    """A fifth address waits until one of the four is there; known addresses never wait."""
    addresses = [regtest_address(number) for number in range(6)]
    async with open_asking(tools) as asking:
        for number in range(5):
            asking.ask(str(number), addresses[number])
            await trio.testing.wait_all_tasks_blocked()
        assert await tools.wanted() == sorted(address.text for address in addresses[:LOOKUPS_AT_ONCE])
        await trio.sleep(2)
        await tools.settle(addresses[1])
        await trio.testing.wait_all_tasks_blocked()
        assert addresses[4].text in await tools.wanted()
        assert (await tools.service.totals.received(addresses[1].text, confirmations=1)) == NOTHING
        for number in (0, 2, 3, 4):
            await tools.settle(addresses[number])
    assert {name: at for name, (at, _) in asking.answers.items()} == dict.fromkeys("01234", 2.0)


async def test_lookup_that_takes_too_long_is_pending(tools: Tools, autojump_clock: MockClock) -> None:
    """After ten seconds the caller is told to come again; the work goes on, and the next call profits."""
    async with open_asking(tools) as asking:
        asking.ask("early", regtest_address(0))
        await trio.sleep(4)
        asking.ask("late", regtest_address(0))
    assert asking.answers == {
        "early": (LOOKUP_WAIT_S, "503 lookup-pending"),
        "late": (4 + LOOKUP_WAIT_S, "503 lookup-pending"),
    }
    assert await tools.wanted() == [regtest_address(0).text]
    await tools.settle(regtest_address(0))
    assert await tools.service.totals.received(regtest_address(0).text, confirmations=1) == NOTHING


async def test_waiting_for_a_turn_counts(tools: Tools, autojump_clock: MockClock) -> None:
    """Ten seconds are ten seconds, also for a caller whose turn never came; the places are free afterwards."""
    async with open_asking(tools) as asking:
        for number in range(12):
            asking.ask(str(number), regtest_address(number))
    assert set(asking.answers.values()) == {(LOOKUP_WAIT_S, "503 lookup-pending")}
    async with open_asking(tools) as asking:
        asking.ask("next", regtest_address(99))
        await trio.sleep(1)
        await tools.settle(regtest_address(99))
    assert asking.answers == {"next": (11.0, NOTHING)}


async def test_history_that_is_too_long_is_refused(tools: Tools, autojump_clock: MockClock) -> None:
    """A history that is not read is 503 with its reason, at once and on the next call."""
    async with open_asking(tools) as asking:
        asking.ask("a", regtest_address(0))
        await trio.sleep(1)
        await tools.settle(regtest_address(0), trouble="history-too-long")
    assert asking.answers == {"a": (1.0, "503 history-too-long")}
    with pytest.raises(RequestError, match="history-too-long"):
        await tools.service.totals.received(regtest_address(0).text, confirmations=1)


async def test_history_that_is_not_whole_says_from_where_on_it_is(tools: Tools) -> None:
    """Totals come with the height from which on payments are known, and with what is unspent and not proved."""
    address = regtest_address(0)
    await tools.subscribe(address)
    await tools.settle(address, entry_of(1, received_sat=40))
    await tools.cut_history(address, history_from=700, unproved_sat=5)
    covered = await tools.service.totals.received(address.text, confirmations=1)
    assert covered.coverage == ledger.Coverage(history_from=700, unproved_sat=5)
    assert await tools.service.subscriptions.coverage([address.text, regtest_address(1).text]) == {
        address.text: covered.coverage
    }


async def test_payment_that_a_block_shows_is_waited_for(tools: Tools, autojump_clock: MockClock) -> None:
    """What one's own node showed and the ledger does not hold yet is not left out of an answer, whoever watches."""
    address, payment = regtest_address(0), entry_of(1, received_sat=40, state=confirmed(TIP))
    await tools.subscribe(address)
    await tools.settle(address)  # with a history that was read before
    shown = found(1, TIP, pays=[0])
    assert (shown.txid, list(shown.outputs.values())) == (payment.txid, [address.scripthash])
    await tools.store.transact(lambda db: node_findings.save_found(db, [shown]))
    async with open_asking(tools) as asking:
        asking.ask("a", address)
        await trio.sleep(3)
        assert asking.answers == {}
        await tools.settle(address, entry_of(1, received_sat=40))  # seen, but not confirmed
        await trio.sleep(3)
        assert asking.answers == {}
        await tools.settle(address, payment)
    assert asking.answers == {"a": (6.0, totals_of(40, 0))}


async def test_lookup_without_a_node_says_so(tools: Tools, autojump_clock: MockClock) -> None:
    """Why nothing is known is in the refusal."""
    tools.past_progress = "the node cannot be asked: unreachable"
    with pytest.raises(RequestError, match="being looked up \\(the node cannot be asked: unreachable\\)"):
        await tools.service.totals.received(regtest_address(0).text, confirmations=1)


async def test_lookup_that_waits_for_a_search_says_how_far_it_is(tools: Tools, autojump_clock: MockClock) -> None:
    """The refusal of a lookup that one's own node is busy with says what it does."""
    tools.past_progress = "the node's outputs are searched, 40 percent"
    with pytest.raises(RequestError, match="40 percent") as caught:
        await tools.service.totals.received(regtest_address(0).text, confirmations=1)
    assert (caught.value.code, caught.value.status_hint) == ("lookup-pending", 503)


async def test_looked_up_address_stays_watched_while_it_is_polled(tools: Tools, autojump_clock: MockClock) -> None:
    """Polling keeps an address alive, without a write for every poll."""
    address = regtest_address(0)
    async with open_asking(tools) as asking:
        asking.ask("a", address)
        await trio.testing.wait_all_tasks_blocked()
        await tools.settle(address)

    async def until() -> int:
        record = await tools.store.read(lambda db: ledger.load_script(db, address.scripthash))
        assert record is not None
        assert record.wanted_until is not None
        return record.wanted_until

    assert await until() == NOW + ledger.LOOKUP_KEEP_S
    ends = set()
    for _ in range(100):  # a poll each minute
        await trio.sleep(60)
        await tools.service.totals.received(address.text, confirmations=1)
        ends.add(await until())
        assert await until() >= NOW + trio.current_time() + ledger.LOOKUP_KEEP_S // 2
    assert len(ends) < 25


@pytest.mark.parametrize("text", ["", "nonsense", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"])
async def test_totals_of_no_address_are_refused(tools: Tools, text: str) -> None:
    """What is no address of the network is refused before anything is written."""
    with pytest.raises(RequestError) as caught:
        await tools.service.totals.received(text, confirmations=1)
    assert caught.value.code == "bad-address"
    assert await tools.lookups_asked() == 0


async def test_lookups_are_limited_in_number(
    tools: Tools, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks up very many addresses is refused; known ones, and watched ones, are answered all the same."""
    monkeypatch.setattr(lookups_module, "MOST_LOOKUPS", 3)
    for number in range(3):
        await tools.service.totals.request_lookup(regtest_address(number))
        await tools.settle(regtest_address(number))
    with pytest.raises(RequestError) as caught:
        await tools.service.totals.received(regtest_address(3).text, confirmations=1)
    assert (caught.value.code, caught.value.status_hint) == ("too-many-lookups", 503)
    assert await tools.service.totals.received(regtest_address(0).text, confirmations=1) == NOTHING
    watched = regtest_address(4)
    await tools.subscribe(watched)
    async with open_asking(tools) as asking:
        asking.ask("watched", watched)
        await trio.testing.wait_all_tasks_blocked()
        await tools.settle(watched)
    assert asking.answers == {"watched": (0.0, NOTHING)}
