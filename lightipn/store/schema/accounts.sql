-- balance_sat and locked_sat are the sums of the account's movements, kept so that they need not be added up.
CREATE TABLE account (
    account_id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    extended_key TEXT NOT NULL,
    url TEXT NOT NULL,
    credit_confirmations INTEGER NOT NULL,
    balance_sat INTEGER NOT NULL DEFAULT 0,
    locked_sat INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    UNIQUE (owner, name)
) STRICT;
CREATE INDEX account_negative ON account (account_id) WHERE balance_sat < 0;

-- hook_ids: a JSON list of the hooks that were made for the address. used_at: when it was added, or last paid.
CREATE TABLE account_address (
    owner TEXT NOT NULL,
    scripthash BLOB NOT NULL,
    account_id INTEGER NOT NULL REFERENCES account (account_id),
    address TEXT NOT NULL,
    address_index INTEGER,
    hook_ids TEXT NOT NULL DEFAULT '[]',
    is_active INTEGER NOT NULL DEFAULT 1,
    added_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (scripthash, owner)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_address_account ON account_address (account_id);
CREATE INDEX account_address_used ON account_address (used_at) WHERE is_active = 1;

CREATE TABLE deposit (
    account_id INTEGER NOT NULL REFERENCES account (account_id),
    scripthash BLOB NOT NULL,
    txid BLOB NOT NULL,
    amount_sat INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('AWAITING_CONFIRMATION', 'COMPLETED', 'FAILED')),
    locked_sat INTEGER NOT NULL,
    credited_sat INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    block_hash BLOB,
    height INTEGER,
    replaced_by BLOB,
    wake_height INTEGER,
    PRIMARY KEY (account_id, scripthash, txid)
) STRICT, WITHOUT ROWID;
CREATE INDEX deposit_script ON deposit (scripthash);
CREATE INDEX deposit_wake ON deposit (wake_height) WHERE wake_height IS NOT NULL;

-- Append-only. reference: names an adjustment, once an account.
CREATE TABLE movement (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES account (account_id),
    scripthash BLOB,
    txid BLOB,
    kind TEXT NOT NULL CHECK (kind IN ('RESERVE', 'RELEASE', 'CANCEL', 'REVERSE', 'ADJUST')),
    status TEXT NOT NULL CHECK (status IN ('active', 'completed', 'failed')),
    amount_sat INTEGER NOT NULL,
    balance_sat INTEGER NOT NULL,
    locked_sat INTEGER NOT NULL,
    cause TEXT NOT NULL,
    block_hash BLOB,
    height INTEGER,
    reference TEXT,
    happened_at INTEGER NOT NULL,
    UNIQUE (account_id, reference)
) STRICT;
CREATE INDEX movement_account ON movement (account_id, number);
