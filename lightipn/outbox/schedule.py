"""When to try again."""


def doubling_delay_s(tries: int, *, first_s: float, limit_s: float, jitter: float) -> float:
    """Return the pause after ``tries`` failed attempts: it doubles from ``first_s`` up to ``limit_s``.

    Up to a tenth is added so that messages that failed together do not come back together; never more than the limit.

    Args:
        tries: at least 1.
        jitter: in [0, 1).
    """
    doublings = min(tries - 1, 62)  # beyond any limit in use, and still an exact float
    return min(first_s * 2.0**doublings * (1 + jitter / 10), limit_s)
