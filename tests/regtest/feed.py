"""What a service tells: in its event feed, with the laws that every feed must keep, and to a shop.

Events are dictionaries as ``/api/v1/events`` has them.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import trio

from tests.regtest.own_node import OwnNode, Source
from tests.regtest.shop import Shop
from tests.service_process import ServiceProcess

Event = dict[str, Any]

WAIT_S = 20.0
LOOK_AGAIN_S = 0.05
# What may be said of a payment after what was said last; the empty text stands for nothing yet.
LAWFUL_NEXT = {
    "": {"payment.seen", "payment.confirmed"},
    "payment.seen": {"payment.confirmed", "payment.replaced", "payment.dropped"},
    "payment.confirmed": {"payment.reverted"},
    "payment.reverted": {"payment.confirmed", "payment.replaced", "payment.dropped"},
    "payment.replaced": {"payment.seen", "payment.confirmed"},
    "payment.dropped": {"payment.seen", "payment.confirmed"},
}


def service_options(*sources: Source, **more: object) -> dict[str, str]:
    """Return the environment of a service on these servers, or on one's own node; its retries come quickly.

    Args:
        more: further keys, by the end of their variable: ``api_anonymous="ipn"``; ``drop_after_s`` is of the source.
    """
    options = {"LIGHTIPN_NETWORK": "regtest", "LIGHTIPN_DIALECTS_IPN_MAX_RETRY_INTERVAL_S": "1"}
    match sources:
        case (OwnNode() as node,):
            options |= node.options()
        case _:
            options["LIGHTIPN_ELECTRUM_SERVERS"] = ",".join(server.url for server in sources)
    if "drop_after_s" in more:
        drop_after_s = more.pop("drop_after_s")
        more |= {"electrum_drop_after_s": drop_after_s, "bitcoind_drop_after_s": drop_after_s}
    return options | {f"LIGHTIPN_{name.upper()}": str(value) for name, value in more.items()}


def kinds_of(events: Iterable[Event], txid: str) -> list[str]:
    """Return what was said of a payment, in order, without the prefix ``payment.``."""
    return [event["kind"].removeprefix("payment.") for event in events if event.get("txid") == txid]


def matching(events: Iterable[Event], fields: Event) -> list[Event]:
    """Return the events that have all these fields, with these values."""
    return [event for event in events if fields.items() <= event.items()]


async def wait_events(
    service: ServiceProcess, txids: Collection[str], *, deadline_s: float = WAIT_S, **fields: Any
) -> None:
    """Wait until each of these payments has an event with these fields; raises as ``wait_event`` does."""

    def is_told(events: list[Event]) -> bool:
        return {event.get("txid") for event in matching(events, fields)}.issuperset(txids)

    await _wait_feed(service, is_told, deadline_s, f"{fields} for each of {len(txids)} payments")


async def wait_event(service: ServiceProcess, *, count: int = 1, deadline_s: float = WAIT_S, **fields: Any) -> Event:
    """Wait for the ``count``-th event that has these fields, and return it.

    Raises:
        TimeoutError: it did not come before the deadline; the message lists what came.
    """
    events = await _wait_feed(
        service,
        lambda events: len(matching(events, fields)) >= count,
        deadline_s,
        f"event number {count} with {fields}",
    )
    return matching(events, fields)[count - 1]


async def _wait_feed(
    service: ServiceProcess, is_enough: Callable[[list[Event]], bool], deadline_s: float, wanted: str
) -> list[Event]:
    events: list[Event] = []
    with trio.move_on_after(deadline_s):
        while not is_enough(events):
            await trio.sleep(LOOK_AGAIN_S)
            events += await service.events(events[-1]["number"] if events else 0)
        return events
    listed = "\n  ".join(str(event) for event in events)
    raise TimeoutError(f"not within {deadline_s:g} s: {wanted}; the feed:\n  {listed}")


async def wait_verdicts(service: ServiceProcess, *verdicts: str, deadline_s: float = WAIT_S) -> None:
    """Wait until ``/readyz`` shows these verdicts of the servers, in the order of their configuration."""
    shown: list[Event] = []
    with trio.move_on_after(deadline_s):
        while [server["verdict"] for server in shown] != list(verdicts):
            await trio.sleep(LOOK_AGAIN_S)
            shown = (await service.call("/readyz")).json()["servers"]
        return
    raise TimeoutError(f"the servers are not {verdicts} within {deadline_s:g} s, but {shown}")


def assert_lawful(events: Sequence[Event]) -> None:
    """Check a whole feed: numbered without a gap, its blocks link, and nothing is said twice of a payment.

    A block's event that names another height than the tip's neighbour is a gap; a payment's ``confirmed`` must name a
    block that stands, and its ``reverted`` the block that it was confirmed in.
    """
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    chain: dict[int, str] = {}
    said: dict[tuple[str, str], Event] = {}
    for event in events:
        kind, height = event["kind"], event.get("height")
        if kind == "block.connected":
            assert not chain or height == max(chain) + 1, event
            chain[height] = event["block_hash"]
        elif kind == "block.disconnected":
            assert not chain or (height == max(chain) and chain.pop(height) == event["block_hash"]), event
        else:
            payment = event["address"], event["txid"]
            before = said.get(payment, {"kind": ""})
            assert kind in LAWFUL_NEXT[before["kind"]], (before, event)
            if kind == "payment.confirmed" and chain and height >= min(chain):
                assert chain.get(height) == event["block_hash"], event
            if kind == "payment.reverted":
                assert (height, event["block_hash"]) == (before["height"], before["block_hash"]), (before, event)
            said[payment] = event


def totals_told(shop: Shop, address: str) -> list[tuple[str, str]]:
    """Return what a shop was told of an address: confirmed and unconfirmed, the oldest first."""
    return [
        (request.form["confirmed"], request.form["unconfirmed"])
        for request in shop.matching(lambda request: request.form["address"] == address)
    ]


async def wait_told(shop: Shop, address: str, confirmed: str, unconfirmed: str) -> None:
    """Wait until a shop was told these totals of an address; raises as ``Shop.wait_for`` does."""
    wanted = {"address": address, "confirmed": confirmed, "unconfirmed": unconfirmed}
    await shop.wait_for(lambda request: request.form == wanted, WAIT_S)
