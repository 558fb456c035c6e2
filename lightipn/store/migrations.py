"""The schema, one migration a change; each runs in a transaction with the record that it ran."""

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("lightipn")

_FIRST_SCHEMA = """
CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A key's name is its owner; several live secrets of one name are a rotation. Only hashes are kept.
CREATE TABLE api_key (
    key_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    secret_hash BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
CREATE INDEX api_key_name ON api_key (name);

CREATE TABLE header (
    height INTEGER PRIMARY KEY,
    block_hash BLOB NOT NULL,
    raw BLOB NOT NULL
) STRICT;

-- Whole periods of 2016 headers below the last checkpoint, each chained to the checkpoint at its end.
CREATE TABLE proved_period (
    period INTEGER PRIMARY KEY,
    raw_headers BLOB NOT NULL
) STRICT;

-- known_status: what has been absorbed; x'' stands for "ask again", NULL for the empty history.
-- wanted_until: set while somebody merely looks the address up; absorbed_at: when its history was last worked in.
CREATE TABLE script (
    scripthash BLOB PRIMARY KEY,
    script BLOB NOT NULL,
    address TEXT NOT NULL,
    known_status BLOB,
    absorbed_at INTEGER,
    wanted_until INTEGER,
    trouble TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE INDEX script_wanted ON script (wanted_until) WHERE wanted_until IS NOT NULL;

-- A queue for the running service: scripts that were added, removed, or must be asked again.
CREATE TABLE watch_change (
    change_id INTEGER PRIMARY KEY AUTOINCREMENT,
    scripthash BLOB NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('added', 'removed', 'asked'))
) STRICT;

-- outputs: 4-byte index and 8-byte satoshis each; spends: 32-byte txid and 4-byte index each; little-endian.
CREATE TABLE ledger_entry (
    scripthash BLOB NOT NULL,
    txid BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('unconfirmed', 'confirmed', 'replaced')),
    height INTEGER,
    block_hash BLOB,
    position INTEGER,
    replaced_by BLOB,
    outputs BLOB NOT NULL,
    spends BLOB NOT NULL,
    sent_sat INTEGER NOT NULL,
    is_coinbase INTEGER NOT NULL,
    signals_rbf INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (scripthash, txid),
    CHECK ((state = 'confirmed') = (height IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_entry_height ON ledger_entry (height) WHERE height IS NOT NULL;

-- host: "name:port" of the URL, by which deliveries are limited. wake_height: a block at this height changes totals.
CREATE TABLE subscription (
    subscription_id INTEGER PRIMARY KEY AUTOINCREMENT,
    dialect TEXT NOT NULL,
    owner TEXT NOT NULL,
    scripthash BLOB NOT NULL REFERENCES script (scripthash),
    address TEXT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    terms BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
    created_at INTEGER NOT NULL,
    wake_height INTEGER
) STRICT;
CREATE INDEX subscription_scripthash ON subscription (scripthash);
CREATE INDEX subscription_owner ON subscription (owner);
CREATE INDEX subscription_wake ON subscription (wake_height) WHERE wake_height IS NOT NULL;

CREATE TABLE message (
    message_key INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL UNIQUE,
    subscription_id INTEGER NOT NULL REFERENCES subscription (subscription_id) ON DELETE CASCADE,
    host TEXT NOT NULL,
    payload BLOB NOT NULL,
    heard_payload BLOB NOT NULL,
    is_heard_in_doubt INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    due_at REAL,
    is_in_flight INTEGER NOT NULL DEFAULT 0,
    is_held INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX message_subscription ON message (subscription_id);
-- The first finds a host's oldest, so that a dead shop's thousand messages are never in a live one's way; the second
-- finds the hosts that have something due now.
CREATE INDEX message_due ON message (host, due_at) WHERE due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0;
CREATE INDEX message_due_at ON message (due_at, host) WHERE due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0;

CREATE TABLE attempt (
    attempt_id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_key INTEGER NOT NULL REFERENCES message (message_key) ON DELETE CASCADE,
    payload BLOB NOT NULL,
    method TEXT NOT NULL,
    url TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    started_at REAL NOT NULL,
    outcome TEXT,
    status INTEGER,
    trouble TEXT NOT NULL DEFAULT '',
    latency_ms REAL,
    answer_head BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE INDEX attempt_message ON attempt (message_key);
CREATE INDEX attempt_open ON attempt (attempt_id) WHERE outcome IS NULL;

-- What the running service last knew of each server; ``status`` and the next start read it.
CREATE TABLE server (
    name TEXT PRIMARY KEY,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    software TEXT NOT NULL,
    protocol TEXT NOT NULL,
    tip_height INTEGER,
    latency_ms REAL,
    updated_at INTEGER NOT NULL,
    is_remembered INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
"""


_SEVERAL_SERVERS = """
-- Append-only, numbered without a gap: block and server events have no script, and only these name a server.
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    happened_at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    scripthash BLOB,
    address TEXT NOT NULL,
    txid BLOB,
    net_sat INTEGER,
    height INTEGER,
    block_hash BLOB,
    trust TEXT NOT NULL,
    seen_by INTEGER NOT NULL,
    replaced_by BLOB,
    signals_rbf INTEGER NOT NULL,
    server TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
-- Who watched a payment's script when it happened, and may therefore see the event, now and ever after.
CREATE TABLE event_owner (
    owner TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES event (number),
    PRIMARY KEY (owner, number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER event_stays BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'an event is never removed'); END;
CREATE TRIGGER event_stands BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'an event is never changed'); END;

CREATE TABLE evidence (
    evidence_id INTEGER PRIMARY KEY AUTOINCREMENT,
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    claim TEXT NOT NULL,
    contradiction TEXT NOT NULL,
    raw BLOB NOT NULL,
    observed_at INTEGER NOT NULL
) STRICT;

-- What unconfirmed payments spend: whoever else spends it replaces the payment. scripthash: of the output spent;
-- since_height: our tip when the payment was armed, so that older history of a busy script is not searched.
CREATE TABLE spent_output (
    txid BLOB NOT NULL,
    output_index INTEGER NOT NULL,
    scripthash BLOB NOT NULL,
    spender BLOB NOT NULL,
    since_height INTEGER NOT NULL,
    PRIMARY KEY (spender, txid, output_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX spent_output_scripthash ON spent_output (scripthash);

-- A state more, and how many servers held an unconfirmed payment when it was first believed.
CREATE TABLE new_ledger_entry (
    scripthash BLOB NOT NULL,
    txid BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('unconfirmed', 'confirmed', 'replaced', 'dropped')),
    height INTEGER,
    block_hash BLOB,
    position INTEGER,
    replaced_by BLOB,
    seen_by INTEGER NOT NULL,
    outputs BLOB NOT NULL,
    spends BLOB NOT NULL,
    sent_sat INTEGER NOT NULL,
    is_coinbase INTEGER NOT NULL,
    signals_rbf INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (scripthash, txid),
    CHECK ((state = 'confirmed') = (height IS NOT NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO new_ledger_entry
    SELECT scripthash, txid, state, height, block_hash, position, replaced_by, 1, outputs, spends, sent_sat,
           is_coinbase, signals_rbf, seen_at
    FROM ledger_entry;
DROP TABLE ledger_entry;
ALTER TABLE new_ledger_entry RENAME TO ledger_entry;
CREATE INDEX ledger_entry_height ON ledger_entry (height) WHERE height IS NOT NULL;
CREATE INDEX ledger_entry_unconfirmed ON ledger_entry (txid) WHERE state = 'unconfirmed';

-- fingerprint: SHA-256 of the certificate that was pinned at first use; NULL where none was, or the system verified it.
ALTER TABLE server ADD COLUMN fingerprint BLOB;
ALTER TABLE server ADD COLUMN is_ca_signed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE server ADD COLUMN banned_until INTEGER NOT NULL DEFAULT 0;

-- A queue for the running service: servers that the operator trusts anew.
CREATE TABLE trust_change (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
"""

_SHOP_APIS = """
-- scripthash: NULL for a subscription to blocks. state: whether its owner has a key, or how it ended. since_height: the
-- tip when it was made, NULL until that is known; of a subscription to blocks its first height, and next_height the
-- next one that is told, with depth_blocks confirmations. is_watching: its script is followed. Ids are never given
-- twice: the counters are carried over.
CREATE TABLE new_subscription (
    subscription_id INTEGER PRIMARY KEY AUTOINCREMENT,
    dialect TEXT NOT NULL,
    owner TEXT NOT NULL,
    scripthash BLOB,
    address TEXT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    terms BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'canceled', 'expired', 'finished')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    ended_at INTEGER,
    last_seen_at INTEGER,
    since_height INTEGER,
    next_height INTEGER,
    depth_blocks INTEGER,
    is_watching INTEGER NOT NULL DEFAULT 1,
    wake_height INTEGER
) STRICT;
INSERT INTO new_subscription
    (subscription_id, dialect, owner, scripthash, address, url, host, terms, state, created_at, since_height,
     wake_height)
    SELECT subscription_id, dialect, owner, scripthash, address, url, host, terms, state, created_at, 0, wake_height
    FROM subscription;

-- topic: one message for each of a subscription's topics. txid: of the payment it is about. tips: at how many tips it
-- was told; told_tip: the number of the last; due_tip: the number of the tip that makes it due. is_settling: it waits
-- to see whether its payment is in the newest block. told_height: of the payment's block when it was told last.
CREATE TABLE new_message (
    message_key INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL UNIQUE,
    subscription_id INTEGER NOT NULL REFERENCES new_subscription (subscription_id) ON DELETE CASCADE,
    topic TEXT NOT NULL,
    txid BLOB,
    state TEXT NOT NULL CHECK (state IN ('open', 'acknowledged', 'withdrawn', 'dead')),
    host TEXT NOT NULL,
    payload BLOB NOT NULL,
    heard_payload BLOB NOT NULL,
    is_heard_in_doubt INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    tips INTEGER NOT NULL DEFAULT 0,
    told_tip INTEGER NOT NULL DEFAULT 0,
    told_height INTEGER,
    due_at REAL,
    due_tip INTEGER,
    is_settling INTEGER NOT NULL DEFAULT 0,
    is_in_flight INTEGER NOT NULL DEFAULT 0,
    is_held INTEGER NOT NULL DEFAULT 0,
    acknowledged_at INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (subscription_id, topic)
) STRICT;
INSERT INTO new_message
    (message_key, message_id, subscription_id, topic, state, host, payload, heard_payload, is_heard_in_doubt, tries,
     failures, due_at, is_in_flight, is_held, created_at)
    SELECT message_key, message_id, subscription_id, '', iif(due_at IS NULL, 'acknowledged', 'open'), host, payload,
           heard_payload, is_heard_in_doubt, tries, tries, due_at, is_in_flight, is_held, created_at
    FROM message;

CREATE TABLE new_attempt (
    attempt_id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_key INTEGER NOT NULL REFERENCES new_message (message_key) ON DELETE CASCADE,
    payload BLOB NOT NULL,
    method TEXT NOT NULL,
    url TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    started_at REAL NOT NULL,
    outcome TEXT,
    status INTEGER,
    trouble TEXT NOT NULL DEFAULT '',
    latency_ms REAL,
    answer_head BLOB NOT NULL DEFAULT x''
) STRICT;
INSERT INTO new_attempt SELECT * FROM attempt;

DELETE FROM sqlite_sequence WHERE name IN ('new_subscription', 'new_message', 'new_attempt');
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'new_' || name, seq FROM sqlite_sequence WHERE name IN ('subscription', 'message', 'attempt');
DROP TABLE attempt;
DROP TABLE message;
DROP TABLE subscription;
ALTER TABLE new_subscription RENAME TO subscription;
ALTER TABLE new_message RENAME TO message;
ALTER TABLE new_attempt RENAME TO attempt;

CREATE INDEX subscription_scripthash ON subscription (scripthash);
CREATE INDEX subscription_owner ON subscription (owner, dialect);
CREATE INDEX subscription_wake ON subscription (wake_height) WHERE wake_height IS NOT NULL;
CREATE INDEX subscription_expiry ON subscription (expires_at) WHERE state IN ('active', 'suspended');
CREATE INDEX subscription_unsettled ON subscription (subscription_id) WHERE since_height IS NULL;
CREATE INDEX subscription_lingering ON subscription (subscription_id)
    WHERE is_watching = 1 AND state NOT IN ('active', 'suspended');
CREATE INDEX subscription_blocks ON subscription (next_height) WHERE next_height IS NOT NULL;
CREATE INDEX subscription_url ON subscription (owner, url);
CREATE INDEX subscription_since ON subscription (since_height) WHERE scripthash IS NOT NULL;
-- The first finds a host's oldest, so that a dead shop's thousand messages are never in a live one's way; the second
-- finds the hosts that have something due now.
CREATE INDEX message_due ON message (host, due_at) WHERE due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0;
CREATE INDEX message_due_at ON message (due_at, host) WHERE due_at IS NOT NULL AND is_in_flight = 0 AND is_held = 0;
CREATE INDEX message_due_tip ON message (due_tip) WHERE due_tip IS NOT NULL;
CREATE INDEX message_in_flight ON message (subscription_id) WHERE is_in_flight = 1;
CREATE INDEX message_block ON message (topic) WHERE txid IS NULL AND topic != '';
CREATE INDEX message_txid ON message (txid) WHERE txid IS NOT NULL;
CREATE INDEX attempt_message ON attempt (message_key);
CREATE INDEX attempt_open ON attempt (attempt_id) WHERE outcome IS NULL;
CREATE INDEX event_lost ON event (happened_at)
    WHERE kind IN ('payment.reverted', 'payment.replaced', 'payment.dropped');

-- Payments that were of the past when a subscription was made, and whose place a reorg may have moved since.
CREATE TABLE past_payment (
    subscription_id INTEGER NOT NULL REFERENCES subscription (subscription_id) ON DELETE CASCADE,
    txid BLOB NOT NULL,
    PRIMARY KEY (subscription_id, txid)
) STRICT, WITHOUT ROWID;

-- A supply of addresses: children of one public key, of one kind of script. used_to: the highest index that had a
-- history when it was scanned, scanned_to: how many indexes were looked at; next_index: the next that is given away.
CREATE TABLE address_chain (
    chain_id INTEGER PRIMARY KEY AUTOINCREMENT,
    identity BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    next_index INTEGER NOT NULL DEFAULT 0,
    used_to INTEGER NOT NULL DEFAULT -1,
    scanned_to INTEGER NOT NULL DEFAULT 0,
    is_scanned INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE issued_address (
    chain_id INTEGER NOT NULL REFERENCES address_chain (chain_id),
    address_index INTEGER NOT NULL,
    scripthash BLOB NOT NULL,
    address TEXT NOT NULL,
    owner TEXT NOT NULL,
    url TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    PRIMARY KEY (chain_id, address_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX issued_address_scripthash ON issued_address (scripthash);
CREATE INDEX issued_address_owner ON issued_address (owner, chain_id);
"""


@migrations()
def first_schema(db: Database) -> None:
    """Create the tables of the main job."""
    _run(db, _FIRST_SCHEMA)


@migrations()
def several_servers(db: Database) -> None:
    """Make room for the event feed, for evidence against servers, and for what became of unconfirmed payments."""
    _run(db, _SEVERAL_SERVERS)


@migrations()
def shop_apis(db: Database) -> None:
    """Make room for several messages a subscription, subscriptions to blocks, ends, and supplies of addresses."""
    _run(db, _SHOP_APIS)


def _run(db: Database, script: str) -> None:
    """Run a script statement by statement: executescript would commit the migration's own transaction first."""
    statement = ""
    for line in script.splitlines():
        if line.lstrip().startswith("--"):
            continue
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""


MIGRATION_NAMES = frozenset({"first_schema", "several_servers", "shop_apis"})
"""Every migration this version knows; a database that ran others was written by a newer one."""
