"""Deliveries as the operator sees them."""

import pytest
import trio
from trio.testing import MockClock

from lightipn.errors import RequestError
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
