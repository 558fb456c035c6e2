"""One SQLite file: the only room that knows SQL.

Values of the ledger, the outbox and the chain enter and leave; nobody above sees a row. Every function takes the open
database first and runs inside a transaction that its caller composes; ``database`` runs such transactions in one writer
thread and commits waiting ones together.
Laws: the schema changes in ``migrations`` alone; tables are STRICT; a caller gets its answer only after the commit is
on disk; no transaction contains an ``await``. Reads use a connection of their own.
"""
