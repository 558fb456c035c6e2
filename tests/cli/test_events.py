"""``lightipn events``."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.store import subscriptions
from lightipn.store.database import Database
from tests.builders import block_hash_of, txid_of
from tests.cli.conftest import Ran, Run, write
from tests.service.happenings import FIRST_BLOCK, confirm, connect, distrust, replace, see
from tests.store.rows import NOW, TIP, regtest_address

HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]:skull:\r\n\x9b5m\x7f\u202etxt"
STOP_LIMIT_S = 20.0


def happen(db: Database) -> None:
    """Let everything happen that can."""
    subscriptions.save_subscription(
        db,
        dialect="ipn",
        owner="shop",
        address=regtest_address(0),
        url="https://shop.example/",
        terms=b"{}",
        now=NOW,
    )
    see(db, 0, txid=1, seen_by=2)
    confirm(db, 0, txid=1, height=TIP)
    replace(db, 0, txid=2, by=3)
    connect(db, height=TIP + 1)
    distrust(db)


def lines(done: Ran) -> list[dict[str, Any]]:
    """Return what was printed, one JSON object a line."""
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def numbers(done: Ran) -> list[int]:
    """Return the numbers of the events that were printed as JSON."""
    return [event["number"] for event in lines(done)]


def test_operator_sees_every_event(run: Run) -> None:
    """The table has each event with its facts, oldest first, those of servers too."""
    write(happen)
    done = run("events")
    assert (done.code, done.err) == (0, "")
    heading, *rows = done.out.splitlines()
    assert heading.split()[:4] == ["NUMBER", "TIME", "KIND", "ADDRESS"]
    assert [row.split()[:3] for row in rows] == [
        ["1", "2023-11-14T22:13:20Z", "payment.seen"],
        ["2", "2023-11-14T22:13:20Z", "payment.confirmed"],
        ["3", "2023-11-14T22:13:20Z", "payment.replaced"],
        ["4", "2023-11-14T22:13:20Z", "block.connected"],
        ["5", "2023-11-14T22:13:20Z", "server.distrusted"],
    ]
    facts = (
        (regtest_address(0).text, hex_of(txid_of(1)), "40", "agreed", "seen by 2, rbf"),
        (regtest_address(0).text, hex_of(txid_of(1)), str(TIP), "proved", f"block {hex_of(block_hash_of(TIP))}"),
        (hex_of(txid_of(2)), "single", f"replaced by {hex_of(txid_of(3))}"),
        (str(TIP + 1), f"block {hex_of(FIRST_BLOCK.block_hash)}"),
        ("a.example:50002:s, certificate-changed",),
    )
    for row, parts in zip(rows, facts, strict=True):
        for part in parts:
            assert part in row


def test_json_is_one_object_a_line(run: Run) -> None:
    """``--json`` prints what the API tells, an event a line; the operator's have server and reason."""
    write(happen)
    first, *_, last = lines(run("events", "--json"))
    assert first == {
        "number": 1,
        "at": NOW,
        "kind": "payment.seen",
        "address": regtest_address(0).text,
        "txid": hex_of(txid_of(1)),
        "net_sat": 40,
        "trust": "agreed",
        "seen_by": 2,
        "rbf": True,
    }
    assert last == {
        "number": 5,
        "at": NOW,
        "kind": "server.distrusted",
        "server": "a.example:50002:s",
        "reason": "certificate-changed",
    }


def test_empty_feed_says_so(run: Run) -> None:
    """Before the first event people read a sentence, and programs nothing."""
    write(lambda db: None)
    assert run("events").out == "No events.\n"
    assert run("events", "--json").out == ""


def test_pages_are_counted_from_a_number_or_from_the_end(run: Run) -> None:
    """``--after`` gives what follows a number; without it the newest are shown."""
    write(happen)
    assert numbers(run("events", "--json")) == [1, 2, 3, 4, 5]
    assert numbers(run("events", "--json", "--limit", "2")) == [4, 5]
    assert numbers(run("events", "--json", "--limit", "2", "--after", "0")) == [1, 2]
    assert numbers(run("events", "--json", "--limit", "2", "--after", "2")) == [3, 4]
    assert numbers(run("events", "--json", "--after", "5")) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--after", "-1"),
        ("--after", "x"),
        ("--after", "9" * 30),
        ("--limit", "0"),
        ("--limit", "1001"),
        ("--limit", "x"),
    ],
    ids=" ".join,
)
def test_bad_number_is_named(run: Run, words: tuple[str, ...]) -> None:
    """A number that cannot be is wrong usage, and the message names the option."""
    write(happen)
    done = run("events", *words)
    assert (done.code, done.out) == (2, "")
    assert words[0] in done.err


@pytest.mark.parametrize("words", [(), ("--json",)], ids=" ".join)
def test_foreign_text_does_not_steer_the_terminal(run: Run, words: tuple[str, ...]) -> None:
    """Whatever stands in a row is shown, never obeyed, and JSON gives it back as it was."""
    write(lambda db: distrust(db, server=HOSTILE, reason=HOSTILE))
    done = run("events", *words)
    assert done.code == 0
    assert all(character.isprintable() or character == "\n" for character in done.out)
    if words:
        assert [(event["server"], event["reason"]) for event in lines(done)] == [(HOSTILE, HOSTILE)]
    else:
        assert "\\x1b]0;owned\\x07\\x1b[31m[bold]:skull:\\r\\n\\x9b5m\\x7f\\u202etxt" in done.out


# --- following ---------------------------------------------------------------------------------------------------


@contextmanager
def following(*options: str) -> Iterator[subprocess.Popen[str]]:
    """Start ``lightipn events --follow`` on this folder; it must end with exit code 0 at Ctrl-C."""
    program = subprocess.Popen(
        [sys.executable, "-m", "lightipn", "events", "--follow", *options],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=STOP_LIMIT_S)
        assert (program.returncode, out, err) == (0, "", "")
    finally:
        if program.poll() is None:
            program.kill()
            program.communicate()


def next_line(program: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints; a program that hangs is ended by the test's timeout."""
    assert program.stdout is not None
    return program.stdout.readline()


@pytest.mark.slow
def test_follow_goes_on_until_it_is_interrupted(folder: Path) -> None:
    """First come the newest events, then each new one, once, as soon as it is written; Ctrl-C is a good end."""
    write(happen)
    with following("--json", "--limit", "2") as program:
        assert [json.loads(next_line(program))["number"] for _ in range(2)] == [4, 5]
        for number in (6, 7):
            write(lambda db: see(db, 0))
            assert json.loads(next_line(program))["number"] == number
        write(lambda db: [confirm(db, 0) for _ in range(5)])  # more than a page
        assert [json.loads(next_line(program))["number"] for _ in range(5)] == [8, 9, 10, 11, 12]


@pytest.mark.slow
def test_follow_prints_lines_for_people(folder: Path) -> None:
    """A person who follows reads a line for each event, with nothing left out between ``--after`` and now."""
    write(happen)
    write(lambda db: distrust(db, server=HOSTILE))
    with following("--after", "1", "--limit", "1") as program:
        found = [next_line(program).rstrip("\n") for _ in range(5)]
    assert [line.split()[0] for line in found] == ["2", "3", "4", "5", "6"]
    assert all(line.isprintable() for line in found)
    paid = f"{regtest_address(0).text}  {hex_of(txid_of(1))}  40 sat  height {TIP}  proved"
    assert found[0].startswith(f"     2  2023-11-14T22:13:20Z  payment.confirmed   {paid}  block ")


@pytest.mark.slow
def test_follow_without_a_database_is_an_error(folder: Path) -> None:
    """In the wrong folder there is nothing to wait for."""
    done = subprocess.run(
        [sys.executable, "-m", "lightipn", "events", "--follow"],
        capture_output=True,
        text=True,
        timeout=STOP_LIMIT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no database" in done.stderr
    assert list(folder.iterdir()) == []
