"""A ``ChainSource`` over Electrum servers.

Bytes from servers enter; typed evidence leaves. ``protocol`` frames and pairs JSON-RPC (sans-IO), ``methods`` gives
answers their types, ``subscriptions`` keeps the book of what is announced, fetched and absorbed (sans-IO),
``connection`` opens TCP and TLS, ``session`` is one greeted link, ``pool`` chooses servers, ``source`` joins them.
Law: nothing here concludes anything; this room cannot even name the verifier.
Rejected: aiorpcX's own sessions (asyncio), and electrum-client (asyncio, no batches, no proof).
"""
