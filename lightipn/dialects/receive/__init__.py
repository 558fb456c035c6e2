"""The dialect of Blockchain.info's Receive Payments V2: an address a customer, GETs for each payment until ``*ok*``.

Requests for addresses, balance updates and block notifications enter; GETs leave, again with every tip until the shop
answers ``*ok*``, at most at 1,000 tips. An answer that is not ``*ok*`` is normal flow: many shops wait for a depth.
Source: the service's documentation, and what its public clients send.
"""
