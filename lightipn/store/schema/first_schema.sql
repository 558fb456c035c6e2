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
