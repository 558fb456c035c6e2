"""A real bitcoind and a real ElectrumX as child processes, for tests.

``Bitcoind`` and ``ElectrumX`` own a process, its folder and its port, which it keeps over restarts. They hold nothing
of Trio between two calls, so a whole session of tests can share them although each test has a Trio run of its own.
Every wait has a deadline, and its error shows the last lines of the process.

Two wallets. ``main`` pays: it holds forty equal coins that are fifty blocks deep, so that payments do not hang on each
other and no reorg of a test takes a coin away. ``receiver`` owns every address handed out, also the miners': coins
that a test watches are never picked to pay for another test.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import httpx
import trio

from lightipn.bitcoin.hashes import hex_of, scripthash_of, sha256d
from tests.regtest.electrum_link import ElectrumLink, RpcError

AddressKind = Literal["legacy", "p2sh-segwit", "bech32", "bech32m", "p2wsh"]

START_DEADLINE_S = 60.0
WAIT_DEADLINE_S = 20.0
TAIL_LINES = 20
PAUSE_S = 0.02  # between two looks at something that tells nobody when it changes: a port, a cookie file

SAT_PER_BTC = 100_000_000
FUNDING_BLOCKS = 10
FUNDING_COINS = 40
FUNDING_COIN_SAT = 10 * SAT_PER_BTC
MATURITY_BLOCKS = 100
BURIAL_BLOCKS = 50
READY_HEIGHT = FUNDING_BLOCKS + MATURITY_BLOCKS + BURIAL_BLOCKS

# The ones the functional tests of Bitcoin Core use for quiet and speed.
BITCOIND_OPTIONS = (
    *("-regtest", "-server=1", "-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1", "-nodebuglogfile", "-printtoconsole=1"),
    *("-fallbackfee=0.0002", "-keypool=1", "-unsafesqlitesync=1"),
    *("-dnsseed=0", "-fixedseeds=0", "-connect=0", "-discover=0", "-natpmp=0", "-listenonion=0"),
)

INDEXED_OPTIONS = ("-txindex=1",)  # ElectrumX 1.20 insists on it
# A file of a pruned node's blocks is 64 KiB with -fastprune and holds some 230 blocks of a story; 288 are always kept.
PRUNED_OPTIONS = ("-prune=1", "-fastprune")
PRUNED_BURIAL_BLOCKS = 650
KEPT_BLOCKS = 288

# Polls are in milliseconds; with the defaults a payment is announced after 2.7 s and a block after 10 s.
ELECTRUMX_ENVIRONMENT = {
    "DB_ENGINE": "leveldb",
    "COIN": "Bitcoin",
    "NET": "regtest",
    "PEER_DISCOVERY": "off",
    "COST_SOFT_LIMIT": "0",
    "COST_HARD_LIMIT": "0",
    "ALLOW_ROOT": "1",
    "DAEMON_POLL_INTERVAL_BLOCKS": "200",
    "DAEMON_POLL_INTERVAL_MEMPOOL": "200",
}


class ProgramMissingError(Exception):
    """A program is not installed; the message says how to get it."""


class NodeError(Exception):
    """A process did not start, ended, or let a deadline pass; carries the last lines it wrote."""


def find_program(name: str) -> Path:
    """Return a program out of the cache folder of tests/regtest/install.sh, or raise ``ProgramMissingError``."""
    cache = os.environ.get("REGTEST_CACHE") or Path.home() / ".cache" / "lightipn-regtest"
    program = Path(cache) / "bin" / name
    if not os.access(program, os.X_OK):
        raise ProgramMissingError(f"no {name} in {program.parent}: run tests/regtest/install.sh")
    return program


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses.

    It lies below the kernel's range for outgoing connections. From inside that range, a client that knocks on the
    port of a stopped server could be given the very same port as its own, and so keep the server from coming back.
    """
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port


def btc_text_of(amount_sat: int) -> str:
    """Print satoshis as the BTC text that bitcoind reads without rounding."""
    return f"{amount_sat // SAT_PER_BTC}.{amount_sat % SAT_PER_BTC:08d}"


class Node(ABC):
    """One child process whose output goes to a file, and which does not outlive the test run."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.output = folder / f"{program}.log"
        self.child: subprocess.Popen[bytes] | None = None

    def launch(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        """Start the program; what it says is appended to ``output``."""
        assert self.child is None, f"{self.program} is running already"
        command = [str(find_program(self.program)), *arguments]
        if setpriv := shutil.which("setpriv"):
            # A test run that is killed cannot clean up: then the kernel ends the child with it.
            command = [setpriv, "--pdeathsig", "KILL", *command]
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {"PATH": os.environ.get("PATH", os.defpath), **environment}
        with self.output.open("ab") as output:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=values, cwd=self.folder
            )

    def kill(self) -> None:
        """End the process at once (SIGKILL); harmless when there is none."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None

    async def stop(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Ask the process to end (SIGTERM) and wait until it has; ``NodeError`` when it had to be killed."""
        if (child := self.child) is None:
            return
        try:
            with self.deadline(deadline_s, "to end"):
                child.send_signal(signal.SIGTERM)
                while child.poll() is None:
                    await trio.sleep(PAUSE_S)
        finally:
            self.kill()

    @abstractmethod
    async def answers(self) -> bool:
        """Tell whether the program answers by now."""

    async def wait_ready(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Wait until the program answers; ``NodeError`` as soon as it has ended instead."""
        with self.deadline(deadline_s, "to answer"):
            while not await self.answers():
                self.require_running()
                await trio.sleep(PAUSE_S)

    def require_running(self) -> None:
        """Raise ``NodeError`` when the process has ended or was never started."""
        if self.child is None:
            raise NodeError(self.report("is not started"))
        if (code := self.child.poll()) is not None:
            raise NodeError(self.report(f"ended with exit code {code}"))

    @contextmanager
    def deadline(self, deadline_s: float, wanted: str) -> Iterator[None]:
        """Turn a wait that takes longer than ``deadline_s`` into a ``NodeError`` that names what was wanted."""
        try:
            with trio.fail_after(deadline_s):
                yield
        except trio.TooSlowError:
            raise NodeError(self.report(f"took longer than {deadline_s:g} s {wanted}")) from None

    def report(self, finding: str) -> str:
        """Return the finding, followed by the last lines that the process wrote."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        lines = text.splitlines()[-TAIL_LINES:]
        return "\n  ".join([f"{self.program} {finding}; its last lines in {self.output}:", *lines])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorg:
    """What a reorg did: the height of the last shared block, and the blocks' hashes in hex, lowest first."""

    fork_height: int
    disconnected: tuple[str, ...]
    connected: tuple[str, ...]


class Bitcoind(Node):
    """A bitcoind: its RPC, and the acts that stories are made of. See ``open_bitcoind``."""

    def __init__(
        self, folder: Path, *, listen_port: int | None = None, options: Sequence[str] = (), is_pruned: bool = False
    ) -> None:
        super().__init__("bitcoind", folder)
        self.rpc_port = free_port()
        self.listen_port = listen_port
        self.options = tuple(options)  # others may be set for the next start
        self.is_pruned = is_pruned
        self.url = f"http://127.0.0.1:{self.rpc_port}"
        self.cookie_path = folder / "regtest" / ".cookie"  # user and password; new ones at every start

    def read_cookie(self) -> tuple[str, str]:
        """Return the user and the password of this run."""
        user, _, password = self.cookie_path.read_text().partition(":")
        return user, password

    async def start(self) -> None:
        """Start it, and make its chain and wallets the first time. An ElectrumX over it has to be restarted too."""
        listen = ["-listen=0"]
        if self.listen_port is not None:
            listen = ["-listen=1", f"-bind=127.0.0.1:{self.listen_port}"]
        options = [*BITCOIND_OPTIONS, *listen, f"-datadir={self.folder}", f"-rpcport={self.rpc_port}"]
        kept = PRUNED_OPTIONS if self.is_pruned else INDEXED_OPTIONS
        self.launch([*options, *kept, *self.options], {"HOME": str(self.folder)})
        await self.wait_ready()
        await self.prepare()

    async def rpc(self, method: str, *params: Any, wallet: str = "main", **named: Any) -> Any:
        """Call an RPC method and return its result; numbers with a point are ``Decimal``.

        Raises:
            RpcError: bitcoind refused.
            NodeError: bitcoind cannot be reached.
        """
        arguments = {"args": params, **named} if named else params
        request = {"jsonrpc": "2.0", "id": 0, "method": method, "params": arguments}
        try:
            cookie = self.read_cookie()
            # No proxies of the environment, and no bundle of certificates, which takes 20 ms to load.
            plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            async with httpx.AsyncClient(
                trust_env=False, verify=plain, timeout=START_DEADLINE_S, auth=cookie
            ) as client:
                response = await client.post(f"{self.url}/wallet/{wallet}", json=request)
        except (httpx.TransportError, FileNotFoundError) as exc:
            raise NodeError(self.report(f"cannot be reached ({exc!r})")) from exc
        if response.status_code == 401:
            raise RpcError(401, "wrong user or password")
        answer = json.loads(response.content, parse_float=Decimal)
        if error := answer.get("error"):
            raise RpcError(error["code"], f"{method}: {error['message']}")
        return answer["result"]

    async def answers(self) -> bool:
        """Tell whether RPC answers by now."""
        try:
            await self.rpc("getblockcount")
        except (NodeError, RpcError):  # it warms up, or the cookie file is still that of the last run
            return False
        return True

    async def prepare(self) -> None:
        """Make the two wallets and fill ``main``; does nothing the second time."""
        if "main" in await self.rpc("listwallets"):
            return
        for wallet in ("main", "receiver"):
            await self.rpc("createwallet", wallet_name=wallet, load_on_startup=True)
        await self.mine(FUNDING_BLOCKS, await self.rpc("getnewaddress"))
        await self.mine(MATURITY_BLOCKS)
        coin = btc_text_of(FUNDING_COIN_SAT)
        await self.rpc("sendmany", "", {await self.rpc("getnewaddress"): coin for _ in range(FUNDING_COINS)})
        await self.mine(PRUNED_BURIAL_BLOCKS if self.is_pruned else BURIAL_BLOCKS)
        if self.is_pruned:
            await self.prune()

    async def prune(self) -> None:
        """Have the first blocks removed, as far as the node lets go of them."""
        await self.rpc("pruneblockchain", await self.height() - KEPT_BLOCKS)
        assert (await self.rpc("getblockchaininfo"))["pruneheight"] > 1, "the node has pruned nothing"

    async def height(self) -> int:
        """Return the height of the tip."""
        return await self.rpc("getblockcount")

    async def tip_hash(self) -> str:
        """Return the hash of the tip, in hex."""
        return await self.rpc("getbestblockhash")

    async def mine(self, blocks: int, address: str | None = None) -> list[str]:
        """Mine blocks with everything in the mempool and return their hashes.

        Without an address a fresh one is used: a block mined again at the same height within the same second must
        not be the very block that was invalidated before.
        """
        return await self.rpc("generatetoaddress", blocks, address or await self.new_address())

    async def send(self, address: str, amount_sat: int, **named: Any) -> str:
        """Pay from ``main`` and return the txid; named arguments are those of ``sendtoaddress`` (``fee_rate=5``)."""
        return await self.rpc("sendtoaddress", address, btc_text_of(amount_sat), **named)

    async def transaction(self, txid: str) -> dict[str, Any]:
        """Return a transaction, decoded: of the mempool, or of a block if there is an index or a wallet has it."""
        try:
            return await self.rpc("getrawtransaction", txid, True)
        except RpcError:
            for wallet in ("main", "receiver"):
                with suppress(RpcError):
                    known = await self.rpc("gettransaction", txid, wallet=wallet)
                    return known | await self.rpc("decoderawtransaction", known["hex"])
            raise

    async def bump_fee(self, txid: str) -> str:
        """Replace a payment of ``main`` by one with a higher fee and return the new txid."""
        return (await self.rpc("bumpfee", txid))["txid"]

    async def invalidate(self, block_hash: str) -> None:
        """Take a block and all above it off the chain; transactions of the ten highest go back to the mempool."""
        await self.rpc("invalidateblock", block_hash)

    async def reorg(self, depth_blocks: int, *, blocks: int | None = None, with_transactions: bool = True) -> Reorg:
        """Replace the last ``depth_blocks`` blocks.

        Args:
            blocks: how many new ones are mined; one more than were lost when left out.
            with_transactions: whether the new blocks hold the transactions of the lost ones; if not, these wait in
                the mempool.
        """
        fork_height = await self.height() - depth_blocks
        disconnected = [await self.rpc("getblockhash", fork_height + step) for step in range(1, depth_blocks + 1)]
        lost = [await self.rpc("getblock", block_hash, 2) for block_hash in disconnected]
        await self.invalidate(disconnected[0])
        for transaction in (each for block in lost for each in block["tx"][1:]):
            # bitcoind itself takes back the transactions of no more than ten invalidated blocks (src/validation.cpp).
            with suppress(RpcError):  # it hung on a coinbase that is gone
                await self.rpc("sendrawtransaction", transaction["hex"])
        count = depth_blocks + 1 if blocks is None else blocks
        if with_transactions:
            connected = await self.mine(count)
        else:
            address = await self.new_address()
            connected = [(await self.rpc("generateblock", address, []))["hash"] for _ in range(count)]
        return Reorg(fork_height=fork_height, disconnected=tuple(disconnected), connected=tuple(connected))

    async def new_address(self, kind: AddressKind = "bech32") -> str:
        """Return a fresh address of the wallet ``receiver``; ``p2wsh`` is two of three of its keys."""
        if kind != "p2wsh":
            return await self.rpc("getnewaddress", "", kind, wallet="receiver")
        keys = []
        for _ in range(3):
            address = await self.new_address()
            keys.append((await self.rpc("getaddressinfo", address, wallet="receiver"))["pubkey"])
        return (await self.rpc("createmultisig", 2, keys, "bech32"))["address"]

    async def account_key(self, kind: AddressKind = "bech32") -> str:
        """Return the extended public key (tpub) of the account from which the wallet ``receiver`` takes addresses."""
        start = {"legacy": "pkh(", "p2sh-segwit": "sh(wpkh(", "bech32": "wpkh(", "bech32m": "tr("}[kind]
        listed = (await self.rpc("listdescriptors", wallet="receiver"))["descriptors"]
        [text] = [one["desc"] for one in listed if one["desc"].startswith(start) and not one["internal"]]
        return text[text.index("]") + 1 :].partition("/")[0]

    async def scripthash(self, address: str) -> str:
        """Return the scripthash of an address, in hex as Electrum prints it."""
        script = (await self.rpc("validateaddress", address))["scriptPubKey"]
        return hex_of(scripthash_of(bytes.fromhex(script)))


class ElectrumX(Node):
    """An ElectrumX over a bitcoind: ask it, wait for it, kill it and start it again. See ``open_electrumx``.

    Each question has a connection of its own: ElectrumX answers the first kilobyte at once, and holds small answers
    back for a second after that.
    """

    def __init__(self, bitcoind: Bitcoind, folder: Path, *, options: Mapping[str, str | None] | None = None) -> None:
        super().__init__("electrumx_server", folder)
        self.bitcoind = bitcoind
        self.port = free_port()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.options = dict(options or {})

    async def start(self) -> None:
        """Start it over the database it left, and wait until it has every block and the mempool, and answers."""
        user, password = self.bitcoind.read_cookie()
        values: dict[str, str | None] = {
            **ELECTRUMX_ENVIRONMENT,
            "DAEMON_URL": f"http://{user}:{password}@127.0.0.1:{self.bitcoind.rpc_port}/",
            "DB_DIRECTORY": str(self.folder),
            "SERVICES": self.url,
            **self.options,
        }
        self.launch([], {name: value for name, value in values.items() if value is not None})
        await self.wait_ready()

    async def answers(self) -> bool:
        """Tell whether it answers clients by now."""
        try:
            async with self.open_link():
                return True
        except NodeError:
            return False

    @asynccontextmanager
    async def open_link(self) -> AsyncIterator[ElectrumLink]:
        """Connect to it and say who we are; a connection that fails or ends becomes a ``NodeError``."""
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                link = ElectrumLink(stream)
                await link.request("server.version", "regtest", ["1.4", "1.6"])
                yield link
        except (OSError, EOFError, trio.BrokenResourceError) as exc:
            self.require_running()
            raise NodeError(self.report(f"refused or ended a connection ({exc!r})")) from exc

    async def call(self, method: str, *params: Any) -> Any:
        """Ask one question and return the result; ``RpcError`` when it refuses."""
        with self.deadline(WAIT_DEADLINE_S, f"for {method}"):
            async with self.open_link() as link:
                return await link.request(method, *params)

    async def wait_header(
        self, predicate: Callable[[dict[str, Any]], bool], deadline_s: float = WAIT_DEADLINE_S
    ) -> dict[str, Any]:
        """Wait until the announced tip (``hex`` and ``height``) satisfies the predicate, and return it."""
        with self.deadline(deadline_s, "to announce the header wanted"):
            async with self.open_link() as link:
                header = await link.request("blockchain.headers.subscribe")
                while not predicate(header):
                    [header] = (await link.receive_notification())["params"]
        return header

    async def wait_height(self, height: int, deadline_s: float = WAIT_DEADLINE_S) -> None:
        """Wait until its tip is at this height or above; after a reorg use ``wait_tip``."""
        await self.wait_header(lambda header: header["height"] >= height, deadline_s)

    async def wait_tip(self, deadline_s: float = WAIT_DEADLINE_S) -> None:
        """Wait until its tip is the block that is bitcoind's tip now."""
        tip_hash = await self.bitcoind.tip_hash()
        await self.wait_header(lambda header: hex_of(sha256d(bytes.fromhex(header["hex"]))) == tip_hash, deadline_s)

    async def wait_history(
        self, address: str, predicate: Callable[[list[dict[str, Any]]], bool], deadline_s: float = WAIT_DEADLINE_S
    ) -> list[dict[str, Any]]:
        """Wait until the history of an address satisfies the predicate, and return it as the server sent it."""
        scripthash = await self.bitcoind.scripthash(address)
        with self.deadline(deadline_s, "to show the history wanted"):
            async with self.open_link() as link:
                await link.request("blockchain.scripthash.subscribe", scripthash)
                # Subscribed first: a change between the question and its answer is announced, and asked about again.
                while not predicate(history := await link.request("blockchain.scripthash.get_history", scripthash)):
                    await link.receive_notification()
        return history


@asynccontextmanager
async def open_bitcoind(
    folder: Path, *, listen_port: int | None = None, options: Sequence[str] = (), is_pruned: bool = False
) -> AsyncIterator[Bitcoind]:
    """Run a bitcoind with a chain and two wallets until the block is left.

    Args:
        folder: for its data and its output; made when missing.
        listen_port: where other nodes may connect (``addnode``); None for a node that listens to nobody.
        options: further ones of its command line, such as ``-mempoolexpiry=1``.
        is_pruned: it keeps the last blocks alone, and no index; else it has every block, and an index of transactions.
    """
    bitcoind = Bitcoind(folder, listen_port=listen_port, options=options, is_pruned=is_pruned)
    try:
        await bitcoind.start()
        yield bitcoind
    finally:
        bitcoind.kill()


@asynccontextmanager
async def open_electrumx(
    bitcoind: Bitcoind, folder: Path, *, options: Mapping[str, str | None] | None = None
) -> AsyncIterator[ElectrumX]:
    """Run an ElectrumX over a bitcoind until the block is left.

    Args:
        folder: for its database and its output; made when missing.
        options: environment values that replace ours; None for a value takes ElectrumX's default
            (``{"COST_SOFT_LIMIT": None, "COST_HARD_LIMIT": None}``).
    """
    electrumx = ElectrumX(bitcoind, folder, options=options)
    try:
        await electrumx.start()
        yield electrumx
    finally:
        electrumx.kill()
