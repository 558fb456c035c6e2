"""What servers were caught with, and trusting one of them anew."""

from collections.abc import Sequence

from lightipn.errors import RequestError
from lightipn.service.ground import Ground
from lightipn.store import evidence, servers
from lightipn.store.database import Database


class Servers:
    """The servers as the database knows them. A change needs no bell: the running service looks at the database."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store

    async def list_evidence(self, *, limit: int) -> Sequence[evidence.Evidence]:
        """Return what servers were caught with, newest first."""
        return await self._store.read(lambda db: evidence.load_evidence(db, limit=limit))

    async def trust(self, name: str) -> Sequence[str]:
        """Forget what is held against a server: its pinned certificate, and a ban.

        Args:
            name: ``host``, ``host:port``, or the full name.

        Returns:
            The full names of the servers that this means; at least one.

        Raises:
            RequestError: ``unknown-server``; names those that are known.
        """

        def work(db: Database) -> Sequence[str]:
            names = servers.trust_server(db, name)
            if not names:
                known = ", ".join(state.name for state in servers.load_servers(db)) or "none, since none was tried yet"
                raise RequestError(
                    f"no server is called {name[:80]!a}; known: {known}", code="unknown-server", status_hint=404
                )
            return names

        return await self._store.transact(work)
