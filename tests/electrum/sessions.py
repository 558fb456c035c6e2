"""What tests ask over a session, and how they learn why one ended."""

import pytest
import trio

from lightipn.bitcoin.hashes import ScriptHash, sha256
from lightipn.bitcoin.network import REGTEST
from lightipn.electrum import methods
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connector, Identity
from lightipn.electrum.protocol import Call
from lightipn.electrum.session import open_session
from lightipn.errors import SourceError

HEADERS = "blockchain.block.headers"
SUBSCRIBE = "blockchain.scripthash.subscribe"
PING = Call("server.ping")


def subscribes(count: int) -> list[Call]:
    """Return so many different subscribes."""
    return [methods.subscribe_call(ScriptHash(sha256(str(number).encode()))) for number in range(count)]


async def ending(address: ServerAddress, connector: Connector, *, lowest_tip: int = 0) -> SourceError:
    """Open a session that must fail, and return why."""
    with pytest.raises(SourceError) as caught:
        async with open_session(address, REGTEST, connector, Identity(), lowest_tip=lowest_tip):
            await trio.sleep_forever()
    return caught.value
