"""Pools over servers in memory, and somebody who uses their sessions."""

import random
from collections.abc import Callable, Iterable

import trio

from lightipn.bitcoin.network import REGTEST
from lightipn.chain.source import Misbehaviour, ServerState
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.pool import ServerPool
from lightipn.electrum.session import Session
from tests.electrum.memory import MemoryConnector

BAN_S = 86400.0
LONG_S = 10 * BAN_S


class Served:
    """Notes the hosts whose sessions a pool serves, and keeps the sessions open."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.sessions: dict[str, Session] = {}
        self.changed = trio.Event()

    async def serve(self, session: Session) -> None:
        """Use a session until it ends."""
        self.hosts.append(session.address.host)
        self.sessions[session.address.host] = session
        self._tell()
        try:
            await trio.sleep_forever()
        finally:
            del self.sessions[session.address.host]
            self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def wait_count(self, count: int) -> None:
        """Wait until so many sessions were served."""
        await self.wait_until(lambda: len(self.hosts) >= count)

    async def wait_open(self, *hosts: str) -> None:
        """Wait until the sessions that are open are those with these hosts."""
        await self.wait_until(lambda: set(self.sessions) == set(hosts))

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until sessions that come and go bring a condition about."""
        with trio.fail_after(LONG_S):
            while not condition():
                await self.changed.wait()


def unix_clock() -> float:
    """Return unix seconds that go with Trio's clock."""
    return 1_700_000_000.0 + trio.current_time()


def named(host: str) -> ServerAddress:
    """Return the address of a server in memory."""
    return ServerAddress(host, 50001, uses_tls=False)


def pool_of(connector: MemoryConnector, hosts: Iterable[str], **options: object) -> ServerPool:
    """Return a pool with one slot and a chance that repeats itself, but for what ``options`` say."""
    defaults = {"connections": 1, "ban_s": BAN_S, "clock": unix_clock, "chance": random.Random(7)}
    arguments = {**defaults, **options}
    return ServerPool([named(host) for host in hosts], REGTEST, connector=connector, **arguments)  # type: ignore[arg-type]


def lie_of(host: str, **details: object) -> Misbehaviour:
    """Return a lie that a server was caught with."""
    told = {"kind": "false-header", "claim": "header 7", "contradiction": "its work is too little", **details}
    return Misbehaviour(server=named(host).name, **told)  # type: ignore[arg-type]


def verdicts(pool: ServerPool) -> dict[str, str]:
    """Return the verdict of every server that was tried, by host."""
    return {state.name.partition(":")[0]: state.verdict for state in pool.states()}


async def wait_until(pool: ServerPool, condition: Callable[[], bool]) -> None:
    """Wait until the servers' news bring a condition about."""
    with trio.fail_after(LONG_S):
        while not condition():
            await pool.changed.wait()


async def using(
    memory: MemoryConnector, nursery: trio.Nursery, *hosts: str, **options: object
) -> tuple[ServerPool, Served]:
    """Run a pool over honest servers with one slot for each, unless told otherwise, and wait until all are filled."""
    memory.add_many(*(host for host in hosts if host not in memory.servers))
    options.setdefault("connections", len(hosts))
    pool, served = pool_of(memory, hosts, **options), Served()
    nursery.start_soon(pool.run, served.serve)
    connections = options["connections"]
    assert isinstance(connections, int)
    await served.wait_open(*hosts[:connections])
    return pool, served


def state_of(pool: ServerPool, host: str) -> ServerState:
    """Return the state of a server."""
    return next(state for state in pool.states() if state.name == named(host).name)


def known_of(pool: ServerPool) -> dict[str, ServerState]:
    """Return what a service remembers of its servers after a restart."""
    return {state.name: state for state in pool.states()}
