"""How much a server is asked at a time: less after trouble, more after a while without."""

from hypothesis import given
from hypothesis import strategies as st

from lightipn.electrum.window import MAX_BATCH, MAX_IN_FLIGHT, QUICK_BATCHES_TO_GROW, SLOW_BATCH_S, Window


def limits_of(window: Window) -> tuple[int, int]:
    """Return batch size and batches under way."""
    return window.batch, window.in_flight


def test_window_starts_at_what_a_stock_fulcrum_allows() -> None:
    """A fresh window stays below the 345 batch items that a stock Fulcrum allows an address."""
    assert limits_of(Window()) == (MAX_BATCH, MAX_IN_FLIGHT)
    assert MAX_BATCH * MAX_IN_FLIGHT <= 345


def test_window_shrinks_in_width_first() -> None:
    """A refusal first takes batches under way, then halves their size, and never goes below one call."""
    window = Window()
    seen = []
    for _ in range(10):
        window.shrink()
        seen.append(limits_of(window))
    assert seen == [(100, 2), (100, 1), (50, 1), (25, 1), (12, 1), (6, 1), (3, 1), (1, 1), (1, 1), (1, 1)]


def test_slow_batch_shrinks_the_window() -> None:
    """A batch that took longer than five seconds counts like a refusal; one that took exactly five does not."""
    window = Window()
    window.answered(SLOW_BATCH_S)
    assert limits_of(window) == (100, 3)
    window.answered(SLOW_BATCH_S + 0.001)
    assert limits_of(window) == (100, 2)


def test_quick_batches_widen_the_window() -> None:
    """Twenty quick batches double the batch and add one under way, up to the limits."""
    window = Window()
    for _ in range(5):
        window.shrink()
    assert limits_of(window) == (12, 1)
    seen = []
    for _ in range(5):
        for _ in range(QUICK_BATCHES_TO_GROW):
            window.answered(0.01)
        seen.append(limits_of(window))
    assert seen == [(24, 2), (48, 3), (96, 3), (100, 3), (100, 3)]


def test_what_was_refused_is_not_tried_again() -> None:
    """After a refusal the window never grows back to what was refused, however quick the server is."""
    window = Window()
    assert [window.refused() for _ in range(3)] == [True] * 3
    assert limits_of(window) == (50, 1)
    for _ in range(10 * QUICK_BATCHES_TO_GROW):
        window.answered(0.01)
    assert limits_of(window) == (50, 1)


def test_refusal_of_the_least_is_the_end() -> None:
    """A server that refuses a single call alone cannot be asked less: the window says so."""
    window = Window()
    said = [window.refused() for _ in range(9)]
    assert said == [True] * 8 + [False]
    assert limits_of(window) == (1, 1)


def test_trouble_starts_the_count_anew() -> None:
    """Quick batches before a refusal do not count towards widening after it."""
    window = Window()
    for _ in range(QUICK_BATCHES_TO_GROW - 1):
        window.answered(0.01)
    window.shrink()
    window.answered(0.01)
    assert limits_of(window) == (100, 2)


@given(st.lists(st.none() | st.floats(0, 20), max_size=200))
def test_window_stays_within_its_limits(story: list[float | None]) -> None:
    """Whatever happens, at least one call and at most 3 batches of 100 are allowed."""
    window = Window()
    for elapsed_s in story:
        if elapsed_s is None:
            window.shrink()
        else:
            window.answered(elapsed_s)
        assert 1 <= window.batch <= MAX_BATCH
        assert 1 <= window.in_flight <= MAX_IN_FLIGHT
