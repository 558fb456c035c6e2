"""Own keys: addresses that pass on what they are paid.

Proved coins enter, signed transactions leave. ``plan`` decides (pure), ``signing`` signs and checks, ``seed`` keeps the
recovery words, ``forwarder`` does it: look, sign, store, hand to the network, follow, and raise the fee.
Laws: a signed transaction is stored before anybody sees it; all versions of a transfer spend the same coins, so at most
one is ever mined; keys are in memory only while they sign; a fee above the operator's limit is never paid.
"""
