"""Every command has help, an exit code that means something, and no traceback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from lightipn.cli.main import app
from lightipn.cli.output import printable, time_text
from lightipn.store.database import sole_service
from tests.cli.conftest import DATABASE, Run, write

ADDRESS = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
URL = "https://shop.example/ipn"
HUGE = "9" * 30


def commands() -> Iterator[tuple[str, ...]]:
    """Yield every group and command as the words that call it."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        if isinstance(command, TyperGroup):
            context = typer.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                yield from walk(child, (*words, name))

    yield from walk(typer.main.get_command(app), ())


COMMANDS = list(commands())


def test_commands_are_those_of_the_readme() -> None:
    """The command line has these groups and commands."""
    assert {" ".join(words) for words in COMMANDS} == {
        "",
        "serve",
        "init",
        "check-config",
        "status",
        "events",
        "demo",
        "account",
        "account create",
        "account list",
        "account show",
        "account add",
        "account addresses",
        "account transactions",
        "account movements",
        "account adjust",
        "account audit",
        "forwarding",
        "forwarding init",
        "forwarding list",
        "forwarding transfers",
        "forwarding sweep",
        "forwarding recover",
        "key",
        "key create",
        "key list",
        "key revoke",
        "watch",
        "watch add",
        "watch list",
        "watch remove",
        "watch import",
        "delivery",
        "delivery list",
        "delivery show",
        "delivery retry",
        "server",
        "server check",
        "server evidence",
        "server trust",
        "xpub",
        "xpub list",
        "xpub gap",
        "xpub addresses",
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(run: Run, words: tuple[str, ...], option: str) -> None:
    """Each command and group explains itself, and each of its parameters says what it is."""
    done = run(*words, option)
    assert done.code == 0
    assert "Usage: lightipn" in done.out
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.get_command(typer.Context(command), word)
    assert (command.help or "").strip().rstrip()[-1] == "."
    for parameter in command.params:
        if getattr(parameter, "name", "") not in ("help", None):
            assert getattr(parameter, "help", ""), f"{' '.join(words)}: {parameter.name}"


def test_version_is_printed(run: Run) -> None:
    """``--version`` prints the name and a number."""
    done = run("--version")
    assert (done.code, done.out.split()[0]) == (0, "lightipn")
    assert done.out.split()[1][0].isdigit()


@pytest.mark.parametrize("words", [(), ("key",), ("watch",), ("delivery",), ("server",), ("xpub",)], ids=" ".join)
def test_group_alone_shows_its_commands(run: Run, words: tuple[str, ...]) -> None:
    """A group without a command shows what there is, and counts as wrong usage."""
    done = run(*words)
    assert done.code == 2
    assert "Usage:" in done.out + done.err


BAD_INPUT = [
    (2, "nonsense"),
    (2, "key", "create"),
    (2, "key", "create", "a b"),
    (2, "key", "create", ""),
    (2, "key", "create", "ü"),
    (1, "key", "revoke", "nobody"),
    (1, "key", "revoke", "nobody", "--id", "7"),
    (2, "key", "revoke", "nobody", "--id", "x"),
    (2, "watch", "add", ADDRESS),
    (2, "watch", "add", "nonsense", "--url", URL),
    (2, "watch", "add", "", "--url", URL),
    (2, "watch", "add", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "--url", URL),
    (2, "watch", "add", ADDRESS, "--url", "ftp://x"),
    (2, "watch", "add", ADDRESS, "--url", "http://127.0.0.1/"),
    (2, "watch", "add", ADDRESS, "--url", URL, "--max-confirms", "0"),
    (2, "watch", "add", ADDRESS, "--url", URL, "--max-confirms", "1001"),
    (2, "watch", "add", ADDRESS, "--url", URL, "--max-confirms", HUGE),
    (2, "watch", "add", ADDRESS, "--url", URL, "--key", "a b"),
    (2, "watch", "list", "--address", "nonsense"),
    (2, "watch", "list", "--limit", "0"),
    (1, "watch", "remove", ADDRESS),
    (2, "watch", "remove", "nonsense"),
    (2, "watch", "import", "missing.csv"),
    (2, "watch", "import", "."),
    (1, "delivery", "show", "7"),
    (2, "delivery", "show", "-7"),
    (2, "delivery", "show", "x"),
    (1, "delivery", "retry", "7"),
    (2, "delivery", "list", "--limit", "0"),
    (2, "events", "--after", "-1"),
    (2, "events", "--limit", "0"),
    (2, "server", "evidence", "--limit", "0"),
    (2, "server", "trust"),
    (1, "server", "trust", "nobody.example"),
    (1, "xpub", "gap", "7"),
    (2, "xpub", "gap", "0"),
    (2, "xpub", "gap", "x"),
    (1, "xpub", "addresses", "7"),
    (2, "xpub", "addresses", "x"),
    (2, "xpub", "addresses", "7", "--limit", "0"),
    (2, "status", "--config", "missing.toml"),
    (2, "check-config", "--config", "."),
    (2, "serve", "--config", "missing.toml"),
]
TOO_LARGE = [
    ("key", "revoke", "shop", "--id", HUGE),
    ("delivery", "show", HUGE),
    ("delivery", "show", "--", "-" + HUGE),
    ("delivery", "retry", HUGE),
    ("delivery", "list", "--limit", HUGE),
    ("watch", "list", "--limit", HUGE),
    ("events", "--limit", HUGE),
    ("server", "evidence", "--limit", HUGE),
    ("xpub", "gap", HUGE),
    ("xpub", "addresses", HUGE),
]


@pytest.mark.parametrize("case", BAD_INPUT, ids=lambda case: " ".join(case[1:]))
def test_bad_input_is_a_message_and_an_exit_code(run: Run, case: tuple[int, ...]) -> None:
    """What a person typed wrong is 2, what cannot be done is 1; each with a message on stderr and no traceback."""
    code, *words = case
    write(lambda db: None)
    separated = [word for word in words if word == "-7"]
    arguments = [word for word in words if word != "-7"] + (["--", *separated] if separated else [])
    done = run(*map(str, arguments))
    assert done.code == code, done
    assert done.out == ""
    assert "rror" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("words", TOO_LARGE, ids=" ".join)
def test_numbers_beyond_any_database_are_no_traceback(run: Run, words: tuple[str, ...]) -> None:
    """A number with thirty digits is answered like any other that is not there, or like no limit."""
    write(lambda db: None)
    done = run(*words)
    assert done.code in ((0, 2) if "--limit" in words else (1, 2))


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--json"),
        ("key", "list"),
        ("key", "revoke", "shop"),
        ("watch", "list"),
        ("watch", "remove", ADDRESS),
        ("delivery", "list"),
        ("delivery", "show", "1"),
        ("delivery", "retry", "1"),
        ("events",),
        ("events", "--follow"),
        ("server", "evidence"),
        ("server", "trust", "a.example"),
        ("xpub", "list"),
        ("xpub", "gap", "1"),
        ("xpub", "addresses", "1"),
    ],
    ids=" ".join,
)
def test_reading_makes_no_database(run: Run, folder: Path, words: tuple[str, ...]) -> None:
    """Without a database a command that reads says so, and leaves none behind: it runs in the wrong folder."""
    done = run(*words)
    assert done.code in (1, 2)
    assert "there is no database lightipn.db" in done.err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "words", [("status",), ("key", "create", "shop"), ("watch", "add", ADDRESS, "--url", URL)], ids=" ".join
)
def test_database_of_another_network_is_exit_code_2(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A database of another network is a problem of the configuration."""
    write(lambda db: None)
    monkeypatch.setenv("LIGHTIPN_NETWORK", "testnet4")
    done = run(*(word.replace(ADDRESS, "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx") for word in words))
    assert done.code == 2
    assert "belongs to regtest, the configuration says testnet4" in done.err


def test_file_that_is_no_database_is_exit_code_1(run: Run, folder: Path) -> None:
    """A damaged database is a failure with a message."""
    (folder / DATABASE).write_bytes(b"nonsense " * 1000)
    done = run("status")
    assert done.code == 1
    assert "not a database" in done.err


def test_configuration_problems_are_all_printed(run: Run, folder: Path) -> None:
    """Every problem of the configuration is a line of its own, with its key."""
    (folder / "lightipn.toml").write_text("[api]\nbimd = 1\n[delivery]\ntimeout_s = 0\n")
    done = run("status")
    assert done.code == 2
    assert [line.split(": ")[1] for line in done.err.splitlines()] == ["api.bimd", "delivery.timeout_s"]


# --- init and check-config ---------------------------------------------------------------------------------------


def test_init_writes_a_good_configuration_once(run: Run, folder: Path) -> None:
    """``init`` writes a commented file, and never over one that is there."""
    done = run("init")
    assert done.code == 0
    file = folder / "lightipn.toml"
    assert "[delivery]" in file.read_text()
    assert run("check-config").code == 0
    file.write_text('network = "regtest"\n')
    again = run("init")
    assert again.code == 1
    assert "is already there" in again.err
    assert file.read_text() == 'network = "regtest"\n'


def test_init_writes_where_it_is_told(run: Run, folder: Path) -> None:
    """Another name may be given; a place that cannot be written is a message."""
    assert run("init", "--config", "shop.toml").code == 0
    assert (folder / "shop.toml").exists()
    done = run("init", "--config", "missing/shop.toml")
    assert done.code == 1
    assert "cannot write" in done.err


def test_check_config_says_what_is_in_force(run: Run, folder: Path) -> None:
    """A good configuration is summed up; a bad one is exit code 2."""
    (folder / "lightipn.toml").write_text(
        '[electrum]\nservers = ["tcp://127.0.0.1:50001"]\n[delivery]\nallow_networks = ["10.0.0.0/8"]\n'
    )
    done = run("check-config")
    assert done.code == 0
    for part in ("regtest", "lightipn.db", "http://127.0.0.1:8080", "tcp://127.0.0.1:50001", "10.0.0.0/8", "is good"):
        assert part in done.out
    (folder / "lightipn.toml").write_text("x = 1")
    assert run("check-config").code == 2


# --- status ------------------------------------------------------------------------------------------------------


def test_status_tells_people_and_programs(run: Run, folder: Path) -> None:
    """``status`` prints a table, and the same as JSON; it knows whether a service runs."""
    run("watch", "add", ADDRESS, "--url", URL)
    done = run("status")
    assert done.code == 0
    assert "not running" in done.out
    found = run("status", "--json").json
    assert (found["running"], found["network"], found["subscriptions"]) == (False, "regtest", 1)
    assert (found["tip_height"], found["servers"], found["pending_deliveries"]) == (None, [], 0)
    with sole_service(folder / DATABASE):
        assert run("status", "--json").json["running"] is True


# --- what is printed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202eevil", "\\u202eevil"),
        ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
        ("\ud800", "\\ud800"),
        ("[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_foreign_text_is_escaped(text: str, shown: str) -> None:
    """What could steer a terminal is shown as an escape; letters of any script stay."""
    assert printable(text) == shown


def test_times_are_iso_in_utc() -> None:
    """A time is printed as ISO 8601 in UTC; none is empty."""
    assert (time_text(1_700_000_000), time_text(0.9), time_text(None)) == (
        "2023-11-14T22:13:20Z",
        "1970-01-01T00:00:00Z",
        "",
    )
