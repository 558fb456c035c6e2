"""``lightipn watch``."""

from functools import partial
from pathlib import Path

import pytest

from lightipn.bitcoin.network import REGTEST
from lightipn.dialects.ipn.wire import decode_terms
from lightipn.dialects.receive import wire as receive_wire
from lightipn.store import subscriptions
from lightipn.store.database import Database
from tests.cli.conftest import Run, write
from tests.store.rows import NOW, regtest_address

URL = "https://shop.example/ipn"
A, B, C = (regtest_address(number).text for number in range(3))


def watched() -> list[tuple[str, str, str, int]]:
    """Return owner, address, URL and depth of every subscription."""
    found = write(lambda db: list(subscriptions.load_subscriptions(db)))
    return [(item.owner, item.address, item.url, decode_terms(item.terms).max_confirms) for item in found]


def import_of(run: Run, contents: bytes, *options: str) -> tuple[int, str, list[str]]:
    """Import a file; return exit code, what was printed, and what was reported."""
    Path("watch.csv").write_bytes(contents)
    done = run("watch", "import", "watch.csv", *options)
    return done.code, done.out, [line for line in done.err.splitlines() if line]


def test_addresses_belong_to_a_network() -> None:
    """The addresses of these tests are of the network that the folder is set to."""
    assert A.startswith(REGTEST.bech32_prefix)


def test_address_is_watched_for_the_operator(run: Run) -> None:
    """What the command line adds belongs to ``operator``, or to the owner that it names."""
    assert run("watch", "add", A, "--url", URL).out == "Watched.\n"
    assert run("watch", "add", B, "--url", URL, "--key", "shop", "--max-confirms", "6").code == 0
    assert watched() == [("operator", A, URL, 3), ("shop", B, URL, 6)]
    assert run("watch", "add", A.upper(), "--url", URL, "--max-confirms", "1").code == 0
    assert watched() == [("operator", A, URL, 1), ("shop", B, URL, 6)]


def test_watched_addresses_are_listed(run: Run) -> None:
    """The list is a table or JSON, whole, of one address, or cut."""
    run("watch", "add", A, "--url", URL)
    run("watch", "add", B, "--url", URL)
    found = run("watch", "list", "--json").json
    assert [(item["id"], item["address"], item["terms"]) for item in found] == [
        (1, A, {"max_confirms": 3}),
        (2, B, {"max_confirms": 3}),
    ]
    assert found[0] | {"created_at": 0} == {
        "id": 1,
        "dialect": "ipn",
        "owner": "operator",
        "address": A,
        "url": URL,
        "terms": {"max_confirms": 3},
        "state": "active",
        "expires_at": None,
        "created_at": 0,
        "history_from": None,
        "unproved_sat": 0,
    }
    assert [item["address"] for item in run("watch", "list", "--json", "--address", B).json] == [B]
    assert len(run("watch", "list", "--json", "--limit", "1").json) == 1
    table = run("watch", "list").out
    assert A in table
    assert URL in table


def test_history_that_is_not_whole_is_listed_so(run: Run) -> None:
    """Each address' line says from which block on its payments are known."""
    run("watch", "add", A, "--url", URL)
    run("watch", "add", B, "--url", URL)
    write(lambda db: db.execute("UPDATE script SET history_from = 700, unproved_sat = 5 WHERE address = ?", [A]))
    found = run("watch", "list", "--json").json
    assert [(item["history_from"], item["unproved_sat"]) for item in found] == [(700, 5), (None, 0)]
    _, first, second = run("watch", "list").out.splitlines()
    assert first.rstrip().endswith("from block 700, 5 sat before")
    assert second.rstrip().endswith("whole")
    assert "history not whole" in run("status").out
    state = run("status", "--json").json
    assert (state["partial_histories"], state["unproved_sat"], state["pending_histories"]) == (1, 5, 0)


def test_subscriptions_of_every_dialect_are_listed(run: Run) -> None:
    """The list has what the APIs of shops made too: other terms, an end, and blocks instead of an address."""
    write(subscribe_by_api)
    callback, receive, blocks = run("watch", "list", "--json").json
    assert (callback["dialect"], callback["terms"], callback["state"]) == ("callback", {}, "expired")
    assert (callback["expires_at"], callback["address"]) == (NOW + 60, A)
    assert (receive["dialect"], receive["terms"]) == ("receive", {"type": "address"})
    assert (receive["state"], receive["expires_at"]) == ("active", None)
    assert (blocks["address"], blocks["terms"]["height"]) == ("", 7)
    assert [item["id"] for item in run("watch", "list", "--json", "--address", B).json] == [receive["id"]]
    heading, *table = run("watch", "list").out.splitlines()
    assert heading.split() == ["ID", "DIALECT", "OWNER", "ADDRESS", "URL", "TERMS", "STATE", "CREATED", "HISTORY"]
    for row, parts in zip(table, (("callback", A, "expired"), ("receive", B, "active"), ("blocks", URL)), strict=True):
        for part in parts:
            assert part in row


def subscribe_by_api(db: Database) -> None:
    """Write what a shop's requests leave: a subscription whose time is over, an address, and blocks."""
    save = partial(subscriptions.save_subscription, db, owner="shop", url=URL, now=NOW)
    save(dialect="callback", address=regtest_address(0), terms=b"{}", expires_at=NOW + 60)
    save(dialect="receive", address=regtest_address(1), terms=receive_wire.encode_terms(receive_wire.AddressTerms()))
    subscriptions.save_block_subscription(
        db,
        dialect="receive",
        owner="shop",
        url=URL,
        terms=receive_wire.encode_terms(receive_wire.BlockTerms(7, 1, receive_wire.OnNotification.KEEP)),
        now=NOW,
        first_height=7,
        depth_blocks=1,
    )


def test_empty_list_says_so(run: Run) -> None:
    """Nothing watched is said in words, and is an empty JSON list."""
    write(lambda db: None)
    assert run("watch", "list").out == "Nothing is watched.\n"
    assert run("watch", "list", "--json").json == []


def test_watches_are_removed(run: Run) -> None:
    """All subscriptions of an address go, or the one with a URL."""
    for url in (URL, URL + "2", URL + "3"):
        run("watch", "add", A, "--url", url)
    assert run("watch", "remove", A, "--url", URL).out == "1 removed.\n"
    assert run("watch", "remove", A).out == "2 removed.\n"
    assert run("watch", "remove", A).code == 1
    assert watched() == []


# --- import ------------------------------------------------------------------------------------------------------


def test_good_file_is_imported(run: Run) -> None:
    """Each line is an address, a URL and perhaps a depth; comments and empty lines do not count."""
    contents = f'# my shop\n{A},{URL}\n\n  {B} , {URL} , 6\n   # the end\n"{C}","{URL}?a=1,2",1000'
    assert import_of(run, contents.encode()) == (0, "3 imported, 0 refused.\n", [])
    assert watched() == [("operator", A, URL, 3), ("operator", B, URL, 6), ("operator", C, f"{URL}?a=1,2", 1000)]


@pytest.mark.parametrize("owner", ["shop", "operator"])
def test_import_belongs_to_an_owner(run: Run, owner: str) -> None:
    """The whole file belongs to the owner that is named."""
    assert import_of(run, f"{A},{URL}\n".encode(), "--key", owner)[0] == 0
    assert watched() == [(owner, A, URL, 3)]


def test_bad_lines_are_reported_by_number_and_the_rest_goes_in(run: Run) -> None:
    """A bad line has its number and its reason on stderr; it does not hold back any other."""
    lines = [
        f"{A},{URL}",
        "nonsense," + URL,
        f"{B}",
        "# comment",
        f"{B},{URL},3,4",
        f"{B},{URL},0",
        f"{B},{URL},1001",
        f"{B},{URL},x",
        f"{B},ftp://x/",
        f'{B},"{URL}',
        f"{B},http://127.0.0.1/",
        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4," + URL,
        f"{C},{URL},1",
    ]
    code, out, reported = import_of(run, "\n".join(lines).encode())
    assert (code, out) == (1, "2 imported, 10 refused.\n")
    numbers = {int(line.split(":")[0].removeprefix("line ")) for line in reported}
    assert (len(reported), numbers) == (10, set(range(2, 13)) - {4})
    assert watched() == [("operator", A, URL, 3), ("operator", C, URL, 1)]


def test_file_from_a_spreadsheet_is_imported(run: Run) -> None:
    """A byte order mark and Windows line ends do not matter."""
    contents = b"\xef\xbb\xbf" + f"{A},{URL}\r\n{B},{URL},6\r\n".encode()
    assert import_of(run, contents) == (0, "2 imported, 0 refused.\n", [])
    assert watched() == [("operator", A, URL, 3), ("operator", B, URL, 6)]


def test_importing_twice_changes_nothing(run: Run) -> None:
    """The same file again is the same subscriptions."""
    for _ in range(2):
        assert import_of(run, f"{A},{URL}\n{A},{URL}\n".encode())[0] == 0
    assert watched() == [("operator", A, URL, 3)]


@pytest.mark.slow
def test_long_file_is_imported_page_by_page(run: Run) -> None:
    """A file of more lines than a page goes in whole, and numbers stay right to the end."""
    lines = [f"{A},{URL}{number}" for number in range(1201)] + ["nonsense"]
    code, out, reported = import_of(run, "\n".join(lines).encode())
    assert (code, out) == (1, "1201 imported, 1 refused.\n")
    assert reported == ["line 1202: has 1 fields, want ADDRESS,URL[,MAX_CONFIRMS]"]
    assert len(watched()) == 1201


@pytest.mark.parametrize(
    "depth",
    ["-1", "1.5", "3 3", "0x3", "٣", "9" * 5000, "0000000019999", "000000001" + "9" * 5000],
    ids=["negative", "fraction", "two", "hex", "Arabic", "huge", "zeros before", "zeros before huge"],
)
def test_depth_out_of_range_is_refused(run: Run, depth: str) -> None:
    """A depth is a whole number from 1 to 1000, however it is written."""
    code, out, reported = import_of(run, f"{A},{URL},{depth}\n".encode())
    assert (code, out) == (1, "0 imported, 1 refused.\n")
    assert len(reported) == 1
    assert reported[0].startswith("line 1: max_confirms is ")
    assert watched() == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"\x00,\x00", id="NUL"),
        pytest.param(b"\x1b[31m,\x1b]0;x\x07", id="escapes"),
        pytest.param(b'"', id="quote"),
        pytest.param(b'""', id="empty quotes"),
        pytest.param(b'"a"b,c', id="text behind quotes"),
        pytest.param(b",", id="comma"),
        pytest.param(b"x" * 200_000 + b",y", id="endless field"),
        pytest.param("адрес,урл".encode(), id="Cyrillic"),
    ],
)
def test_hostile_line_is_one_printable_report(run: Run, line: bytes) -> None:
    """Whatever stands in a line, it is refused with one printable line of reasonable length."""
    code, out, reported = import_of(run, line + b"\n" + f"{A},{URL}\n".encode())
    assert (code, out) == (1, "1 imported, 1 refused.\n")
    assert len(reported) == 1
    assert reported[0].startswith("line 1: ")
    assert reported[0].isprintable()
    assert len(reported[0]) < 300


def test_file_that_is_no_text_is_refused_whole(run: Run) -> None:
    """A file in another encoding is refused before anything is imported."""
    write(lambda db: None)
    code, out, reported = import_of(run, f"{A},{URL}\n".encode("utf-16"))
    assert (code, out) == (2, "")
    assert "not UTF-8" in reported[0]
    assert watched() == []


def test_empty_file_imports_nothing(run: Run) -> None:
    """A file without lines is no error."""
    for contents in (b"", b"\n\n# nothing\n", b"\xef\xbb\xbf"):
        assert import_of(run, contents) == (0, "0 imported, 0 refused.\n", [])
