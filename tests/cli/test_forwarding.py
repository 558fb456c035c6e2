"""``lightipn forwarding``."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightipn.bitcoin.network import REGTEST
from lightipn.cli.main import app
from lightipn.forwarding.seed import addresses_of, check_words, new_words, read_words
from lightipn.store import forwards, transfers
from lightipn.store.database import Database
from lightipn.store.forwards import ForwardTerms
from tests.cli.conftest import Ran, Run, write
from tests.forwarding.rig import DESTINATION, MASTER, OTHER_WORDS, WORDS
from tests.store.rows import NOW

SEED = "forwarding.seed"
MAINNET_ADDRESS = "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"


@pytest.fixture(autouse=True)
def configured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a seed file and a master address."""
    monkeypatch.setenv("LIGHTIPN_FORWARDING_SEED_FILE", SEED)
    monkeypatch.setenv("LIGHTIPN_FORWARDING_MASTER_ADDRESS", MASTER.text)


def recover(text: str, *arguments: str) -> Ran:
    """Run ``forwarding recover`` with a line on stdin."""
    done = CliRunner().invoke(app, ["forwarding", "recover", *arguments], input=text, prog_name="lightipn")
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return Ran(done.exit_code, done.stdout, done.stderr)


def words_in(text: str) -> str:
    """Return the line of a text that holds recovery words."""
    [line] = [line for line in text.splitlines() if len(line.split()) == 12]
    return check_words(line)


def test_init_shows_the_words_once_and_keeps_them(run: Run) -> None:
    """The words are printed once, written to a file of mode 0600, and the database knows that they are new."""
    done = run("forwarding", "init")
    assert (done.code, done.err) == (0, "")
    words = words_in(done.out)
    assert done.out.count(words) == 1
    assert read_words(Path(SEED)) == words
    assert stat.S_IMODE(Path(SEED).stat().st_mode) == 0o600
    identity = addresses_of(words, REGTEST).identity
    assert write(lambda db: forwards.is_bound_to(db, identity)) is True


def test_init_never_overwrites(run: Run) -> None:
    """A second init leaves the words as they are, shows none, and fails."""
    words = words_in(run("forwarding", "init").out)
    done = run("forwarding", "init")
    assert (done.code, done.out) == (2, "")
    assert "is there already" in done.err
    assert read_words(Path(SEED)) == words
    first, second, *_ = words.split()  # a single word may stand in any text
    assert f"{first} {second}" not in done.err


def test_init_beside_a_database_of_other_words_leaves_nothing_behind(run: Run) -> None:
    """Where the database belongs to other words, new ones are refused, and no file of useless words stays."""
    identity = addresses_of(WORDS, REGTEST).identity
    assert write(lambda db: forwards.bind_seed(db, identity))
    done = run("forwarding", "init")
    assert done.code != 0
    assert "other recovery words" in done.err
    assert not Path(SEED).exists()


@pytest.mark.parametrize("command", ["init", "recover", "sweep"])
def test_without_a_seed_file_in_the_configuration_nothing_is_done(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who did not name a file yet is told to."""
    write(lambda db: None)
    monkeypatch.delenv("LIGHTIPN_FORWARDING_SEED_FILE")
    done = run("forwarding", command)
    assert done.code == 2
    assert "forwarding" in done.err


def test_recover_takes_the_words_from_stdin(run: Run) -> None:
    """The words are read, checked, kept in the file, and not repeated; their addresses are watched."""
    words = new_words()
    done = recover(f"{words}\n", "--count", "7")
    assert (done.code, done.out.strip()) == (0, "7 addresses are watched anew, of 7.")
    assert read_words(Path(SEED)) == words
    found = write(lambda db: forwards.load_forwards(db, owner=None, is_active_only=False, limit=99))
    supply = addresses_of(words, REGTEST)
    assert [one.address for one in found] == [supply.address_at(index).text for index in range(7)]
    assert not any(one.is_active for one in found)


def test_recover_goes_on_where_it_is_told_to(run: Run) -> None:
    """With the file there, nothing is asked; further addresses are looked at from an index on."""
    recover(f"{WORDS}\n", "--count", "2")
    done = run("forwarding", "recover", "--from", "1", "--count", "3")
    assert done.out.strip() == "2 addresses are watched anew, of 3."


@pytest.mark.parametrize(
    "text", ["", "\n", f"{WORDS} abandon\n", "twelve words that are none of them in the list at all\n"]
)
def test_wrong_words_are_refused_and_kept_nowhere(text: str) -> None:
    """A mistake leaves no file, and is not repeated on the screen."""
    done = recover(text)
    assert done.code == 2
    assert "recovery words" in done.err
    assert "abandon" not in done.out + done.err
    assert not Path(SEED).exists()


def test_recover_refuses_words_of_another_database(run: Run) -> None:
    """Addresses of other words never come into a database: a sweep would try to spend both with one seed."""
    recover(f"{WORDS}\n", "--count", "1")
    Path(SEED).unlink()
    done = recover(f"{OTHER_WORDS}\n", "--count", "1")
    assert done.code != 0
    assert "other recovery words" in done.err
    assert len(write(lambda db: forwards.load_forwards(db, owner=None, is_active_only=False, limit=99))) == 1


def test_sweep_is_written_down_for_the_running_service(run: Run) -> None:
    """Where the coins go is said: the named address or the master's; one of another network is refused."""
    run("forwarding", "init")
    assert MASTER.text in run("forwarding", "sweep").out
    assert DESTINATION.text in run("forwarding", "sweep", "--to", DESTINATION.text, "--all").out
    refused = run("forwarding", "sweep", "--to", MAINNET_ADDRESS)
    assert (refused.code, refused.out) == (2, "")
    wish = write(transfers.load_sweep)
    assert (wish.destination, wish.is_all) == (MASTER.text, False)


def forward(db: Database) -> None:
    """Write a forward that is held."""
    address = addresses_of(WORDS, REGTEST).address_at(0)
    made = forwards.add_forward(
        db, owner="shop", index=0, address=address, terms=ForwardTerms(destination=DESTINATION.text), now=NOW
    )
    forwards.save_look(db, made.forward_id, hold_reason="fee-too-high", wake_height=None)


def test_forwards_are_listed(run: Run) -> None:
    """The list says whose each is, from where to where, and why its coins wait."""
    write(forward)
    [found] = run("forwarding", "list", "--json").json
    address = addresses_of(WORDS, REGTEST).address_at(0).text
    assert found == {
        "id": found["id"],
        "owner": "shop",
        "index": 0,
        "input_address": address,
        "destination": DESTINATION.text,
        "active": True,
        "hold_reason": "fee-too-high",
        "txids": [],
    }
    row = run("forwarding", "list").out.splitlines()[1]
    assert row.split() == ["0", "shop", address, DESTINATION.text, "active", "fee-too-high", "0"]


def test_empty_lists_say_so(run: Run) -> None:
    """Nothing is a sentence, or an empty JSON list."""
    write(lambda db: None)
    assert run("forwarding", "list").out.strip() == "There is no forward."
    assert run("forwarding", "transfers").out.strip() == "Nothing was passed on yet."
    assert run("forwarding", "list", "--json").json == run("forwarding", "transfers", "--json").json == []
