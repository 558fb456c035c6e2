"""How histories are falsified, before anything is told of them: lists and statuses then tell the same lie."""

from dataclasses import replace

from lightipn.chain.history import History
from lightipn.simulator.request import Client

BLOCKS_ABOVE_TIP = 5


def leave_out(history: History, client: Client) -> History:
    """Leave transactions out."""
    return tuple(entry for entry in history if entry.txid not in client.behaviour.hides)


def shift_heights(history: History, client: Client) -> History:
    """Claim confirmed transactions at other heights."""
    shift = client.behaviour.wrong_history_height
    return tuple(
        entry if entry.height is None else replace(entry, height=max(entry.height + shift, 1)) for entry in history
    )


def lift_above_tip(history: History, client: Client) -> History:
    """Claim the first mempool entry in a block that is not there yet."""
    first = next((index for index, entry in enumerate(history) if entry.height is None), None)
    if first is None:
        return history
    lifted = replace(history[first], height=client.chain.tip_height + BLOCKS_ABOVE_TIP)
    return (*history[:first], lifted, *history[first + 1 :])


def repeat_first(history: History, _client: Client) -> History:
    """List the first entry twice."""
    return (*history[:1], *history)


def turn_around(history: History, _client: Client) -> History:
    """List the last entry first."""
    return tuple(reversed(history))
