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
