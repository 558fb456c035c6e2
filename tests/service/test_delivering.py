"""Deliveries as the operator sees them."""

import pytest
import trio
from trio.testing import MockClock

from lightipn.errors import RequestError
from lightipn.store import outbox
from tests.builders import entry_of
from tests.service.rig import Tools
from tests.store.rows import NOW, regtest_address


async def test_delivery_is_shown_and_made_due(tools: Tools, autojump_clock: MockClock) -> None:
    """A message is shown with its attempts; a retry makes it due now and rings; an unknown one is 404."""
    address = regtest_address(0)
    await tools.subscribe(address)
    await tools.settle(address, entry_of(1, received_sat=40))
    await tools.subscribe(address)
    delivery, attempts = await tools.service.deliveries.show(1)
    assert (delivery.address, delivery.due_at, attempts) == (address.text, NOW, [])
    await trio.sleep(5)
    tools.rung.clear()
    await tools.service.deliveries.retry(1)
    assert tools.rung == ["messages"]
    assert (await tools.service.deliveries.show(1))[0].due_at == NOW + 5
    for call in (tools.service.deliveries.show, tools.service.deliveries.retry):
        with pytest.raises(RequestError) as caught:
            await call(2)
        assert (caught.value.code, caught.value.status_hint) == ("unknown-delivery", 404)


async def test_what_is_no_longer_so_is_not_told_again(tools: Tools) -> None:
    """A message that was withdrawn is not sent again by hand: it would be false."""
    address = regtest_address(0)
    await tools.subscribe(address)
    await tools.settle(address, entry_of(1, received_sat=40))
    await tools.subscribe(address)
    await tools.store.transact(lambda db: outbox.withdraw_messages(db, 1))
    with pytest.raises(RequestError) as caught:
        await tools.service.deliveries.retry(1)
    assert caught.value.code == "withdrawn"
    delivery, _ = await tools.service.deliveries.show(1)
    assert (delivery.state, delivery.due_at) == ("withdrawn", None)
