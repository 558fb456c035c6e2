"""The IPN dialect: totals received by an address, posted as a form until the shop echoes them.

``GET|POST /btc`` answers the totals of an address, ``/btc_ipn`` subscribes a URL to them. A subscription has one
message, always with the newest totals; a JSON echo of the same values acknowledges it.
"""
