"""One writer, group commit, reads beside it, and the doors that stay shut."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.errors import StoreError, StoreMismatchError
from lightipn.store import database
from lightipn.store.database import Database, Store, is_service_running, open_store, sole_service
from tests.store.groups import Gate, Work, run_as_group


def put(name: str, value: str = "") -> Work:
    """Return work that inserts a setting and returns its name; a second one of the name fails."""

    def work(db: Database) -> str:
        db.execute("INSERT INTO setting (name, value) VALUES (?, ?)", [name, value])
        return name

    return work


def names_of(db: Database) -> set[str]:
    """Return the names of all settings that a test has put."""
    return {row[0] for row in db.execute("SELECT name FROM setting").fetchall()} - {"network"}


def names_seen_from_outside(path: Path) -> set[str]:
    """Return the same through a connection that the store knows nothing of."""
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM setting")} - {"network"}


@pytest.mark.parametrize("threaded", [pytest.param(True, id="thread"), pytest.param(False, id="inline")])
async def test_transaction_answers_and_stays(tmp_path: Path, threaded: bool) -> None:
    """A transaction's value comes back, and its change is there after the file was closed and opened again."""
    path = tmp_path / "shop.db"
    async with open_store(path, "regtest", threaded=threaded) as store:
        assert await store.transact(put("a")) == "a"
        assert await store.read(names_of) == {"a"}
    async with open_store(path, "regtest", threaded=threaded) as store:
        assert await store.read(names_of) == {"a"}


@pytest.mark.parametrize("threaded", [pytest.param(True, id="thread"), pytest.param(False, id="inline")])
async def test_failing_work_leaves_nothing(tmp_path: Path, threaded: bool) -> None:
    """Work that raises gives its own error to its caller, and nothing of it is kept."""

    def work(db: Database) -> None:
        put("half")(db)
        raise ZeroDivisionError

    async with open_store(tmp_path / "shop.db", "regtest", threaded=threaded) as store:
        with pytest.raises(ZeroDivisionError):
            await store.transact(work)
        assert await store.read(names_of) == set()
        assert await store.transact(put("next")) == "next"


async def test_one_bad_caller_is_rolled_back_alone(tmp_path: Path) -> None:
    """In a group the error of one caller undoes that caller alone; the others are committed.

    A broken constraint is a bug of that caller, and no trouble of the database's, on which the process would stop.
    """

    def bad(db: Database) -> None:
        put("half")(db)
        raise ZeroDivisionError

    async with open_store(tmp_path / "shop.db", "regtest") as store:
        first, second, refused, last = await run_as_group(store, put("a"), bad, put("a"), put("b"))
        assert (first, last) == ("a", "b")
        assert isinstance(second, ZeroDivisionError)
        assert isinstance(refused, AssertionError)
        assert names_seen_from_outside(store.path) == {"a", "b"}


async def test_waiting_callers_share_one_commit(tmp_path: Path) -> None:
    """Callers that wait at the same time are committed together: another program sees one change of the file."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        with closing(sqlite3.connect(store.path, check_same_thread=False)) as outside:

            def versions() -> int:
                return int(outside.execute("PRAGMA data_version").fetchone()[0])

            before = versions()
            seen: list[int] = []
            await run_as_group(store, *[put(str(number)) for number in range(20)], lambda db: seen.append(versions()))
            assert seen == [before]  # 20 works done, none committed
            assert names_seen_from_outside(store.path) == {str(number) for number in range(20)}


async def fill_disk(store: Store, *, spare_pages: int) -> None:
    """Let the file grow by so many pages and no more."""

    def work(db: Database) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + spare_pages}")

    await store.transact(work)


async def test_full_disk_fails_every_caller_of_the_group(tmp_path: Path) -> None:
    """When the disk is full nobody of the group is told "done", and nothing of it is half-written."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        await store.transact(put("before"))
        await fill_disk(store, spare_pages=2)
        big = "x" * 100_000
        answers = await run_as_group(store, put("a"), put("big", big), put("b"))
        done = {answer for answer in answers if isinstance(answer, str)}
        failed = [answer for answer in answers if isinstance(answer, StoreError)]
        assert len(done) + len(failed) == 3
        assert any("disk is full" in str(error) for error in failed)
        assert names_seen_from_outside(store.path) == {"before"} | done
        assert done == set()


async def test_full_disk_is_named_whatever_else_failed(tmp_path: Path) -> None:
    """A group lost to a full disk says so to everybody but those who had failed by themselves before."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        await store.transact(put("before"))
        await fill_disk(store, spare_pages=2)
        answers = await run_as_group(store, put("a"), put("before"), put("big", "x" * 100_000))
        assert all(isinstance(answer, StoreError) for answer in answers)
        assert "disk is full" in str(answers[0])
        assert "disk is full" in str(answers[2])


async def test_store_works_again_once_there_is_space(tmp_path: Path) -> None:
    """A full disk leaves the store whole: with space again the next transaction is kept."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        await fill_disk(store, spare_pages=0)
        with pytest.raises(StoreError, match="disk is full"):
            await store.transact(put("big", "x" * 100_000))
        await fill_disk(store, spare_pages=1000)
        assert await store.transact(put("big", "x" * 100_000)) == "big"
        assert await store.read(names_of) == {"big"}


async def test_answer_comes_only_after_the_commit(tmp_path: Path) -> None:
    """A caller whose work is done waits while its group is not on disk, and nobody sees its change before."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        first, second = Gate(), Gate()
        answered: list[str] = []

        async def call() -> None:
            answered.append(await store.transact(put("a")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.transact, first.hold)
            await first.wait_entered()
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.transact, second.hold)
            await trio.testing.wait_all_tasks_blocked()
            first.open.set()
            await second.wait_entered()  # "a" is written by now, and not committed
            await trio.testing.wait_all_tasks_blocked()
            assert answered == []
            assert names_seen_from_outside(store.path) == set()
            assert await store.read(names_of) == set()
            second.open.set()
        assert answered == ["a"]
        assert names_seen_from_outside(store.path) == {"a"}


async def test_cancelled_caller_does_not_disturb_the_writer(tmp_path: Path) -> None:
    """A caller that is cancelled while it waits leaves the writer at work for the others."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        gate = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.transact, gate.hold)
            await gate.wait_entered()
            nursery.start_soon(store.transact, put("lost"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            gate.open.set()
        assert await store.transact(put("a")) == "a"
        assert await store.read(names_of) >= {"a"}


async def test_another_program_may_write_in_between(tmp_path: Path) -> None:
    """What the command line writes between two transactions disturbs neither, and changes the data version."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        await store.transact(put("a"))
        before = await store.data_version()
        assert await store.data_version() == before
        async with open_store(store.path, "regtest", threaded=False) as command_line:
            await command_line.transact(put("from the command line"))
        assert await store.data_version() != before
        await store.transact(put("b"))
        assert await store.read(names_of) == {"a", "from the command line", "b"}


async def test_nobody_writes_between_a_transactions_read_and_its_write(tmp_path: Path) -> None:
    """A transaction that reads first and writes then cannot be overtaken: another program has to wait for its end."""
    path = tmp_path / "shop.db"

    def read_and_write(db: Database) -> str:
        names_of(db)
        trouble = ""
        with closing(sqlite3.connect(path, timeout=0)) as other:
            try:
                other.execute("INSERT INTO setting (name, value) VALUES ('first', '')")
            except sqlite3.OperationalError as error:
                trouble = str(error)
        put("second")(db)
        return trouble

    async with open_store(path, "regtest") as store:
        assert await store.transact(read_and_write) == "database is locked"
        assert await store.read(names_of) == {"second"}


async def test_lock_that_is_held_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program keeps the file locked, callers get an error, and the store works again afterwards."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.02)
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked by another program"):
                await store.transact(put("a"))
            other.execute("ROLLBACK")
        assert await store.transact(put("b")) == "b"
        assert await store.read(names_of) == {"b"}


async def test_reads_cannot_write(tmp_path: Path) -> None:
    """What is run as a read cannot change the file."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        with pytest.raises(StoreError):
            await store.read(put("a"))
        assert await store.read(names_of) == set()


async def test_writes_reach_the_disk(tmp_path: Path) -> None:
    """The writer waits for the disk at each commit: the log is flushed, foreign keys hold."""

    def settings(db: Database) -> tuple[object, ...]:
        return tuple(
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
        )

    async with open_store(tmp_path / "shop.db", "regtest") as store:
        assert await store.transact(settings) == ("wal", 2, 1)


# --- files that are not ours -------------------------------------------------------------------------------------


async def open_once(path: Path, network: str = "regtest") -> None:
    """Open a store and close it."""
    async with open_store(path, network):
        pass


async def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file that a newer version has changed is refused, and stays as it is."""
    path = tmp_path / "shop.db"
    await open_once(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('lightipn', 'later', '2099')"
        )
    with pytest.raises(StoreError, match="newer version"):
        await open_once(path)


async def test_other_network_is_refused(tmp_path: Path) -> None:
    """A database belongs to the network of its first opening for ever."""
    path = tmp_path / "shop.db"
    await open_once(path, "regtest")
    with pytest.raises(StoreMismatchError, match="belongs to regtest, the configuration says mainnet"):
        await open_once(path, "mainnet")
    await open_once(path, "regtest")


@pytest.mark.parametrize(
    "contents", [pytest.param(b"not a database at all " * 100, id="text"), pytest.param(bytes(4096), id="zeros")]
)
async def test_file_that_is_no_database_is_refused(tmp_path: Path, contents: bytes) -> None:
    """A file of another kind is refused and not touched."""
    path = tmp_path / "shop.db"
    path.write_bytes(contents)
    with pytest.raises(StoreError, match="not a database"):
        await open_once(path)
    assert path.read_bytes() == contents


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """A database with tables that are not ours is refused and not touched."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE customer (name TEXT)")
    with pytest.raises(StoreMismatchError, match="another program"):
        await open_once(path)
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    assert tables == [("customer",)]


async def test_database_is_its_owners_alone(tmp_path: Path) -> None:
    """Payments and callback URLs are nobody else's business: the files are made with mode 0600."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        await store.transact(put("a"))
        assert modes_in(tmp_path) == {"shop.db": 0o600, "shop.db-wal": 0o600, "shop.db-shm": 0o600}


def modes_in(folder: Path) -> dict[str, int]:
    """Return the permissions of every file in a folder."""
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


async def test_damaged_database_is_an_error(tmp_path: Path) -> None:
    """A database with overwritten pages is reported as damaged, not as a bug."""
    path = tmp_path / "shop.db"
    async with open_store(path, "regtest") as store:
        for number in range(50):
            await store.transact(put(f"setting {number}", "x" * 1000))
    raw = bytearray(path.read_bytes())
    raw[100:] = b"\xee" * (len(raw) - 100)  # the header stays, every page's contents go
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="damaged"):
        await open_once(path)


async def test_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    """A path that cannot be opened is an error of the store."""
    with pytest.raises(StoreError, match="cannot be opened"):
        await open_once(tmp_path)
    with pytest.raises(StoreError, match="cannot be made"):
        await open_once(tmp_path / "missing" / "shop.db")


async def test_file_in_a_folder_that_cannot_be_written_is_an_error() -> None:
    """A database whose folder takes no files is an error of the store; so is the lock beside it."""
    folder = Path("/proc/self")  # takes no new files, not even from root
    with pytest.raises(StoreError, match="cannot be made"):
        await open_once(folder / "shop.db")
    with pytest.raises(StoreError, match="cannot write beside the database"), sole_service(folder / "shop.db"):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_writer_that_ended_fails_its_callers(tmp_path: Path) -> None:
    """Whatever ends the writer, nobody waits for an answer that cannot come: neither its group nor those after it."""

    def end(db: Database) -> None:
        raise SystemExit  # ends a thread without a word

    async with open_store(tmp_path / "shop.db", "regtest") as store:
        with trio.fail_after(5):
            with pytest.raises(StoreError, match="writer has ended"):
                await store.transact(end)
            with pytest.raises(StoreError, match="writer has ended"):
                await store.transact(put("a"))
        assert await store.read(names_of) == set()


async def test_reads_of_one_call_see_one_state(tmp_path: Path) -> None:
    """Two reads of one call agree although another caller commits in between."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:

        def read_twice(db: Database) -> tuple[set[str], set[str]]:
            before = names_of(db)
            trio.from_thread.run(store.transact, put("a"))
            return before, names_of(db)

        assert await store.read(read_twice) == (set(), set())
        assert await store.read(names_of) == {"a"}


@pytest.mark.parametrize("name", ["a b.db", "a?mode=memory.db", "a#b.db", "50%25.db", "ä.db", "%41.db"])
def test_any_file_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    """Characters with a meaning in URLs have none in the file's name."""
    trio.run(open_once, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]


# --- one service a database --------------------------------------------------------------------------------------


def test_second_service_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One service runs on a database; the next may start as soon as it has ended."""
    monkeypatch.setattr(database, "LOCK_PATIENCE_S", 0.05)
    path = tmp_path / "shop.db"
    assert not is_service_running(path)
    with sole_service(path):
        assert is_service_running(path)
        with pytest.raises(StoreMismatchError, match="another lightipn service"), sole_service(path):
            pass
        assert is_service_running(path)
    assert not is_service_running(path)
    with sole_service(path):
        assert is_service_running(path)


def test_asking_whether_a_service_runs_does_not_stop_one_from_starting(tmp_path: Path) -> None:
    """The question leaves no lock behind."""
    path = tmp_path / "shop.db"
    with sole_service(path):
        pass
    assert not is_service_running(path)
    with sole_service(path):
        pass


async def test_lock_of_the_service_leaves_the_database_free(tmp_path: Path) -> None:
    """The command line writes while the service holds its lock."""
    path = tmp_path / "shop.db"
    with sole_service(path):
        async with open_store(path, "regtest", threaded=False) as store:
            assert await store.transact(put("a")) == "a"
