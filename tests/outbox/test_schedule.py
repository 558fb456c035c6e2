"""When to try again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.outbox.schedule import doubling_delay_s

JITTER = st.floats(0, 1, exclude_max=True)
LIMIT_S = st.floats(1, 10**9)


@pytest.mark.parametrize(
    ("tries", "delay_s"), [(1, 5), (2, 10), (3, 20), (4, 40), (10, 2560), (11, 3600), (12, 3600), (10**6, 3600)]
)
def test_pause_doubles_up_to_its_limit(tries: int, delay_s: float) -> None:
    """Without jitter the pauses are 5, 10, 20 ... seconds, and an hour for ever after that."""
    assert doubling_delay_s(tries, first_s=5, limit_s=3600, jitter=0) == delay_s


@given(JITTER)
@settings(deadline=None)
def test_first_pause_is_five_seconds_and_a_tenth_at_most(jitter: float) -> None:
    """The first retry comes after 5 to 5.5 seconds."""
    assert 5 <= doubling_delay_s(1, first_s=5, limit_s=3600, jitter=jitter) <= 5.5


@given(st.integers(1, 200), JITTER, LIMIT_S)
@settings(deadline=None)
def test_pause_never_gets_shorter_with_more_tries(tries: int, jitter: float, limit_s: float) -> None:
    """With the same jitter, one more failed attempt never shortens the pause."""
    pauses = [doubling_delay_s(tries + more, first_s=5, limit_s=limit_s, jitter=jitter) for more in (0, 1)]
    assert pauses == sorted(pauses)


@given(st.integers(1, 10**9), JITTER, LIMIT_S)
@settings(deadline=None)
def test_pause_stays_between_its_bounds(tries: int, jitter: float, limit_s: float) -> None:
    """No jitter and no number of tries leads below the first pause (where the limit allows it) or above the limit."""
    assert min(5, limit_s) <= doubling_delay_s(tries, first_s=5, limit_s=limit_s, jitter=jitter) <= limit_s


def test_jitter_spreads_messages_that_failed_together() -> None:
    """Two messages with different jitter do not come back at the same moment."""
    assert doubling_delay_s(3, first_s=5, limit_s=3600, jitter=0.1) != doubling_delay_s(
        3, first_s=5, limit_s=3600, jitter=0.2
    )
