"""Look at servers once, without using them: what each is, and a proof it should be able to give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from lightipn.bitcoin.hashes import Txid, hash_from_hex
from lightipn.bitcoin.network import Network
from lightipn.chain.source import MerkleBranch, ServerState
from lightipn.electrum import methods
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connector, Identity
from lightipn.electrum.protocol import Call
from lightipn.electrum.session import open_session
from lightipn.errors import ProtocolError, SourceDistrustedError, SourceError, SourceMisbehavedError

PROBES_AT_ONCE = 16
PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a server answered.

    Args:
        state: verdict ``answered`` where the greeting and the proof came, else why not.
        tip_raw: header of its tip, not judged.
        coinbase: the txid and branch that should prove the tip's first transaction; None without an answer.
    """

    state: ServerState
    tip_raw: bytes
    coinbase: tuple[Txid, MerkleBranch] | None


async def probe_servers(
    addresses: Sequence[ServerAddress],
    network: Network,
    connector: Connector,
    *,
    lowest_tip: int,
    known: Mapping[str, Identity],
) -> list[Probe]:
    """Probe servers side by side and return the results in their order.

    Args:
        known: who servers were before, by their names.
    """
    results: dict[str, Probe] = {}
    slots = trio.CapacityLimiter(PROBES_AT_ONCE)

    async def probe(address: ServerAddress) -> None:
        async with slots:
            results[address.name] = await _probe(
                address, network, connector, known.get(address.name, Identity()), lowest_tip=lowest_tip
            )

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(probe, address)
    return [results[address.name] for address in addresses]


async def _probe(
    address: ServerAddress, network: Network, connector: Connector, known: Identity, *, lowest_tip: int
) -> Probe:
    failed = "timed-out"
    verdict = "unavailable"
    with trio.move_on_after(PROBE_TIMEOUT_S):
        try:
            async with open_session(address, network, connector, known, lowest_tip=lowest_tip) as session:
                started = trio.current_time()
                await session.call(Call("server.ping"))
                latency_ms = (trio.current_time() - started) * 1000
                answer = await session.call(Call("blockchain.transaction.id_from_pos", (session.tip_height, 0, True)))
                return Probe(
                    state=ServerState(
                        name=address.name,
                        verdict="answered",
                        software=session.version.software,
                        protocol=session.version.protocol,
                        tip_height=session.tip_height,
                        latency_ms=latency_ms,
                    ),
                    tip_raw=session.tip_raw,
                    coinbase=_decode_coinbase(answer),
                )
        except SourceError as error:
            failed = str(error)
            match error:
                case SourceDistrustedError():
                    verdict = "distrusted"
                case SourceMisbehavedError():
                    verdict = "misbehaved"
    return Probe(state=ServerState(name=address.name, verdict=verdict, reason=failed), tip_raw=b"", coinbase=None)


def _decode_coinbase(answer: object) -> tuple[Txid, MerkleBranch]:
    match answer:
        case {"tx_hash": str(txid), "merkle": list(siblings)}:
            branch = methods.decode_merkle_branch({"merkle": siblings, "pos": 0})
            try:
                return Txid(hash_from_hex(txid)), branch
            except ValueError:
                pass
    raise ProtocolError("answer has the wrong shape: want tx_hash and merkle")
