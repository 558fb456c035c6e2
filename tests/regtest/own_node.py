"""The bitcoind of a story as the source itself, in place of an ElectrumX over it."""

from pathlib import Path
from typing import TypeAlias

import pytest

from tests.regtest.nodes import Bitcoind, ElectrumX

WRONG_COOKIE = "__cookie__:this is not the password"


class OwnNode:
    """A bitcoind that the service asks itself; it has what stories use of an ElectrumX.

    Args:
        folder: for the cookie that the service is shown: who takes it away locks the service out of the node, and the
            story can go on with it.
    """

    def __init__(self, bitcoind: Bitcoind, folder: Path, *, zmq: str = "") -> None:
        self.bitcoind = bitcoind
        self.zmq = zmq
        folder.mkdir(parents=True, exist_ok=True)
        self.cookie_path = folder / "cookie"
        self._show_cookie()

    def options(self) -> dict[str, str]:
        """Return the environment of a service on this node."""
        options = {
            "LIGHTIPN_BACKEND": "bitcoind",
            "LIGHTIPN_BITCOIND_URL": self.bitcoind.url,
            "LIGHTIPN_BITCOIND_COOKIE_FILE": str(self.cookie_path),
            "LIGHTIPN_BITCOIND_POLL_INTERVAL_S": "0.2",
        }
        return options | ({"LIGHTIPN_BITCOIND_ZMQ": self.zmq} if self.zmq else {})

    def _show_cookie(self) -> None:
        self.cookie_path.unlink(missing_ok=True)
        self.cookie_path.symlink_to(self.bitcoind.cookie_path)  # the node makes a new one at every start

    async def wait_tip(self) -> None:
        """Return at once: the node is always at its own tip."""

    def kill(self) -> None:
        """Lock the service out."""
        self.cookie_path.unlink()
        self.cookie_path.write_text(WRONG_COOKIE)

    async def start(self) -> None:
        """Let the service in again."""
        self._show_cookie()


Source: TypeAlias = ElectrumX | OwnNode


def trust_told(source: Source, level: str) -> str:
    """Return the trust level that events have, where Electrum servers would give them another."""
    return "own-node" if isinstance(source, OwnNode) else level


def shared_source_of(backend: str, request: pytest.FixtureRequest) -> Source:
    """Return the source that the session shares; one's own node shows its cookie at a place of this very request."""
    if backend == "electrum":
        return request.getfixturevalue("shared_electrumx")
    folder = request.getfixturevalue("tmp_path_factory").mktemp("own-node")
    return OwnNode(request.getfixturevalue("shared_pruned"), folder)
