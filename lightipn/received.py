"""``get_received`` and ``get_user_received``: the totals of an address, from Python.

Both read the database that ``LIGHTIPN_CONFIG`` or ``./lightipn.toml`` names. For an address that is not watched they
leave a row there, which the running service works off, and wait for it.
"""

import time
import warnings
from decimal import Decimal

import trio

from lightipn.app import open_service_tools
from lightipn.bitcoin.address import parse_address
from lightipn.config import Config, load_config
from lightipn.dialects.ipn.routes import address_of_user
from lightipn.dialects.ipn.wire import btc_text
from lightipn.errors import RequestError
from lightipn.parts import ipn_settings_of
from lightipn.service.totals import CoveredTotals
from lightipn.store.database import is_service_running

WAIT_S = 15.0
LOOK_AGAIN_S = 0.2


def get_received(address: str) -> tuple[Decimal, Decimal]:
    """Return the total received by an address, as (confirmed, unconfirmed) in BTC.

    Where not the whole history is known (``backend = "bitcoind"``), a ``UserWarning`` says from which block on it is.

    Raises:
        ConfigError: the configuration is wrong.
        StoreError: the database cannot be used.
        RequestError: ``bad-address``; ``no-service`` if the address is not in the database and no service runs that
            could look it up; ``lookup-pending`` if the service did not finish within 15 seconds.
    """
    return _received(load_config(), address)


def get_user_received(user_id: int) -> tuple[Decimal, Decimal]:
    """Return the same for a user's address: child ``user_id`` of ``[dialects.ipn] xpub``.

    Raises:
        RequestError: ``no-xpub``, ``bad-index``, and all that ``get_received`` raises.
    """
    config = load_config()
    return _received(config, address_of_user(ipn_settings_of(config), user_id))


def _received(config: Config, address: str) -> tuple[Decimal, Decimal]:
    checked = parse_address(address, config.network)
    deadline = time.monotonic() + WAIT_S

    async def ask() -> CoveredTotals:
        async with open_service_tools(config) as service:
            totals = await service.totals.known_received(address, confirmations=config.ipn.confirmations)
            if totals is None and not is_service_running(config.database):
                raise RequestError(
                    "the address is not in the database, and no lightipn service runs that could look it up",
                    code="no-service",
                    status_hint=503,
                )
            if totals is None:
                await service.totals.request_lookup(checked)
            while totals is None and time.monotonic() < deadline:
                await trio.sleep(LOOK_AGAIN_S)
                totals = await service.totals.known_received(address, confirmations=config.ipn.confirmations)
        if totals is None:
            raise RequestError(
                f"the service did not finish within {WAIT_S:g} s; ask again in a while",
                code="lookup-pending",
                status_hint=503,
            )
        return totals

    covered = trio.run(ask)
    if covered.coverage.history_from is not None:
        warnings.warn(
            f"of {address} only payments from block {covered.coverage.history_from} on are known", stacklevel=3
        )
    totals = covered.totals
    return Decimal(btc_text(totals.confirmed_sat)), Decimal(btc_text(totals.unconfirmed_sat))
