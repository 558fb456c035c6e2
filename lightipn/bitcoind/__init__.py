"""A ``ChainSource`` over the RPC of one's own bitcoind; no index, no wallet, and a pruned node is enough.

Blocks and mempool transactions enter, typed evidence leaves. ``rpc`` asks the node and gives answers their types,
``scanner`` finds what concerns the watched scripts (sans-IO), ``follower`` goes from block to block and through the
mempool (``mempool`` holds the view of it, ``book`` what of it is to be told), ``registrar`` takes
scripts up, ``past`` finds what happened before they were watched, ``notices`` listens to ZMQ, ``source`` joins them.
Law: nothing here concludes anything; merkle branches are made of whole blocks and pass the same verifier as a server's.
What was found is in the store before it is told: a crash between the two is mended by the status that was absorbed.
Rejected: the node's wallet (a descriptor import rescans, and a pruned node refuses), and txindex (few nodes have it).
"""
