"""The open database: one writer, group commit, and reads beside it.

``transact(work)`` runs a synchronous function inside a transaction. In production the writer is one thread; callers
that wait at the same time share one commit (a disk flush costs a thousand times a statement), each inside a savepoint
of its own, so that one caller's error undoes that caller alone. A caller gets its answer only after the commit.

Tests under a mock clock, and the command line, pass ``threaded=False``: the same transactions run in place, since
Trio's autojumping clock would jump while SQLite works in a thread.
"""

import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import trio
from sqlite_utils import Database as Database  # the handle that every function of this room takes

from lightipn.errors import StoreError, StoreMismatchError
from lightipn.store.migrations import MIGRATION_NAMES, migrations

T = TypeVar("T")
BUSY_TIMEOUT_S = 5.0
MAX_GROUP = 512
LOCK_PATIENCE_S = 0.3


class _Job(Generic[T]):
    """One waiting caller."""

    def __init__(self, work: Callable[[Database], T]) -> None:
        self.work = work
        self.value: T | None = None
        self.error: Exception | None = None
        self.finished = trio.Event()


def _connect(path: Path, *, read_only: bool = False) -> Database:
    if not read_only and not path.exists():
        # payments and callback URLs are nobody else's business; SQLite's side files take the same mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        if not read_only:
            _switch_to_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            # Every commit is a flush; a bounded log keeps the file small on an SD card.
            connection.execute("PRAGMA journal_size_limit = 16777216")
        return Database(connection, execute_plugins=False)
    except BaseException:
        connection.close()
        raise


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch the journal; SQLite does not wait here by itself when another program just makes the same file."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


class _GroupLostError(Exception):
    """SQLite ended the whole transaction under us (disk full): nobody of the group may be told "done"."""


def _run_group(db: Database, group: list[_Job[Any]]) -> None:
    """Run all jobs in one transaction; each in a savepoint of its own."""
    try:
        db.conn.execute("BEGIN IMMEDIATE")  # DEFERRED fails at once when the command line wrote in between
        for job in group:
            try:
                with db.atomic():
                    job.value = job.work(db)
            except Exception as error:  # noqa: BLE001  # one of the two allowed places: handed back to its caller
                job.error = error
            if not db.conn.in_transaction:
                raise _GroupLostError from job.error
        db.conn.execute("COMMIT")
    except (sqlite3.Error, _GroupLostError) as error:
        with contextlib.suppress(sqlite3.Error):  # the transaction is lost either way
            db.conn.execute("ROLLBACK")
        cause = error.__cause__ if isinstance(error, _GroupLostError) else error
        for job in group:
            job.error = cause if isinstance(cause, sqlite3.Error) else StoreError("the transaction was lost")


class Store:
    """An open database. Made by ``open_store``."""

    def __init__(self, path: Path, writer: Database, reader: Database) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._reading = trio.CapacityLimiter(1)
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._group: list[_Job[Any]] = []
        self._is_closed = False

    @contextmanager
    def _writer_thread(self) -> Iterator[None]:
        self._token = trio.lowlevel.current_trio_token()
        thread = threading.Thread(target=self._write_for_ever, name="store-writer", args=(self._token,))
        thread.start()
        try:
            yield
        finally:
            self._jobs.put(None)
            thread.join()
            self._token = None

    def _write_for_ever(self, token: trio.lowlevel.TrioToken) -> None:
        """Run the writer; whatever ends it, nobody waits for an answer that cannot come."""
        try:
            self._write_groups(token)
        finally:
            self._is_closed = True
            left = list(self._group)
            with contextlib.suppress(queue.Empty):
                while True:
                    job = self._jobs.get_nowait()
                    left += [job] if job is not None else []
            for job in left:
                job.error = StoreError("the database's writer has ended")
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(_finish, left)

    def _write_groups(self, token: trio.lowlevel.TrioToken) -> None:
        while (first := self._jobs.get()) is not None:
            group = [first]
            closing = False
            while len(group) < MAX_GROUP:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    closing = True
                    break
                group.append(job)
            self._group = group
            _run_group(self._writer, group)
            self._group = []
            token.run_sync_soon(_finish, group)
            if closing:
                return

    async def transact(self, work: Callable[[Database], T]) -> T:
        """Run ``work`` in a transaction and return its value once that is on disk.

        Raises:
            StoreError: the disk is full, or the database is damaged or locked; nothing of ``work`` was kept.
            Exception: whatever ``work`` raised; nothing of it was kept.

        Cancellation: the transaction may be committed all the same; its answer is then lost.
        """
        job = _Job(work)
        if self._token is None:
            _run_group(self._writer, [job])
            await trio.lowlevel.checkpoint()
        elif self._is_closed:
            raise StoreError("the database's writer has ended")
        else:
            self._jobs.put(job)
            await job.finished.wait()
        if job.error is not None:
            raise _translated(job.error) from job.error
        return job.value  # type: ignore[return-value]  # no error: work returned a T

    async def read(self, work: Callable[[Database], T]) -> T:
        """Run a function that only reads, on the latest committed state, beside the writer.

        Raises:
            StoreError: the database is damaged.
        """
        try:
            if self._token is None:
                await trio.lowlevel.checkpoint()
                return _snapshot(work, self._reader)
            return await trio.to_thread.run_sync(_snapshot, work, self._reader, limiter=self._reading)
        except sqlite3.Error as error:
            raise _translated(error) from error

    async def data_version(self) -> int:
        """Return a number that changes whenever anybody commits to the file."""

        def query(db: Database) -> int:
            return int(db.execute("PRAGMA data_version").fetchone()[0])

        return await self.read(query)


def _snapshot(work: Callable[[Database], T], reader: Database) -> T:
    """Run all reads of ``work`` on one state of the file, whatever is committed meanwhile."""
    reader.conn.execute("BEGIN")
    try:
        return work(reader)
    finally:
        reader.conn.execute("COMMIT")


def _finish(group: list[_Job[Any]]) -> None:
    for job in group:
        job.finished.set()


def _translated(error: Exception) -> Exception:
    """Turn SQLite's errors into ours; leave all others alone."""
    if not isinstance(error, sqlite3.Error):
        return error
    if isinstance(error, sqlite3.IntegrityError):  # a bug in one caller, and no reason to stop the process
        return AssertionError(f"a change broke a rule of the database ({error})")
    code = getattr(error, "sqlite_errorcode", None)
    match code:
        case sqlite3.SQLITE_FULL:
            return StoreError("the disk is full; free some space and start again")
        case sqlite3.SQLITE_BUSY:
            return StoreError("the database is locked by another program")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            return StoreError("the database file cannot be opened for writing")
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return StoreError("the file is not a database, or it is damaged")
        case _ if isinstance(error, sqlite3.OperationalError):
            return StoreError(f"the database cannot be used ({error})")
        case _:
            return StoreError(f"the database refused a change ({error})")


def _prepare(db: Database, network_name: str, *, upgrades: bool) -> None:
    """Bring the schema up to date, and bind the file to its network."""
    db.conn.execute("BEGIN IMMEDIATE")  # several programs may start on a fresh file at the same time
    try:
        tables = set(db.table_names())
        if tables and migrations.migrations_table not in tables:
            raise StoreMismatchError("the file is the database of another program")
        applied = {migration.name for migration in migrations.applied(db)}
        if applied - MIGRATION_NAMES:
            raise StoreError("the database was written by a newer version of LightIPN; upgrade the program")
        if applied and not upgrades and migrations.pending(db):
            # A service of the older version may be running, and could not write to the new schema.
            raise StoreError("the database is of an older version; start the service once, which brings it up to date")
        if migrations.pending(db):
            migrations.apply(db)
        _bind_to_network(db, network_name)
        db.conn.execute("COMMIT")
    except BaseException:
        if db.conn.in_transaction:
            db.conn.execute("ROLLBACK")
        raise


def _bind_to_network(db: Database, network_name: str) -> None:
    row = db.execute("SELECT value FROM setting WHERE name = 'network'").fetchone()
    if row is None:
        db.execute("INSERT OR IGNORE INTO setting (name, value) VALUES ('network', ?)", [network_name])
    elif row[0] != network_name:
        raise StoreMismatchError(f"the database belongs to {row[0]}, the configuration says {network_name}")


@asynccontextmanager
async def open_store(
    path: Path, network_name: str, *, threaded: bool = True, upgrades: bool = True
) -> AsyncIterator[Store]:
    """Open the database, create it if it is not there, and close it in the end.

    Args:
        network_name: recorded at the first opening; another one is refused ever after.
        threaded: False runs transactions in the calling thread.
        upgrades: bring an older database up to date; else it is refused.

    Raises:
        StoreMismatchError: the file belongs to another network.
        StoreError: the file cannot be opened, is damaged, or was written by a newer version.
    """
    try:
        writer = _connect(path)
        try:
            _prepare(writer, network_name, upgrades=upgrades)
            reader = _connect(path, read_only=True)
        except BaseException:
            writer.conn.close()
            raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be made ({error.strerror})") from error
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {_translated(error)}") from error
    store = Store(path, writer, reader)
    try:
        if threaded:
            with store._writer_thread():
                yield store
        else:
            yield store
    finally:
        reader.conn.close()
        writer.conn.close()


@contextmanager
def sole_service(path: Path) -> Iterator[None]:
    """Hold the lock that says "a service runs on this database".

    The lock is a file of its own, so that SQLite's locks stay free for the command line. The kernel drops it when the
    process ends, however it ends.

    Raises:
        StoreMismatchError: another service holds it.
        StoreError: the lock file cannot be made.
    """
    try:
        lock_file = Path(f"{path}.lock").open("a")  # noqa: SIM115  # closed below, after the lock
    except OSError as error:
        raise StoreError(f"cannot write beside the database: {error.strerror}") from error
    with lock_file:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # ``is_service_running`` holds it for a moment, so one refusal is no proof of another service
                if time.monotonic() > deadline:
                    raise StoreMismatchError("another lightipn service runs on this database") from None
            time.sleep(0.02)
        yield


def is_service_running(path: Path) -> bool:
    """Tell whether a service holds the lock of this database."""
    try:
        with Path(f"{path}.lock").open() as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
