"""Attempts: what came back, and what it means."""

import enum
from dataclasses import dataclass


class Outcome(enum.Enum):
    """What an attempt came to."""

    ACKNOWLEDGED = "acknowledged"
    NOT_ACKNOWLEDGED = "not-acknowledged"  # a 2xx that does not say what the dialect wants: asked again, no failure
    FAILED = "failed"  # transport error, timeout, 3xx, 4xx, 5xx: counts towards the shop's health
    INTERRUPTED = "interrupted"  # the process ended before the answer was recorded; nobody knows what the shop saw


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a receiver answered.

    Args:
        status: of HTTP; None where no answer came.
        body: at most 64 KiB of it.
        trouble: why there is no answer: a code such as ``timeout`` or ``refused-address``; empty if there is one.
        latency_ms: from the start of the attempt to the end of the answer.
    """

    status: int | None
    body: bytes
    trouble: str
    latency_ms: float

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx: all else is a failure of the receiver, redirects included."""
        return self.status is not None and 200 <= self.status < 300
