"""``/healthz`` and ``/readyz``."""

from dataclasses import replace

import pytest
from starlette.types import ASGIApp

from lightipn.api.frame import build_app
from lightipn.api.health import LONGEST_GAP_S, Readiness, health_routes
from lightipn.chain.source import ServerState, WatchStatistics
from lightipn.errors import StoreError
from tests.api.asgi import call

OWN_NODE = ServerState(
    name="127.0.0.1:8332", verdict="unavailable", reason="initial-download: 12.00 percent, block 7 of 60"
)
READY = Readiness(
    network="regtest",
    tip_height=105,
    is_tip_proved=True,
    watches=WatchStatistics(total=10, subscribed=8, quarantined=2, oldest_gap_s=0.0),
    servers=(
        ServerState(name="a.example:50002:s", verdict="connected", software="secret software"),
        ServerState(name="b.example:50002:s", verdict="unavailable", reason="refused"),
    ),
)


def app_of(state: Readiness) -> ASGIApp:
    """Return an application in this state."""
    failures: list[StoreError] = []
    return build_app(health_routes(lambda: state), stop_for=failures.append)


async def test_process_that_answers_is_alive() -> None:
    """``/healthz`` says only that the process lives, ready or not."""
    for state in (READY, replace(READY, is_tip_proved=False)):
        reply = await call(app_of(state), "GET", "/healthz")
        assert (reply.status, reply.json) == (200, {"alive": True})


async def test_ready_service_says_so() -> None:
    """``/readyz`` is 200 once the tip is proved and all is subscribed; quarantined watches are only counted."""
    reply = await call(app_of(READY), "GET", "/readyz")
    assert reply.status == 200
    assert reply.json == {
        "ready": True,
        "reason": "",
        "network": "regtest",
        "tip_height": 105,
        "watches": {"total": 10, "subscribed": 8, "quarantined": 2, "oldest_gap_s": 0.0},
        "servers": [
            {"name": "a.example:50002:s", "verdict": "connected", "reason": ""},
            {"name": "b.example:50002:s", "verdict": "unavailable", "reason": "refused"},
        ],
    }


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        pytest.param(replace(READY, is_tip_proved=False), "headers are being proved", id="tip not proved"),
        pytest.param(replace(READY, is_tip_proved=False, servers=()), "no server is connected", id="no servers"),
        pytest.param(
            replace(READY, is_tip_proved=False, servers=(ServerState(name="a", verdict="connecting"),)),
            "no server is connected",
            id="none connected",
        ),
        pytest.param(
            replace(READY, is_tip_proved=False, servers=(OWN_NODE,)),
            "no server is connected: initial-download: 12.00 percent, block 7 of 60",
            id="own node",
        ),
        pytest.param(
            replace(READY, watches=replace(READY.watches, oldest_gap_s=LONGEST_GAP_S + 1), servers=(OWN_NODE,)),
            "no server has been connected for 31 s: initial-download: 12.00 percent, block 7 of 60",
            id="gap without the own node",
        ),
        pytest.param(
            replace(READY, watches=replace(READY.watches, oldest_gap_s=LONGEST_GAP_S + 1)),
            "a watch has been without a subscription for 31 s",
            id="gap",
        ),
        pytest.param(
            replace(READY, watches=replace(READY.watches, oldest_gap_s=LONGEST_GAP_S + 1), servers=()),
            "no server has been connected for 31 s",
            id="gap without a server",
        ),
    ],
)
async def test_service_that_is_not_ready_says_why(state: Readiness, reason: str) -> None:
    """``/readyz`` is 503 with the reason while payments cannot be relied on."""
    reply = await call(app_of(state), "GET", "/readyz")
    assert (reply.status, reply.json["ready"], reply.json["reason"]) == (503, False, reason)


async def test_short_gap_is_no_reason() -> None:
    """A watch may be without a subscription for thirty seconds."""
    state = replace(READY, watches=replace(READY.watches, oldest_gap_s=LONGEST_GAP_S))
    assert (await call(app_of(state), "GET", "/readyz")).status == 200


async def test_health_takes_no_other_method() -> None:
    """Both paths are only read."""
    for path in ("/healthz", "/readyz"):
        reply = await call(app_of(READY), "POST", path)
        assert (reply.status, reply.code) == (405, "wrong-method")
