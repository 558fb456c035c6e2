-- An address of ours whose coins are passed on. address_index: below the seed's account key; none is given twice.
-- state: 'deleted' ones are watched all the same, for a sweep. wake_height: the tip height at which a coin may be passed
-- on. hold_reason: why the last look passed nothing on.
CREATE TABLE forward (
    forward_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    address_index INTEGER NOT NULL UNIQUE,
    address TEXT NOT NULL,
    scripthash BLOB NOT NULL UNIQUE,
    destination TEXT NOT NULL,
    url TEXT NOT NULL,
    subscription_id INTEGER,
    process_address TEXT NOT NULL,
    process_sat INTEGER,
    process_share TEXT,
    mining_fee_sat INTEGER,
    tells_confirmations INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'deleted')),
    hold_reason TEXT NOT NULL DEFAULT '',
    wake_height INTEGER,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX forward_owner ON forward (owner);
CREATE INDEX forward_wake ON forward (wake_height) WHERE wake_height IS NOT NULL;
CREATE INDEX forward_held ON forward (hold_reason) WHERE hold_reason != '';

-- Coins that are passed on together; forever, unless one of them ceases to exist. forward_id: NULL for a sweep.
-- told_confirmations: of told_txid, the version that was mined. state: 'open' until it is deep in the chain; 'void' once a coin is gone.
CREATE TABLE transfer (
    transfer_id INTEGER PRIMARY KEY AUTOINCREMENT,
    forward_id TEXT REFERENCES forward (forward_id),
    destination TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'final', 'void')),
    trouble TEXT NOT NULL DEFAULT '',
    voided_at INTEGER,
    told_txid BLOB,
    told_confirmations INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX transfer_open ON transfer (transfer_id) WHERE state = 'open';
CREATE INDEX transfer_forward ON transfer (forward_id);

-- A coin belongs to one transfer at a time: that is what keeps it from being passed on twice.
CREATE TABLE transfer_coin (
    txid BLOB NOT NULL,
    output_index INTEGER NOT NULL,
    transfer_id INTEGER NOT NULL REFERENCES transfer (transfer_id),
    scripthash BLOB NOT NULL,
    address_index INTEGER NOT NULL,
    amount_sat INTEGER NOT NULL,
    PRIMARY KEY (txid, output_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX transfer_coin_transfer ON transfer_coin (transfer_id);

-- The signed transactions of a transfer: each spends all of its coins, so at most one can ever be in the chain.
CREATE TABLE transfer_version (
    version_id INTEGER PRIMARY KEY AUTOINCREMENT,
    transfer_id INTEGER NOT NULL REFERENCES transfer (transfer_id),
    txid BLOB NOT NULL,
    raw BLOB NOT NULL,
    fee_sat INTEGER NOT NULL,
    value_sat INTEGER NOT NULL,
    signed_height INTEGER NOT NULL,
    broadcast_at INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (transfer_id, txid)
) STRICT;

-- A wish of the operator's: pass on whatever is left at deleted addresses together; is_all: at active ones too.
CREATE TABLE sweep_wish (
    wish_id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    is_all INTEGER NOT NULL,
    wished_at INTEGER NOT NULL
) STRICT;
