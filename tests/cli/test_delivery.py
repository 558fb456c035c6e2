"""``lightipn delivery``."""

import pytest

from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.dialects.ipn.wire import IpnTerms, encode_terms
from lightipn.outbox.verdict import Answer
from lightipn.store import attempts, deliveries, ledger, reviews, subscriptions
from lightipn.store.database import Database
from tests.builders import entry_of
from tests.cli.conftest import Run, write
from tests.store.rows import NOW, TIP, regtest_address

POLICIES = {"ipn": IpnPolicy(max_retry_interval_s=3600)}
ADDRESS = regtest_address(0)
HOSTILE = b"\x1b]0;owned\x07\x1b[31m[bold]red[/bold]\r\n\xc2\x9b5m\xe2\x80\xaetxt \xff"


def pay(db: Database, *, url: str = "https://shop.example/ipn") -> None:
    """Subscribe a URL and pay its address 0.001 BTC."""
    subscriptions.save_subscription(
        db,
        dialect="ipn",
        owner="shop",
        address=ADDRESS,
        url=url,
        terms=encode_terms(IpnTerms(max_confirms=3)),
        now=NOW,
    )
    ledger.save_entries(db, ADDRESS.scripthash, [entry_of(1)])
    reviews.review_script(db, POLICIES, ADDRESS.scripthash, tip_height=TIP, now=NOW)


def attempt(db: Database, answer: Answer) -> None:
    """Make one attempt at everything that is due."""
    claims, _ = attempts.claim_due(db, POLICIES, now=NOW + 10_000, room=9, room_of=lambda host: 9, busy={})
    assert claims
    for claim in claims:
        attempts.finish_attempt(db, POLICIES, claim, answer, now=NOW + 10_000, jitter=0.0)


def failed(body: bytes = b"", *, status: int | None = 500, trouble: str = "") -> Answer:
    """Return an answer that acknowledges nothing."""
    return Answer(status=status, body=body, trouble=trouble, latency_ms=41.7)


@pytest.fixture(autouse=True)
def paid() -> None:
    """One message is due."""
    write(pay)


def test_messages_are_listed(run: Run) -> None:
    """The list says how far each message is, in a table and as JSON."""
    (found,) = run("delivery", "list", "--json").json
    assert found | {"message_id": ""} == {
        "id": 1,
        "message_id": "",
        "dialect": "ipn",
        "owner": "shop",
        "address": ADDRESS.text,
        "url": "https://shop.example/ipn",
        "state": "due",
        "attempts": 0,
        "next_attempt_at": float(NOW),
        "tells": f'{{"address":"{ADDRESS.text}","confirmed_sat":0,"unconfirmed_sat":100000}}',
    }
    table = run("delivery", "list").out
    for part in ("due", "shop", ADDRESS.text, "https://shop.example/ipn", "2023-11-14T22:13:20Z"):
        assert part in table


def test_list_may_leave_out_what_is_acknowledged(run: Run) -> None:
    """``--pending`` shows what waits, and nothing is said as nothing."""
    echo = f'{{"address": "{ADDRESS.text}", "confirmed": 0, "unconfirmed": 0.001}}'.encode()
    write(lambda db: attempt(db, failed(echo, status=200)))
    assert run("delivery", "list", "--json").json[0]["state"] == "acknowledged"
    assert run("delivery", "list", "--pending", "--json").json == []
    assert run("delivery", "list", "--pending").out == "No deliveries.\n"


def test_message_is_shown_with_every_attempt(run: Run) -> None:
    """Time, outcome, status, latency, the body that was sent and the first bytes of the answer are shown."""
    assert "No attempts yet." in run("delivery", "show", "1").out
    write(lambda db: attempt(db, failed(b"out of order")))
    write(lambda db: deliveries.make_due(db, 1, now=NOW))
    write(lambda db: attempt(db, failed(status=None, trouble="timeout")))
    shown = run("delivery", "show", "1").out
    for part in ("failed", "500", "timeout", "42 ms", "out of order", f"address={ADDRESS.text}&confirmed=0.0"):
        assert part in shown
    found = run("delivery", "show", "1", "--json").json
    assert found["attempts"] == 2
    first, second = found["attempts_made"]
    assert (first["outcome"], first["status"], first["answer_head"]) == ("failed", 500, "out of order")
    assert (second["status"], second["trouble"]) == (None, "timeout")
    assert first["request"]["method"] == "POST"
    assert first["request"]["headers"]["X-IPN-Id"] == found["message_id"]
    assert first["request"]["body"].endswith("unconfirmed=0.001")


def test_answer_of_a_shop_does_not_steer_the_terminal(run: Run) -> None:
    """Escape sequences and markup in an answer are shown, never obeyed; the JSON is escaped too."""
    write(lambda db: attempt(db, failed(HOSTILE)))
    shown = run("delivery", "show", "1").out
    for hostile in ("\x1b", "\x07", "\r", "\x9b", "\u202e"):
        assert hostile not in shown
    assert "\\x1b]0;owned\\x07\\x1b[31m[bold]red[/bold]" in shown
    raw = run("delivery", "show", "1", "--json")
    assert "\x1b" not in raw.out
    assert raw.json["attempts_made"][0]["answer_head"] == HOSTILE.decode("utf-8", "replace")


def test_retry_makes_a_message_due(run: Run) -> None:
    """A message that waits for its next try is due at once."""
    write(lambda db: attempt(db, failed()))
    before = run("delivery", "list", "--json").json[0]["next_attempt_at"]
    assert before == NOW + 10_005
    done = run("delivery", "retry", "1")
    assert (done.code, done.out) == (0, "Due now.\n")
    assert run("delivery", "list", "--json").json[0]["next_attempt_at"] > NOW + 20_000  # the clock on the wall


def test_held_messages_show_in_status(run: Run) -> None:
    """What waits for an owner without a good key is counted, in ``status`` and in the list."""
    run("key", "create", "shop")
    assert run("status", "--json").json["held_deliveries"] == 0
    run("key", "revoke", "shop")
    found = run("status", "--json").json
    assert (found["held_deliveries"], found["pending_deliveries"]) == (1, 1)
    assert run("delivery", "list", "--json").json[0]["state"] == "held"
    run("key", "create", "shop")
    assert run("status", "--json").json["held_deliveries"] == 0


def test_failing_shops_show_in_status(run: Run) -> None:
    """A shop that was tried twice in vain stands in ``status``, in the table and as JSON."""
    write(lambda db: attempt(db, failed(b"\x1b[31m")))
    assert run("status", "--json").json["failing_hosts"] == []

    def fail_again(db: Database) -> None:
        claims, _ = attempts.claim_due(db, POLICIES, now=NOW + 99_999, room=9, room_of=lambda host: 9, busy={})
        attempts.finish_attempt(db, POLICIES, claims[0], failed(), now=NOW + 99_999, jitter=0.0)

    write(fail_again)
    (host,) = run("status", "--json").json["failing_hosts"]
    assert (host["host"], host["messages"], host["failures"]) == ("shop.example:443", 1, 2)
    table = run("status").out
    assert "shop.example:443" in table
    assert "500" in table
