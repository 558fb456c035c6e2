"""The dialect of bitcoin-callback: subscriptions to money in and out of an address, acknowledged by PATCH.

Subscriptions enter; one callback a transaction leaves at ``confirmations``, and with ``zero_conf`` one more before. A
2xx is no acknowledgement: the callback is sent ``retries`` times more, at a constant pause, unless its receiver PATCHes
``/callback/{id}``. Source: the service's README; where its code differs, what its clients expect.
"""
