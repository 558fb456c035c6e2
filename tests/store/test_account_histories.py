"""A thousand random histories of accounts, each of which must end as the chain says."""

from collections import Counter
from pathlib import Path

import pytest

from tests.store.account_histories import TELLINGS, make_template, run_history
from tests.store.account_truth import HAPPENINGS

HISTORIES = 1000
GROUP = 100
MOVED = {
    "RESERVE active",
    "RELEASE completed",
    "CANCEL failed",
    "REVERSE failed",
    "RESERVE failed",
    "ADJUST completed",
}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, HISTORIES, GROUP))
def test_accounts_end_as_the_chain_says(tmp_path: Path, first: int) -> None:
    """Whatever happened, in whatever order and however often it was told, over any restarts: the sums are the chain's.

    Balance and locked amount of every account are what the final chain says, all deposits are as far as their
    transactions, the audit is clean after every change, and telling all of it again moves nothing.
    """
    template = make_template(tmp_path / "template.db")
    counts: Counter[str] = Counter()
    for seed in range(first, first + GROUP):
        counts += run_history(template, seed)
    assert set(counts) >= {*HAPPENINGS, *TELLINGS, *MOVED, "died", "negative", "refused"}
