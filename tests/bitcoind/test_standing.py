"""How the node stands: what is shown of it, how long, and who is woken."""

import trio
from trio.testing import MockClock

from lightipn.bitcoind.standing import Standing
from lightipn.chain.source import Misbehaviour

NODE = "node"
CONTRADICTION = Misbehaviour(server=NODE, kind="bad-branch", claim="a branch", contradiction="another root")


def shown(standing: Standing) -> tuple[str, str]:
    """Return what an operator sees."""
    return standing.state.verdict, standing.state.reason


async def test_node_that_was_behind_is_so_until_it_has_a_new_tip() -> None:
    """The reason goes with its cause, and does not stand in the status for ever."""
    standing = Standing(NODE)
    standing.note_connected()
    standing.note_behind("its tip is 7, ours is 9")
    assert shown(standing) == ("connected", "its tip is 7, ours is 9")
    standing.note_tip()
    assert shown(standing) == ("connected", "")


async def test_contradiction_is_shown_until_the_operator_forgives_it() -> None:
    """A new tip does not mend what the node said against our proofs; each is handed out once as evidence."""
    standing = Standing(NODE)
    standing.note_connected()
    standing.note_behind("its tip is 7, ours is 9")
    standing.report(CONTRADICTION)
    standing.note_tip()
    assert shown(standing) == ("connected", "bad-branch")
    assert [found.kind for found in standing.take_evidence()] == ["bad-branch"]
    assert standing.take_evidence() == []


async def test_loss_is_told_once_and_dated_from_its_beginning(autojump_clock: MockClock) -> None:
    """Each further failure may have another reason, but the gap began with the first."""
    standing = Standing(NODE)
    standing.note_connected()
    await trio.sleep(5)
    began = trio.current_time()
    assert standing.note_lost("unreachable")
    await trio.sleep(5)
    assert not standing.note_lost("wrong-password")
    assert (shown(standing), standing.down_since) == (("unavailable", "wrong-password"), began)


async def test_whoever_waits_is_woken_by_a_change_of_verdict_or_reason_alone() -> None:
    """A latency that is measured anew wakes nobody."""
    standing = Standing(NODE)
    event = standing.changed
    standing.note(latency_ms=3.0, tip_height=9)
    assert not event.is_set()
    standing.note_connected()
    assert event.is_set()
    assert not standing.changed.is_set()
