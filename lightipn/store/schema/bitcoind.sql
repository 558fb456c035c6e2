-- What one's own bitcoind was asked for. Empty while Electrum servers are the source.

-- The blocks that were looked through, the last two thousand of them.
CREATE TABLE node_block (
    height INTEGER PRIMARY KEY,
    block_hash BLOB NOT NULL CHECK (length(block_hash) = 32)
) STRICT;

-- Scripts that the node's blocks are searched for, above from_height. is_past_known: what happened up to there has been
-- found, as far as the node can tell.
CREATE TABLE node_script (
    scripthash BLOB PRIMARY KEY CHECK (length(scripthash) = 32),
    is_past_known INTEGER NOT NULL,
    from_height INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX node_script_pending ON node_script (is_past_known) WHERE is_past_known = 0;

-- Transactions of blocks that concern a script, with what proves them while it may still be asked for.
CREATE TABLE node_transaction (
    txid BLOB PRIMARY KEY CHECK (length(txid) = 32),
    height INTEGER NOT NULL,
    position INTEGER NOT NULL,
    siblings BLOB,
    raw BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX node_transaction_height ON node_transaction (height);

CREATE TABLE node_entry (
    scripthash BLOB NOT NULL,
    txid BLOB NOT NULL,
    PRIMARY KEY (scripthash, txid)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_entry_txid ON node_entry (txid);

-- Outputs of scripts that are searched for: who spends one concerns its script. outpoint: as it stands in a transaction.
-- unproved_sat: its amount, where the node says that it belongs to the script, and nothing proves it: its block is pruned,
-- or it was spent before its past was found.
CREATE TABLE node_output (
    outpoint BLOB PRIMARY KEY CHECK (length(outpoint) = 36),
    scripthash BLOB NOT NULL,
    spent_height INTEGER,
    unproved_sat INTEGER CHECK (unproved_sat >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_output_scripthash ON node_output (scripthash);
CREATE INDEX node_output_unproved ON node_output (scripthash) WHERE unproved_sat IS NOT NULL;
CREATE INDEX node_output_spent ON node_output (spent_height) WHERE spent_height IS NOT NULL;

-- From which height on every transaction of a script is known; NULL where all are. unproved_sat: the sum over its outputs
-- that are unspent and that nothing proves.
ALTER TABLE script ADD COLUMN history_from INTEGER;
ALTER TABLE script ADD COLUMN unproved_sat INTEGER NOT NULL DEFAULT 0;
CREATE INDEX script_history_from ON script (history_from) WHERE history_from IS NOT NULL;
