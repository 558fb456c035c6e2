"""BlockCypher's objects: transactions and blocks as JSON, made of what a light client knows.

Left out, because only an indexer knows them: ``preference``, ``relayed_by``, ``spent_by`` and ``age`` of inputs and
outputs; of a block all but its header. ``fees``, and values and addresses of inputs, are there where the transactions
that are spent could be had. Amounts are satoshis, as in the original.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from lightipn.bitcoin.address import address_of
from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.header import BlockHeader
from lightipn.bitcoin.network import Network
from lightipn.bitcoin.transaction import TxInput, TxOutput, details_of
from lightipn.ledger.transactions import KnownTransaction

PAGE = 20
MOST_PAGE = 200


def time_text(unix_s: int) -> str:
    """Print a time as the original does: ISO 8601 in UTC."""
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def chain_name_of(network: Network) -> str:
    """Return what the original would call the chain."""
    return f"BTC.{'main' if network.name == 'mainnet' else network.name}"


def names_of(network: Network) -> Sequence[str]:
    """Return what the chain is called in paths: clients know only ``main`` and ``test3``."""
    return ("main",) if network.name == "mainnet" else (network.name, "test3")


class InputJson(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """An input."""

    output_index: int
    sequence: int
    prev_hash: str = ""
    script: str = ""
    output_value: int | None = None
    addresses: Sequence[str] | None = None
    script_type: str = ""


class OutputJson(msgspec.Struct, kw_only=True, frozen=True):
    """An output; ``addresses`` is null where its script has no address."""

    value: int
    script: str
    addresses: Sequence[str] | None
    script_type: str
    data_hex: str | msgspec.UnsetType = msgspec.UNSET


class PlaceJson(msgspec.Struct, kw_only=True, frozen=True):
    """Where a transaction is, and since when we know it.

    Args:
        confidence: None where nobody asked.
        seen_by: servers that held it; None in a block.
    """

    received_at: int
    confirmations: int
    block_hash: str | None = None
    block_height: int = -1
    block_index: int = -1
    confirmed_at: int | None = None
    confidence: float | None = None
    seen_by: int | None = None
    replaced_by: str | None = None


class TransactionJson(msgspec.Struct, kw_only=True, frozen=True):
    """A transaction."""

    hash: str
    block_height: int
    block_index: int
    received: str
    confirmations: int
    double_spend: bool
    block_hash: str | msgspec.UnsetType = msgspec.UNSET
    confirmed: str | msgspec.UnsetType = msgspec.UNSET
    confidence: float | msgspec.UnsetType = msgspec.UNSET
    receive_count: int | msgspec.UnsetType = msgspec.UNSET
    double_of: str | msgspec.UnsetType = msgspec.UNSET
    double_spend_tx: str | msgspec.UnsetType = msgspec.UNSET
    addresses: Sequence[str] | msgspec.UnsetType = msgspec.UNSET
    total: int | msgspec.UnsetType = msgspec.UNSET
    fees: int | msgspec.UnsetType = msgspec.UNSET
    size: int | msgspec.UnsetType = msgspec.UNSET
    vsize: int | msgspec.UnsetType = msgspec.UNSET
    ver: int | msgspec.UnsetType = msgspec.UNSET
    lock_time: int | msgspec.UnsetType = msgspec.UNSET
    opt_in_rbf: bool | msgspec.UnsetType = msgspec.UNSET
    vin_sz: int | msgspec.UnsetType = msgspec.UNSET
    vout_sz: int | msgspec.UnsetType = msgspec.UNSET
    inputs: Sequence[InputJson] | msgspec.UnsetType = msgspec.UNSET
    outputs: Sequence[OutputJson] | msgspec.UnsetType = msgspec.UNSET
    next_inputs: str | msgspec.UnsetType = msgspec.UNSET
    next_outputs: str | msgspec.UnsetType = msgspec.UNSET
    hex: str | msgspec.UnsetType = msgspec.UNSET
    # What the webhook's consumers read beside it.
    event: str | msgspec.UnsetType = msgspec.UNSET
    address: str | msgspec.UnsetType = msgspec.UNSET
    value: int | msgspec.UnsetType = msgspec.UNSET


class Page(msgspec.Struct, kw_only=True, frozen=True):
    """Which inputs and outputs of a transaction are shown.

    Args:
        url: of the transaction, for links to the others; empty where there are none.
        shows_hex: the raw bytes are shown too.
    """

    first_input: int = 0
    first_output: int = 0
    limit: int = PAGE
    url: str = ""
    shows_hex: bool = False


def place_fields_of(txid: Txid, place: PlaceJson) -> dict[str, object]:
    """Return the fields of a transaction that say where it is."""
    fields: dict[str, object] = {
        "hash": hex_of(txid),
        "block_height": place.block_height,
        "block_index": place.block_index,
        "received": time_text(place.received_at),
        "confirmations": place.confirmations,
        "double_spend": place.replaced_by is not None,
    }
    optional = {
        "block_hash": place.block_hash,
        "confirmed": None if place.confirmed_at is None else time_text(place.confirmed_at),
        "confidence": place.confidence,
        "receive_count": place.seen_by,
        "double_of": place.replaced_by,
        "double_spend_tx": place.replaced_by,
    }
    return fields | {name: value for name, value in optional.items() if value is not None}


def contents_fields_of(known: KnownTransaction, network: Network, page: Page) -> dict[str, object]:
    """Return the fields of a transaction that its bytes, and those of what it spends, say."""
    transaction = known.transaction
    details = details_of(transaction)
    inputs = [
        _input_json_of(index, part, known, network)
        for index, part in list(enumerate(details.inputs))[page.first_input : page.first_input + page.limit]
    ]
    outputs = transaction.outputs[page.first_output : page.first_output + page.limit]
    spent = [output for output in known.spent if output is not None]
    addresses = [address_of(output.script, network) for output in (*spent, *transaction.outputs)]
    fields: dict[str, object] = {
        "addresses": list(dict.fromkeys(address for address in addresses if address is not None)),
        "total": sum(output.amount_sat for output in transaction.outputs),
        "size": len(transaction.raw),
        "vsize": details.vbytes,
        "ver": details.version,
        "opt_in_rbf": transaction.signals_rbf,
        "vin_sz": len(transaction.spends),
        "vout_sz": len(transaction.outputs),
        "inputs": inputs,
        "outputs": [_output_json_of(output, network) for output in outputs],
    }
    if known.fee_sat is not None:
        fields["fees"] = known.fee_sat
    if details.lock_time:
        fields["lock_time"] = details.lock_time
    if page.shows_hex:
        fields["hex"] = transaction.raw.hex()
    if page.url:
        fields |= _links_of(page, inputs=len(transaction.spends), outputs=len(transaction.outputs))
    return fields


def _links_of(page: Page, *, inputs: int, outputs: int) -> dict[str, object]:
    links: dict[str, object] = {}
    next_input, next_output = page.first_input + page.limit, page.first_output + page.limit
    if next_input < inputs:
        links["next_inputs"] = f"{page.url}?instart={next_input}&outstart={page.first_output}&limit={page.limit}"
    if next_output < outputs:
        links["next_outputs"] = f"{page.url}?instart={page.first_input}&outstart={next_output}&limit={page.limit}"
    return links


def _input_json_of(index: int, part: TxInput, known: KnownTransaction, network: Network) -> InputJson:
    if known.transaction.is_coinbase:
        return InputJson(output_index=-1, sequence=part.sequence, script=part.script.hex(), script_type="empty")
    outpoint, spent = known.transaction.spends[index], known.spent[index]
    return InputJson(
        prev_hash=hex_of(outpoint.txid),
        output_index=outpoint.index,
        sequence=part.sequence,
        script=part.script.hex(),
        output_value=None if spent is None else spent.amount_sat,
        addresses=None if spent is None else _addresses_of(spent, network),
        script_type="" if spent is None else script_type_of(spent.script),
    )


def _output_json_of(output: TxOutput, network: Network) -> OutputJson:
    is_data = output.script[:1] == b"\x6a"
    return OutputJson(
        value=output.amount_sat,
        script=output.script.hex(),
        addresses=_addresses_of(output, network),
        script_type=script_type_of(output.script),
        data_hex=_data_of(output.script).hex() if is_data else msgspec.UNSET,
    )


def _addresses_of(output: TxOutput, network: Network) -> Sequence[str] | None:
    address = address_of(output.script, network)
    return None if address is None else [address]


def _data_of(script: bytes) -> bytes:
    """Return what an OP_RETURN output carries: its first push, or all of it where that is no plain one."""
    length = script[1] if len(script) > 1 else 0
    if 0 < length < 0x4C and len(script) == 2 + length:
        return script[2:]
    return script[3:] if script[1:2] == b"\x4c" and len(script) > 3 else script[1:]


def script_type_of(script: bytes) -> str:
    """Return what the original calls the kind of an output script."""
    match len(script), script[:1]:
        case 0, _:
            return "empty"
        case 25, b"\x76" if script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac":
            return "pay-to-pubkey-hash"
        case 23, b"\xa9" if script[1] == 20 and script[22] == 0x87:
            return "pay-to-script-hash"
        case 22, b"\x00" if script[1] == 20:
            return "pay-to-witness-pubkey-hash"
        case 34, b"\x00" if script[1] == 32:
            return "pay-to-witness-script-hash"
        case 34, b"\x51" if script[1] == 32:
            return "pay-to-taproot"
        case ((35 | 67), _) if script[0] == len(script) - 2 and script[-1] == 0xAC:
            return "pay-to-pubkey"
        case _, b"\x6a":
            return "null-data"
        case _ if script[-1] == 0xAE and len(script) > 3 and 0x51 <= script[0] <= 0x60:
            return "pay-to-multi-pubkey-hash"
        case _:
            return "unknown"


def transaction_json_of(*fields: dict[str, object]) -> TransactionJson:
    """Put the parts of a transaction together."""
    merged: dict[str, object] = {}
    for part in fields:
        merged |= part
    return TransactionJson(**merged)  # type: ignore[arg-type]  # made of the functions above


class BlockJson(msgspec.Struct, kw_only=True, frozen=True):
    """A block, as its header tells it."""

    hash: str
    height: int
    chain: str
    ver: int
    time: str
    bits: int
    nonce: int
    prev_block: str
    mrkl_root: str
    event: str | msgspec.UnsetType = msgspec.UNSET


def block_json_of(header: BlockHeader, height: int, network: Network, *, event: str = "") -> BlockJson:
    """Return a block as the original shows it."""
    return BlockJson(
        hash=hex_of(header.block_hash),
        height=height,
        chain=chain_name_of(network),
        ver=int.from_bytes(header.raw[:4], "little"),
        time=time_text(header.time),
        bits=header.bits,
        nonce=int.from_bytes(header.raw[76:], "little"),
        prev_block=hex_of(header.previous_hash),
        mrkl_root=hex_of(header.merkle_root),
        event=event or msgspec.UNSET,
    )
