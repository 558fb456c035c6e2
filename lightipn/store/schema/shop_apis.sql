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
