"""What came back from a receiver."""

import pytest

from lightipn.outbox.verdict import Answer, Outcome


@pytest.mark.parametrize(
    ("status", "is_success"),
    [
        (200, True),
        (202, True),
        (204, True),
        (299, True),
        (100, False),
        (199, False),
        (300, False),
        (301, False),
        (304, False),
        (400, False),
        (404, False),
        (500, False),
        (None, False),
    ],
)
def test_only_2xx_is_a_success(status: int | None, is_success: bool) -> None:
    """Only a 2xx status is a success: a redirect is none, and no answer is none."""
    assert Answer(status=status, body=b"", trouble="", latency_ms=1.0).is_success is is_success


def test_outcome_names_are_stable() -> None:
    """The names of outcomes are stored with every attempt, so they never change."""
    assert [outcome.value for outcome in Outcome] == ["acknowledged", "not-acknowledged", "failed", "interrupted"]
