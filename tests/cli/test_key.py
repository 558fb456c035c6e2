"""``lightipn key``."""

import re

from lightipn.store import keys
from tests.cli.conftest import Run, write


def test_created_key_is_printed_alone(run: Run) -> None:
    """A key is all that is printed, so that a script can take it; the database knows its owner."""
    done = run("key", "create", "shop")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"lipn_[A-Za-z0-9_-]{43}\n", done.out)
    assert write(lambda db: keys.load_owner(db, done.out.strip())) == "shop"


def test_keys_are_listed_without_their_secrets(run: Run) -> None:
    """The list shows names and dates, in a table and as JSON, and no secret."""
    secret = run("key", "create", "shop").out.strip()
    run("key", "create", "other")
    table, found = run("key", "list"), run("key", "list", "--json")
    assert (table.code, found.code) == (0, 0)
    assert [(key["id"], key["name"], key["revoked_at"]) for key in found.json] == [
        (1, "shop", None),
        (2, "other", None),
    ]
    for text in (table.out, found.out):
        assert secret not in text
        assert "shop" in text


def test_empty_list_says_what_to_do(run: Run) -> None:
    """Without keys the list names the command that makes one; as JSON it is empty."""
    write(lambda db: None)
    assert "lightipn key create NAME" in run("key", "list").out
    assert run("key", "list", "--json").json == []


def test_revoked_keys_are_counted(run: Run) -> None:
    """All keys of a name are revoked, or one by its number; a second time there is none."""
    for _ in range(3):
        run("key", "create", "shop")
    assert run("key", "revoke", "shop", "--id", "2").out == "1 revoked.\n"
    done = run("key", "revoke", "shop")
    assert done.out.startswith("2 revoked.\n")
    assert "lightipn key create shop" in done.out  # the way back
    assert run("key", "revoke", "shop").code == 1
    assert all(key["revoked_at"] for key in run("key", "list", "--json").json)
