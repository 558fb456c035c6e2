"""``lightipn account``."""

from pathlib import Path

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.store.database import Database
from tests.builders import confirmed, entry_of, txid_of
from tests.cli.conftest import Run, write
from tests.service.supply import TPUB
from tests.store.account_rows import flaws_in, open_account
from tests.store.rows import TIP, pay, regtest_address
from tests.store.tips import stand_at_tip

A, B = (regtest_address(number).text for number in range(2))
URL = "https://shop.example/hooks"
HOSTILE = "gift [bold]\\[red]"


def fill(db: Database) -> None:
    """Write an account of the operator's with a credited and a locked deposit, and one of a shop's."""
    stand_at_tip(db)
    open_account(db, 0, owner="operator")
    open_account(db, 1, name="second")
    pay(db, 0, entry_of(1, received_sat=700, state=confirmed(TIP - 1)), entry_of(2, received_sat=50))
    pay(db, 0, entry_of(2, received_sat=50, state=confirmed(TIP)))


def test_account_is_made_for_the_operator(run: Run) -> None:
    """What the command line makes belongs to ``operator``, or to the owner that it names; the database may be new."""
    done = run("account", "create", "till")
    assert (done.code, done.out, done.err) == (0, "Made.\n", "")
    options = ("--xpub", TPUB, "--url", URL, "--credit-confirmations", "6", "--key", "shop")
    assert run("account", "create", "full", *options).code == 0
    first, second = run("account", "list", "--json").json
    assert (first["owner"], first["account"]["name"], first["account"]["credit_confirmations"]) == (
        "operator",
        "till",
        2,
    )
    assert second["owner"] == "shop"
    assert second["account"] | {"created_at": 0} == {
        "name": "full",
        "balance_sat": 0,
        "locked_sat": 0,
        "credit_confirmations": 6,
        "created_at": 0,
        "extended_key": TPUB,
        "callback_url": URL,
    }


def test_depth_is_the_configured_one(run: Run, folder: Path) -> None:
    """Without an option an account takes the depth of the configuration."""
    (folder / "lightipn.toml").write_text("[accounts]\ncredit_confirmations = 4\n", "utf-8")
    run("account", "create", "till")
    assert run("account", "show", "till", "--json").json["credit_confirmations"] == 4


def test_accounts_are_listed(run: Run) -> None:
    """The table has everybody's accounts with their amounts."""
    write(fill)
    heading, *rows = run("account", "list").out.splitlines()
    assert heading.split()[:4] == ["OWNER", "ACCOUNT", "BALANCE", "LOCKED"]
    assert [row.split()[:5] for row in rows] == [
        ["operator", "till", "700", "50", "2"],
        ["shop", "second", "0", "0", "2"],
    ]


def test_account_is_shown(run: Run) -> None:
    """A person reads its amounts with their unit, a program the same as the API's JSON."""
    write(fill)
    shown = run("account", "show", "till").out
    for part in ("till of operator", "700 sat", "50 sat", "2 confirmations", "none, addresses are given"):
        assert part in shown
    found = run("account", "show", "till", "--json").json
    assert (found["balance_sat"], found["locked_sat"], found["name"]) == (700, 50, "till")


def test_address_is_added_with_its_webhooks(run: Run) -> None:
    """An address that is added has the webhooks of the account's flow where the account has a URL."""
    run("account", "create", "till", "--url", URL)
    assert run("account", "add", "till", A).out == "Added.\n"
    (found,) = run("account", "addresses", "till", "--json").json
    assert (found["address"], found["index"], found["active"], len(found["webhook_ids"])) == (A, None, True, 4)
    heading, row = run("account", "addresses", "till").out.splitlines()
    assert heading.split()[:4] == ["ADDRESS", "INDEX", "STATE", "WEBHOOKS"]
    assert row.split()[0] == A
    assert "active" in row.split()


def test_deposits_and_movements_are_listed(run: Run) -> None:
    """Both are tables for people and JSON for programs, newest first, and as long as is asked for."""
    write(fill)
    deposits = run("account", "transactions", "till", "--json").json
    assert {one["txid"]: (one["status"], one["credited_sat"], one["locked_sat"]) for one in deposits} == {
        hex_of(txid_of(1)): ("COMPLETED", 700, 0),
        hex_of(txid_of(2)): ("AWAITING_CONFIRMATION", 0, 50),
    }
    heading, *rows = run("account", "transactions", "till").out.splitlines()
    assert heading.split() == ["TXID", "ADDRESS", "AMOUNT", "STATUS", "LOCKED", "CREDITED", "SEEN"]
    assert {tuple(row.split()[1:6]) for row in rows} == {
        (A, "700", "COMPLETED", "0", "700"),
        (A, "50", "AWAITING_CONFIRMATION", "50", "0"),
    }
    movements = run("account", "movements", "till", "--json").json
    assert [(one["number"], one["type"], one["cause"]) for one in movements] == [
        (3, "RESERVE", "payment.confirmed"),
        (2, "RELEASE", "payment.deepened"),
        (1, "RESERVE", "payment.confirmed"),
    ]
    heading, *rows = run("account", "movements", "till").out.splitlines()
    assert heading.split()[:5] == ["NUMBER", "TIME", "KIND", "STATUS", "AMOUNT"]
    assert [row.split()[0] for row in rows] == ["3", "2", "1"]
    assert rows[0].endswith(hex_of(txid_of(2)))
    for words in ("transactions", "movements"):
        assert len(run("account", words, "till", "--json", "--limit", "1").json) == 1


def test_amount_is_booked_once(run: Run) -> None:
    """Booking an amount again under its reference changes nothing; behind ``--`` it may be negative."""
    write(fill)
    for _ in range(2):
        assert run("account", "adjust", "till", "30", "--reference", "gift").out == "Booked.\n"
        assert run("account", "adjust", "--reference", "payout", "till", "--", "-400").out == "Booked.\n"
    assert run("account", "show", "till", "--json").json["balance_sat"] == 330
    done = run("account", "adjust", "--reference", "more", "till", "--", "-331")
    assert done.code == 2
    assert "cannot be booked away" in done.err


def test_sound_accounts_pass_the_audit(run: Run) -> None:
    """Where everything adds up, the audit says how many accounts there are, and ends with 0."""
    write(fill)
    done = run("account", "audit")
    assert (done.code, done.out) == (0, "2 accounts, 0 with flaws.\n")
    assert run("account", "audit", "--json").json == [
        {"owner": "operator", "name": "till", "flaws": []},
        {"owner": "shop", "name": "second", "flaws": []},
    ]


def test_flawed_account_fails_the_audit(run: Run) -> None:
    """Where something does not add up, it is named, and the exit code says so."""
    write(fill)
    write(lambda db: db.execute("UPDATE account SET balance_sat = 5 WHERE name = 'second'"))
    flaw = "the balance is 5 sat, its movements add up to 0 sat"
    done = run("account", "audit")
    assert (done.code, done.out.splitlines()) == (1, [f"second of shop: {flaw}", "2 accounts, 1 with flaws."])
    done = run("account", "audit", "--json")
    assert (done.code, done.json[1]) == (1, {"owner": "shop", "name": "second", "flaws": [flaw]})
    assert write(flaws_in) == [flaw]


def test_negative_account_is_an_alarm_of_the_status(run: Run) -> None:
    """The operator's first look at the service tells of an account below zero."""
    write(fill)
    run("account", "adjust", "--reference", "payout", "till", "--", "-700")
    write(lambda db: pay(db, 0, entry_of(1, received_sat=700)))
    assert "account till of operator is at -700 sat" in run("status").out


def test_empty_lists_say_so(run: Run) -> None:
    """Nothing there is said in words, and is an empty JSON list."""
    write(lambda db: None)
    assert run("account", "list").out == "There is no account.\n"
    assert run("account", "list", "--json").json == []
    assert run("account", "audit").out == "0 accounts, 0 with flaws.\n"
    run("account", "create", "till")
    for words, sentence in (
        ("addresses", "It has no address.\n"),
        ("transactions", "Nothing was paid yet.\n"),
        ("movements", "Nothing has moved yet.\n"),
    ):
        assert run("account", words, "till").out == sentence
        assert run("account", words, "till", "--json").json == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, ("show", "nobody")),
        (1, ("show", "till", "--key", "shop")),
        (1, ("add", "nobody", B)),
        (1, ("movements", "nobody")),
        (1, ("adjust", "nobody", "1", "--reference", "r")),
        (2, ("create", "a b")),
        (2, ("create", "till", "--key", "operator")),
        (2, ("create", "new", "--xpub", "nonsense")),
        (2, ("create", "new", "--url", "ftp://x/")),
        (2, ("create", "new", "--credit-confirmations", "0")),
        (2, ("create", "new", "--credit-confirmations", "1001")),
        (2, ("add", "till", "nonsense")),
        (2, ("add", "till", A)),
        (2, ("adjust", "till", "0", "--reference", "r")),
        (2, ("adjust", "till", "9" * 30, "--reference", "r")),
        (2, ("adjust", "till", "1", "--reference", "")),
        (2, ("adjust", "till", "1")),
        (2, ("transactions", "till", "--limit", "0")),
        (2, ("movements", "till", "--limit", "1001")),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, tuple) else "",
)
def test_bad_input_has_an_exit_code(run: Run, code: int, words: tuple[str, ...]) -> None:
    """What is not there ends with 1, what is wrong with 2; both with a message and without a traceback."""
    write(fill)
    done = run("account", *words)
    assert (done.code, done.out) == (code, "")
    assert done.err


def test_foreign_text_does_not_steer_the_terminal(run: Run) -> None:
    """A reference that somebody chose is shown as it is."""
    write(fill)
    assert run("account", "adjust", "till", "1", "--reference", HOSTILE).code == 0
    assert HOSTILE in run("account", "movements", "till").out
