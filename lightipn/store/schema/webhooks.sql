-- Transactions that the ledger speaks of. spent: what each input spends, in order: 1 where it is known, 8-byte satoshis,
-- 4-byte length and script; NULL where nobody asked. has_unconfirmed_parent, vbytes_ahead (of the mempool, that paid a
-- higher fee rate) and is_contested (a rival was seen) are claims, of the time at which it was first seen unconfirmed.
CREATE TABLE payment_transaction (
    transaction_id INTEGER PRIMARY KEY,
    txid BLOB NOT NULL UNIQUE,
    raw BLOB NOT NULL,
    spent BLOB,
    has_unconfirmed_parent INTEGER NOT NULL DEFAULT 0,
    vbytes_ahead INTEGER,
    is_contested INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX ledger_entry_txid ON ledger_entry (txid);
-- When a payment was replaced or dropped; NULL while it stands.
ALTER TABLE ledger_entry ADD COLUMN gone_at INTEGER;

-- A named group of addresses. extended_key: of a wallet whose addresses are derived; subchains: its branches, by commas.
CREATE TABLE wallet (
    wallet_id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    extended_key TEXT NOT NULL,
    subchains TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (owner, name)
) STRICT;
CREATE TABLE wallet_address (
    wallet_id INTEGER NOT NULL REFERENCES wallet (wallet_id) ON DELETE CASCADE,
    address TEXT NOT NULL,
    scripthash BLOB NOT NULL,
    subchain INTEGER,
    address_index INTEGER,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (wallet_id, address)
) STRICT;
CREATE INDEX wallet_address_scripthash ON wallet_address (scripthash);

-- A hook is one subscription for each of its addresses. errors: messages that failed all quick tries; suspended_at: when
-- they were too many; probe_at: when one message is let through then. private_key: PEM; NULL for the service's own.
CREATE TABLE hook (
    hook_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    address TEXT NOT NULL,
    wallet_id INTEGER REFERENCES wallet (wallet_id),
    url TEXT NOT NULL,
    terms BLOB NOT NULL,
    private_key TEXT,
    errors INTEGER NOT NULL DEFAULT 0,
    suspended_at INTEGER,
    probe_at REAL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX hook_owner ON hook (owner);
CREATE INDEX hook_wallet ON hook (wallet_id) WHERE wallet_id IS NOT NULL;
CREATE INDEX hook_suspended ON hook (suspended_at) WHERE suspended_at IS NOT NULL;
CREATE INDEX hook_probe ON hook (probe_at) WHERE probe_at IS NOT NULL;

ALTER TABLE subscription ADD COLUMN hook_id TEXT;
-- When a subscription must be looked at again, in unix seconds.
ALTER TABLE subscription ADD COLUMN wake_at REAL;
CREATE INDEX subscription_hook ON subscription (hook_id) WHERE hook_id IS NOT NULL;
CREATE INDEX subscription_wake_at ON subscription (wake_at) WHERE wake_at IS NOT NULL;
