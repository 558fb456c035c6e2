"""How likely an unconfirmed payment is to be confirmed: the documented formula, number by number."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.chain.verifier import Unconfirmed
from lightipn.ledger.entries import UNKNOWN_STANDING, Dropped, LedgerEntry, PaymentState, Replaced, Standing
from lightipn.ledger.standing import confidence_of
from tests.builders import SEEN_AT, confirmed, entry_of, txid_of

LONG_AGO = 3600.0
BEST = Standing(vbytes_ahead=0)


def unconfirmed(seen_by: int = 3, *, signals_rbf: bool = False) -> LedgerEntry:
    """Return a payment that so many servers held."""
    return replace(entry_of(1, state=Unconfirmed(seen_by)), signals_rbf=signals_rbf)


def confidence(entry: LedgerEntry, standing: Standing = BEST, *, age_s: float = LONG_AGO) -> float:
    """Return the confidence of a payment of this age."""
    return confidence_of(entry, standing, now=SEEN_AT + age_s)


@pytest.mark.parametrize(
    ("seen_by", "wanted"),
    [
        pytest.param(0, 0.8, id="nobody asked"),
        pytest.param(1, 0.8, id="one"),
        pytest.param(2, 0.95, id="two"),
        pytest.param(3, 0.99, id="three"),
        pytest.param(10, 0.99, id="ten"),
    ],
)
def test_holders(seen_by: int, wanted: float) -> None:
    """The more servers held it, the likelier: one 0.8, two 0.95, three or more 0.99."""
    assert confidence(unconfirmed(seen_by)) == wanted


@pytest.mark.parametrize(
    ("vbytes_ahead", "factor"),
    [
        pytest.param(0, 1.0, id="first"),
        pytest.param(1_000_000, 1.0, id="one block"),
        pytest.param(1_000_001, 0.95, id="more than one block"),
        pytest.param(3_000_000, 0.95, id="three blocks"),
        pytest.param(3_000_001, 0.85, id="more than three blocks"),
        pytest.param(6_000_000, 0.85, id="six blocks"),
        pytest.param(6_000_001, 0.6, id="more than six blocks"),
        pytest.param(10**12, 0.6, id="endless"),
        pytest.param(None, 0.8, id="unknown"),
    ],
)
def test_fee(vbytes_ahead: int | None, factor: float) -> None:
    """The less of the mempool pays a higher rate, the likelier; where that is unknown, 0.8."""
    assert confidence(unconfirmed(), Standing(vbytes_ahead=vbytes_ahead)) == round(0.99 * factor, 4)


def test_signal_and_parents() -> None:
    """What may be replaced, and what spends what is unconfirmed, counts 0.8 each."""
    assert confidence(unconfirmed(signals_rbf=True)) == 0.792
    assert confidence(unconfirmed(), replace(BEST, has_unconfirmed_parent=True)) == 0.792
    assert confidence(unconfirmed(signals_rbf=True), replace(BEST, has_unconfirmed_parent=True)) == 0.6336


@pytest.mark.parametrize(
    ("age_s", "factor"),
    [(-5.0, 0.8), (0.0, 0.8), (10.0, 0.9), (20.0, 0.95), (30.0, 0.975), (60.0, 0.996875), (600.0, 1.0)],
)
def test_age(age_s: float, factor: float) -> None:
    """A fifth of doubt at first, which halves every ten seconds; a clock that went back makes it no less."""
    assert confidence(unconfirmed(), age_s=age_s) == round(0.99 * factor, 4)


def test_factors_are_multiplied() -> None:
    """All of it together is the product of the documented factors, in steps of 0.0001."""
    standing = Standing(has_unconfirmed_parent=True, vbytes_ahead=4_000_000)
    found = confidence(unconfirmed(2, signals_rbf=True), standing, age_s=10.0)
    assert found == round(0.95 * 0.85 * 0.8 * 0.8 * 0.9, 4) == 0.4651


def test_unknown_standing_is_the_documented_middle() -> None:
    """Of a payment of which nothing else is known the fee counts as unknown, and no parent and no rival is assumed."""
    assert Standing(has_unconfirmed_parent=False, vbytes_ahead=None, is_contested=False) == UNKNOWN_STANDING
    assert confidence(unconfirmed(1), UNKNOWN_STANDING) == 0.64


def test_rival_leaves_a_tenth_at_most() -> None:
    """Once a rival was seen nothing lifts it above 0.1, and nothing that is known makes it less."""
    assert confidence(unconfirmed(), replace(BEST, is_contested=True)) == 0.1
    worst = Standing(has_unconfirmed_parent=True, vbytes_ahead=10**9, is_contested=True)
    assert confidence(unconfirmed(1, signals_rbf=True), worst, age_s=0) == 0.1


def test_block_is_certainty() -> None:
    """In a block, on our own proof, it is 1, whatever was said before."""
    assert confidence(entry_of(1, state=confirmed(5)), Standing(is_contested=True)) == 1.0


@pytest.mark.parametrize("state", [Replaced(txid_of(9)), Dropped()])
def test_gone_is_nothing(state: PaymentState) -> None:
    """What is gone will not be confirmed."""
    assert confidence(entry_of(1, state=state)) == 0.0


STANDINGS = st.builds(
    Standing,
    has_unconfirmed_parent=st.booleans(),
    vbytes_ahead=st.none() | st.integers(0, 400_000_000),
    is_contested=st.booleans(),
)


@settings(deadline=None, max_examples=100)
@given(
    standing=STANDINGS,
    seen_by=st.integers(0, 20),
    signals_rbf=st.booleans(),
    ages=st.lists(st.floats(0, 1e9), min_size=2, max_size=20),
)
def test_confidence_grows_with_age_and_is_never_certainty(
    standing: Standing, seen_by: int, signals_rbf: bool, ages: list[float]
) -> None:
    """Time alone never makes it less likely, and nothing but a block makes it 1."""
    found = [confidence(unconfirmed(seen_by, signals_rbf=signals_rbf), standing, age_s=age) for age in sorted(ages)]
    assert all(before <= after for before, after in pairwise(found))
    assert all(0 < one <= 0.99 for one in found)
    assert found == [round(one, 4) for one in found]


@settings(deadline=None, max_examples=100)
@given(standing=STANDINGS, seen_by=st.integers(0, 20), signals_rbf=st.booleans(), age_s=st.floats(0, 1e6))
def test_each_bad_sign_makes_it_no_likelier(standing: Standing, seen_by: int, signals_rbf: bool, age_s: float) -> None:
    """A rival, an unconfirmed parent, a signal, fewer holders, more of the mempool ahead: none of them helps."""
    entry = unconfirmed(seen_by, signals_rbf=signals_rbf)
    found = confidence(entry, standing, age_s=age_s)
    worse = [
        (entry, replace(standing, is_contested=True)),
        (entry, replace(standing, has_unconfirmed_parent=True)),
        (replace(entry, signals_rbf=True), standing),
        (unconfirmed(max(0, seen_by - 1), signals_rbf=signals_rbf), standing),
    ]
    if standing.vbytes_ahead is not None:
        worse.append((entry, replace(standing, vbytes_ahead=standing.vbytes_ahead * 2)))
    assert all(confidence(one, stands, age_s=age_s) <= found for one, stands in worse)
