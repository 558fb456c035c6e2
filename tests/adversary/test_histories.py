"""Random histories with lying servers: a small number of those that ``hunt`` runs by the thousand."""

import tempfile
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adversary.histories import LIES, FalsehoodError, run_group

pytestmark = pytest.mark.slow

# What one of three servers is caught with when it tells this lie; others look like a fault, or like the truth.
CAUGHT = {
    "hides": {"omits-payment"},
    "wrong_bits": {"false-header"},
    "unlinked_tip": {"false-header"},
    "wrong_genesis": {"wrong-network"},
    "wrong_amount": {"false-transaction"},
    "duplicate_txid": {"false-history"},
    "unsorted_heights": {"false-history"},
    "status_never_matches": {"false-history"},
    "garbage": {"broken-protocol"},
}


@pytest.mark.parametrize("name", LIES)
async def test_one_liar_of_three_changes_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    """Whatever lie one of three servers tells, ledger and feed say the truth, and no honest server is blamed."""
    _, caught = await run_group(tmp_path, Random(7), name=name, histories=5, lies=[name])
    kinds = {kind for found in caught.values() for kind in found}
    assert kinds >= CAUGHT.get(name, set())


# A header flood on regtest is mining: two of three servers with a block of their own are a majority of the work.
@pytest.mark.parametrize("name", [name for name in LIES if name != "header_flood"])
async def test_one_honest_server_of_three_is_enough_for_what_is_proved(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    """Two of three servers tell the same lie: every confirmation is found, and none that is not there."""
    await run_group(tmp_path, Random(11), name=name, histories=3, lies=[name], liars=2)


def run(chance: Random, **options: Any) -> None:
    """Run a group of random histories under a clock of its own, so that Hypothesis can run many."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    with tempfile.TemporaryDirectory() as folder:
        trio.run(partial(run_group, Path(folder), chance, name="random", histories=2, **options), clock=clock)


@settings(max_examples=20, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_random_lies_of_a_minority(chance: Random) -> None:
    """One of three servers changes its lies at random: no false event, no missing one, no total that is not so."""
    run(chance, lies=sorted(LIES))


@settings(max_examples=10, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_random_lies_where_servers_share_the_watches(chance: Random) -> None:
    """One of five servers lies, and three of them watch each script: no false event, and no missing one."""
    run(chance, lies=sorted(LIES), servers=5)


async def test_the_comparison_can_fail(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """With one witness enough, an invented payment that spends a real coin is believed, and the comparison says so."""
    with pytest.raises(BaseExceptionGroup) as caught:
        await run_group(tmp_path, Random(5), name="believing", histories=10, lies=["invents_plausible"], min_seen_by=1)
    assert caught.value.split(FalsehoodError)[1] is None
