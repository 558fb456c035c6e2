"""The schema, one migration a change, each a script in ``schema``; it runs in a transaction with the record of it."""

import sqlite3
from importlib import resources

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("lightipn")


@migrations()
def first_schema(db: Database) -> None:
    """Create the tables of the main job."""
    _run(db, "first_schema")


@migrations()
def several_servers(db: Database) -> None:
    """Make room for the event feed, for evidence against servers, and for what became of unconfirmed payments."""
    _run(db, "several_servers")


@migrations()
def shop_apis(db: Database) -> None:
    """Make room for several messages a subscription, subscriptions to blocks, ends, and supplies of addresses."""
    _run(db, "shop_apis")


@migrations()
def webhooks(db: Database) -> None:
    """Make room for hooks, wallets, and the transactions that hooks show."""
    _run(db, "webhooks")


@migrations()
def accounts(db: Database) -> None:
    """Make room for accounts."""
    _run(db, "accounts")


@migrations()
def forwarding(db: Database) -> None:
    """Make room for forwards, and the transfers that pass their coins on."""
    _run(db, "forwarding")


@migrations()
def bitcoind(db: Database) -> None:
    """Make room for what one's own bitcoind shows, and for histories that are not whole."""
    _run(db, "bitcoind")


def _run(db: Database, name: str) -> None:
    """Run a script statement by statement: executescript would commit the migration's own transaction first."""
    script = (resources.files("lightipn.store") / "schema" / f"{name}.sql").read_text("utf-8")
    statement = ""
    for line in script.splitlines():
        if line.lstrip().startswith("--"):
            continue
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""


MIGRATION_NAMES = frozenset(
    {"first_schema", "several_servers", "shop_apis", "webhooks", "accounts", "forwarding", "bitcoind"}
)
"""Every migration this version knows; a database that ran others was written by a newer one."""
