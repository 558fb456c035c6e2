"""Questions about the chain, addresses and transactions, and handing a transaction to the network."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import json_response, route_of
from lightipn.api.parameters import MAX_BODY_BYTES, whole_number
from lightipn.bitcoin.address import Address, parse_address
from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.dialects.blockcypher import answers, objects
from lightipn.dialects.blockcypher.frame import Call, Frame
from lightipn.dialects.blockcypher.hook_routes import wallet_json_of
from lightipn.dialects.blockcypher.requests import PushRequest, batch_of, read_as
from lightipn.errors import RequestError
from lightipn.ledger.entries import GONE, LedgerEntry, Replaced
from lightipn.service.hooking import MOST_HOOKS
from lightipn.service.lookups import KnownPayments
from lightipn.service.transactions import MOST_PUSHED_BYTES, PlacedTransaction
from lightipn.service.wallets import ShownWallet

DEFAULT_REFS, MOST_REFS = 200, 2000
DEFAULT_TRANSACTIONS, MOST_TRANSACTIONS = 10, 50
MOST_HEIGHT = 100_000_000
MOST_INDEX = 1_000_000
# Blocks within which the original's three fee levels shall be confirmed.
HIGH_FEE_BLOCKS, MEDIUM_FEE_BLOCKS, LOW_FEE_BLOCKS = 2, 6, 25

Reading = Callable[[Call, str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadApi:
    """The read calls.

    Args:
        connected: returns how many servers are connected.
        clock: unix seconds.
    """

    frame: Frame
    connected: Callable[[], int]
    clock: Callable[[], float]

    def routes(self) -> list[Route]:
        """Return the routes."""
        frame = self.frame
        return [
            *frame.routes("", {"GET": self.chain}),
            *frame.routes("/addrs/{asked}/balance", {"GET": partial(self._batch, self.balance)}),
            *frame.routes("/addrs/{asked}/full", {"GET": partial(self._batch, self.full)}),
            *frame.routes("/addrs/{asked}", {"GET": partial(self._batch, self.address)}),
            *frame.routes("/txs/push", {"POST": self.push}, most_body_bytes=2 * MOST_PUSHED_BYTES + MAX_BODY_BYTES),
            *frame.routes("/txs/{asked}/confidence", {"GET": partial(self._batch, self.confidence)}),
            *frame.routes("/txs/{asked}", {"GET": partial(self._batch, self.transaction)}),
            *[route_of(f"/v1/tokens/{{token}}{slash}", frame.answering(self.limits), ["GET"]) for slash in ("", "/")],
        ]

    async def limits(self, request: Request) -> Response:
        """Show what the key in the path may do: there are no quotas by the hour."""
        token = request.path_params["token"]
        await self.frame.doorkeeper.owner_of(request, {"token": token}, dialect=None)
        return json_response({"token": token, "limits": {"hooks": MOST_HOOKS}, "hits": {}, "hits_history": []})

    async def _batch(self, reading: Reading, call: Call) -> Response:
        """Answer one thing, or a list where several are asked for, separated by semicolons."""
        asked = call.parts["asked"]
        if ";" not in asked:
            return json_response(await reading(call, asked))
        return json_response([await reading(call, one) for one in batch_of(asked)])

    # --- the chain ---

    async def chain(self, call: Call) -> Response:
        """Show our tip, and what fees the servers suggest."""
        tip = await self.frame.service.transactions.tip()
        targets = {
            "high_fee_per_kb": HIGH_FEE_BLOCKS,
            "medium_fee_per_kb": MEDIUM_FEE_BLOCKS,
            "low_fee_per_kb": LOW_FEE_BLOCKS,
        }
        rates = await self.frame.service.transactions.fee_rates(list(targets.values()))
        fees = {name: round(rates[blocks] * 1000) for name, blocks in targets.items() if blocks in rates}
        return json_response(
            answers.TipJson(
                name=objects.chain_name_of(self.frame.network),
                height=tip.height,
                hash=hex_of(tip.block_hash),
                time=objects.time_text(tip.time),
                previous_hash=hex_of(tip.previous_hash),
                peer_count=self.connected(),
                **fees,
            )
        )

    # --- addresses ---

    def _address_of(self, text: str) -> Address:
        return parse_address(text, self.frame.network)

    async def balance(self, call: Call, asked: str) -> object:
        """Show what an address holds; or what a wallet's addresses do together."""
        try:
            address = self._address_of(asked)
        except RequestError as refusal:
            return await self._wallet_balance(call, asked, refusal)
        known = await self.frame.service.lookups.payments(address)
        balance = _balance_of(known)
        return answers.address_json_of(address.text, balance, **_coverage_fields_of([known]))

    async def _wallet_of(self, call: Call, name: str, refusal: RequestError) -> ShownWallet:
        try:
            return await self.frame.service.wallets.show(name, owner=call.owner)
        except RequestError:
            raise refusal from None  # most likely it was meant to be an address

    async def _wallet_balance(self, call: Call, name: str, refusal: RequestError) -> object:
        shown = await self._wallet_of(call, name, refusal)
        lookups = self.frame.service.lookups
        known = [await lookups.payments(self._address_of(member.address)) for member in shown.addresses]
        entries = [entry for one in known for entry in one.payments.entries.values()]
        balance = answers.wallet_balance_of(entries, unproved_spent_sat=_unproved_spent_sat_of(known))
        wallet = wallet_json_of(shown, "")
        return answers.WalletBalanceJson(wallet=wallet, **msgspec.structs.asdict(balance), **_coverage_fields_of(known))

    async def address(self, call: Call, asked: str) -> object:
        """Show an address, or the addresses of a wallet together, with inputs and outputs, newest first."""
        wish = _ref_wish_of(call.texts())
        try:
            addresses, name = [self._address_of(asked)], ""
        except RequestError as refusal:
            wallet, name = await self._wallet_of(call, asked, refusal), asked
            addresses = [self._address_of(member.address) for member in wallet.addresses]
        entries: list[LedgerEntry] = []
        shown_of: list[KnownPayments] = []
        confirmed: list[answers.TxRefJson] = []
        unconfirmed: list[answers.TxRefJson] = []
        for address in addresses:
            known = await self.frame.service.lookups.payments(address)
            shown_of.append(known)
            more = list(known.payments.entries.values())
            refs = await self._refs_of(call, address, known)
            entries, confirmed, unconfirmed = entries + more, confirmed + refs[0], unconfirmed + refs[1]
        confirmed.sort(key=lambda ref: -ref.block_height)
        chosen = answers.chosen_of(confirmed, wish)
        pending = [] if wish.confirmations else answers.chosen_of(unconfirmed, wish)
        shown = chosen[: wish.limit]
        balance_of = answers.wallet_balance_of if name else answers.balance_json_of
        return answers.address_json_of(
            name or addresses[0].text,
            balance_of(entries, unproved_spent_sat=_unproved_spent_sat_of(shown_of)),
            tx_url=f"{call.url}/txs/",
            txrefs=shown or msgspec.UNSET,
            unconfirmed_txrefs=pending[: wish.limit] or msgspec.UNSET,
            hasMore=True if len(chosen) > len(shown) else msgspec.UNSET,
            **_coverage_fields_of(shown_of),
        )

    async def _refs_of(
        self, call: Call, address: Address, known: KnownPayments
    ) -> tuple[list[answers.TxRefJson], list[answers.TxRefJson]]:
        entries = list(known.payments.entries.values())
        transactions = self.frame.service.transactions
        return answers.refs_of(
            entries,
            script=address.script if _is_true(call, "includeScript") else None,
            tip_height=known.tip_height,
            times=await transactions.times_of(entries),
            confidences=await transactions.confidences_of(entries) if _is_true(call, "includeConfidence") else {},
        )

    async def full(self, call: Call, asked: str) -> object:
        """Show an address with its whole transactions, newest first."""
        address = self._address_of(asked)
        parameters = call.texts()
        limit = whole_number(parameters, "limit", default=DEFAULT_TRANSACTIONS, lowest=1, highest=MOST_TRANSACTIONS)
        wish = _ref_wish_of(parameters | {"limit": str(limit)})
        known = await self.frame.service.lookups.payments(address)
        entries = [
            entry
            for entry in answers.newest_first(known.payments.entries.values())
            if _is_chosen(entry, wish, known.tip_height)
        ]
        placed = await self.frame.service.transactions.show_all(known, entries[:limit])
        page = _page_of(parameters, limit_name="txlimit")
        return answers.address_json_of(
            address.text,
            _balance_of(known),
            txs=[self._transaction_json_of(one, call, page) for one in placed],
            hasMore=True if len(entries) > limit else msgspec.UNSET,
            **_coverage_fields_of([known]),
        )

    # --- transactions ---

    async def transaction(self, call: Call, asked: str) -> object:
        """Show a transaction of anybody's, and where it is proved to be."""
        placed = await self.frame.service.transactions.show(_txid_of(asked))
        page = _page_of(call.texts(), limit_name="limit")
        return self._transaction_json_of(placed, call, page)

    def _transaction_json_of(
        self, placed: PlacedTransaction, call: Call, page: objects.Page
    ) -> objects.TransactionJson:
        txid = placed.entry.txid
        page = msgspec.structs.replace(
            page, url=f"{call.url}/txs/{hex_of(txid)}", shows_hex=_is_true(call, "includeHex")
        )
        shows_confidence = _is_true(call, "includeConfidence")
        return objects.transaction_json_of(
            objects.place_fields_of(txid, _place_of(placed, shows_confidence=shows_confidence)),
            objects.contents_fields_of(placed.known, self.frame.network, page),
        )

    async def confidence(self, call: Call, asked: str) -> object:
        """Show how likely a transaction is to be confirmed."""
        placed = await self.frame.service.transactions.show(_txid_of(asked))
        state = placed.entry.state
        txid = hex_of(placed.entry.txid)
        return answers.ConfidenceJson(
            age_millis=max(0, round((self.clock() - placed.entry.seen_at) * 1000)),
            receive_count=state.seen_by if isinstance(state, Unconfirmed) else -1,
            confidence=placed.confidence,
            txhash=txid,
            txurl=f"{call.url}/txs/{txid}",
        )

    async def push(self, call: Call) -> Response:
        """Hand a signed transaction to the network."""
        asked = read_as(call.fields, PushRequest)
        try:
            raw = bytes.fromhex(asked.tx)
        except ValueError:
            raise RequestError("tx is not hex", code="bad-transaction") from None
        if not raw:
            raise RequestError("tx is missing", code="missing-parameter")
        pushed = await self.frame.service.transactions.push(raw)
        known = await self.frame.service.transactions.with_inputs_if_any(pushed)
        place = objects.PlaceJson(received_at=int(self.clock()), confirmations=0)
        page = objects.Page(url=f"{call.url}/txs/{hex_of(pushed.txid)}")
        shown = objects.transaction_json_of(
            objects.place_fields_of(pushed.txid, place),
            objects.contents_fields_of(known, self.frame.network, page),
        )
        return json_response({"tx": shown}, status=201)


def _is_true(call: Call, name: str) -> bool:
    return call.text(name).lower() in ("true", "1")


def _txid_of(text: str) -> Txid:
    try:
        return Txid(hash_from_hex(text))
    except ValueError:
        raise RequestError(f"transaction hash is {text[:70]!a}, want 64 hex digits", code="bad-hash") from None


def _ref_wish_of(parameters: Mapping[str, str]) -> answers.RefWish:
    def height(name: str) -> int | None:
        found = whole_number(parameters, name, default=-1, lowest=0, highest=MOST_HEIGHT)
        return None if found < 0 else found

    return answers.RefWish(
        limit=whole_number(parameters, "limit", default=DEFAULT_REFS, lowest=1, highest=MOST_REFS),
        before=height("before"),
        after=height("after"),
        confirmations=whole_number(parameters, "confirmations", default=0, lowest=0, highest=MOST_HEIGHT),
        is_unspent_only=parameters.get("unspentOnly", "").lower() in ("true", "1"),
    )


def _is_chosen(entry: LedgerEntry, wish: answers.RefWish, tip_height: int) -> bool:
    if isinstance(entry.state, GONE):
        return False
    height = entry.state.height if isinstance(entry.state, Confirmed) else -1
    confirmations = tip_height - height + 1 if isinstance(entry.state, Confirmed) else 0
    is_before = wish.before is None or height < wish.before
    is_after = wish.after is None or height > wish.after
    return is_before and is_after and confirmations >= wish.confirmations


def _page_of(parameters: Mapping[str, str], *, limit_name: str) -> objects.Page:
    def number(name: str) -> int:
        return whole_number(parameters, name, default=0, lowest=0, highest=MOST_INDEX)

    limit = whole_number(parameters, limit_name, default=objects.PAGE, lowest=1, highest=objects.MOST_PAGE)
    return objects.Page(first_input=number("instart"), first_output=number("outstart"), limit=limit)


def _place_of(placed: PlacedTransaction, *, shows_confidence: bool) -> objects.PlaceJson:
    state = placed.entry.state
    is_confirmed = isinstance(state, Confirmed)
    return objects.PlaceJson(
        received_at=placed.entry.seen_at if placed.block_time is None else min(placed.entry.seen_at, placed.block_time),
        confirmations=placed.confirmations,
        block_hash=hex_of(state.block_hash) if isinstance(state, Confirmed) else None,
        block_height=state.height if isinstance(state, Confirmed) else -1,
        block_index=state.position if isinstance(state, Confirmed) else -1,
        confirmed_at=placed.block_time,
        confidence=placed.confidence if shows_confidence and not is_confirmed else None,
        seen_by=state.seen_by if isinstance(state, Unconfirmed) else None,
        replaced_by=hex_of(state.by_txid) if isinstance(state, Replaced) else None,
    )


def _balance_of(known: KnownPayments) -> answers.BalanceJson:
    entries = known.payments.entries.values()
    return answers.balance_json_of(entries, unproved_spent_sat=_unproved_spent_sat_of([known]))


def _unproved_spent_sat_of(known: Iterable[KnownPayments]) -> int:
    return sum(one.payments.unproved_spent_sat for one in known)


def _coverage_fields_of(known: Iterable[KnownPayments]) -> dict[str, int]:
    return answers.coverage_fields_of((one.coverage.history_from, one.coverage.unproved_sat) for one in known)
