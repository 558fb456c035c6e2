"""Hooks and wallets: path → fields → service → answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import json_response, route_of
from lightipn.bitcoin.address import parse_address
from lightipn.dialects.blockcypher import answers, wire
from lightipn.dialects.blockcypher.frame import BASE, DIALECT, Call, Frame
from lightipn.dialects.blockcypher.requests import HookRequest, WalletRequest, read_as
from lightipn.dialects.blockcypher.wire import Event, HookTerms
from lightipn.errors import RequestError
from lightipn.service.hooking import HookWish, ShownHook
from lightipn.service.wallets import ShownWallet


@dataclass(frozen=True, slots=True, kw_only=True)
class HookApi:
    """Hooks, wallets, and the key that webhooks are signed with."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Return the routes."""
        frame = self.frame
        return [
            *frame.routes("/hooks", {"POST": self.add, "GET": self.list}),
            *frame.routes("/hooks/{id}", {"GET": self.show, "DELETE": self.remove}),
            *frame.routes("/wallets", {"POST": self.add_wallet, "GET": partial(self.list_wallets, False)}),
            *frame.routes("/wallets/hd", {"POST": self.derive_wallet, "GET": partial(self.list_wallets, True)}),
            *frame.routes("/wallets/hd/{name}/addresses/derive", {"POST": self.derive}),
            *frame.routes("/wallets/hd/{name}/addresses", {"GET": partial(self.show_wallet, True)}),
            *frame.routes(
                "/wallets/hd/{name}",
                {"GET": partial(self.show_wallet, True), "DELETE": partial(self.remove_wallet, True)},
            ),
            *frame.routes(
                "/wallets/{name}/addresses",
                {
                    "GET": partial(self.show_wallet, False),
                    "POST": self.add_addresses,
                    "DELETE": self.remove_addresses,
                },
            ),
            *frame.routes(
                "/wallets/{name}",
                {"GET": partial(self.show_wallet, False), "DELETE": partial(self.remove_wallet, False)},
            ),
            *[
                route_of(f"{BASE}/signing-key{slash}", frame.answering(self.signing_key), ["GET"])
                for slash in ("", "/")
            ],
        ]

    # --- hooks ---

    async def add(self, call: Call) -> Response:
        """Add a hook."""
        asked = read_as(call.fields, HookRequest)
        wish = await self._wish_of(asked, call.owner)
        made = await self.frame.service.hooks.add(wish, dialect=DIALECT, owner=call.owner)
        return json_response(_hook_json_of(made, call.token), status=201)

    async def _wish_of(self, asked: HookRequest, owner: str) -> HookWish:
        if not asked.event:
            raise RequestError("event is missing", code="missing-parameter")
        if not asked.url:
            raise RequestError("url is missing", code="missing-parameter")
        for name, value in (("hash", asked.hash), ("script", asked.script)):
            if value:
                raise RequestError(f"a hook about {name} is not possible here, want address", code="not-possible")
        terms = _terms_of(asked)
        wallet, address = asked.wallet_name, asked.address
        if address and not wallet and not self._is_address(address):
            wallet, address = await self._wallet_named(address, owner), ""
        if terms.event is Event.NEW_BLOCK:
            wallet = address = ""  # clients of the original always send one
        elif not wallet and not address:
            raise RequestError("address or wallet_name is missing", code="missing-parameter")
        elif wallet and address:
            raise RequestError("address and wallet_name are both there, want one", code="bad-request")
        key = asked.signkey.strip()
        return HookWish(
            url=asked.url,
            terms=wire.encode_terms(terms),
            address=address,
            wallet=wallet,
            private_key=key if key and key != "preset" else None,
        )

    def _is_address(self, text: str) -> bool:
        try:
            parse_address(text, self.frame.network)
        except RequestError:
            return False
        return True

    async def _wallet_named(self, text: str, owner: str) -> str:
        """Return a wallet's name that stands in place of an address; what is neither is a bad address."""
        try:
            return (await self.frame.service.wallets.show(text, owner=owner)).wallet.name
        except RequestError:
            parse_address(text, self.frame.network)  # which says what is wrong with it
            raise

    async def list(self, call: Call) -> Response:
        """List hooks."""
        found = await self.frame.service.hooks.list(owner=call.owner)
        shown = [one for one in found if wire.decode_terms(one.hook.terms).event is not Event.FORWARD]
        return json_response([_hook_json_of(one, call.token) for one in shown])

    async def show(self, call: Call) -> Response:
        """Show a hook."""
        return json_response(_hook_json_of(await self._hook_of(call), call.token))

    async def _hook_of(self, call: Call) -> ShownHook:
        """Return the hook that a path names; what calls back for a forward is none that its owner can manage."""
        found = await self.frame.service.hooks.show(call.parts["id"], owner=call.owner)
        if wire.decode_terms(found.hook.terms).event is Event.FORWARD:
            raise RequestError("there is no such hook", code="not-found", status_hint=404)
        return found

    async def remove(self, call: Call) -> Response:
        """Remove a hook."""
        found = await self._hook_of(call)
        await self.frame.service.hooks.remove(found.hook.hook_id, owner=call.owner)
        return Response(status_code=204)

    async def signing_key(self, request: Request) -> Response:
        """Show the public half of the service's own key; receivers need no API key for it."""
        self.frame.check_network(request)
        pem = await self.frame.service.hooks.public_key()
        return json_response({"algorithm": "sha256-ecdsa", "public_key": pem})

    # --- wallets ---

    async def add_wallet(self, call: Call) -> Response:
        """Make a wallet of given addresses."""
        asked = read_as(call.fields, WalletRequest)
        made = await self.frame.service.wallets.create(asked.name, asked.addresses, owner=call.owner, dialect=DIALECT)
        return json_response(wallet_json_of(made, call.token), status=201)

    async def derive_wallet(self, call: Call) -> Response:
        """Make a wallet of an extended public key."""
        asked = read_as(call.fields, WalletRequest)
        if not asked.extended_public_key:
            raise RequestError("extended_public_key is missing", code="missing-parameter")
        made = await self.frame.service.wallets.create_derived(
            asked.name, asked.extended_public_key, asked.subchain_indexes, owner=call.owner
        )
        return json_response(wallet_json_of(made, call.token), status=201)

    async def list_wallets(self, is_derived: bool, call: Call) -> Response:
        """List the names of wallets."""
        found = await self.frame.service.wallets.list(owner=call.owner, is_derived=is_derived)
        return json_response({"wallet_names": [wallet.name for wallet in found]})

    async def show_wallet(self, is_derived: bool, call: Call) -> Response:
        """Show a wallet with its addresses."""
        wallets = self.frame.service.wallets
        found = await wallets.show(call.parts["name"], owner=call.owner, is_derived=is_derived)
        used, is_zero = _choice_of(call, "used"), _choice_of(call, "zerobalance")
        if used is not None or is_zero is not None:
            entries = await wallets.entries_of(found)
            chosen = [
                one
                for one in found.addresses
                if used in (None, bool(entries[one.address]))
                and is_zero in (None, sum(entry.net_sat for entry in entries[one.address]) == 0)
            ]
            found = ShownWallet(wallet=found.wallet, addresses=chosen)
        return json_response(wallet_json_of(found, call.token))

    async def add_addresses(self, call: Call) -> Response:
        """Add addresses to a wallet."""
        asked = read_as(call.fields, WalletRequest)
        found = await self.frame.service.wallets.add_addresses(
            call.parts["name"], asked.addresses, owner=call.owner, dialect=DIALECT
        )
        return json_response(wallet_json_of(found, call.token))

    async def remove_addresses(self, call: Call) -> Response:
        """Take addresses out of a wallet; several in the query are separated by semicolons."""
        named = call.fields.get("address", call.fields.get("addresses", ()))
        fields = {"addresses": named.split(";") if isinstance(named, str) else named}
        asked = read_as(fields, WalletRequest)
        await self.frame.service.wallets.remove_addresses(call.parts["name"], asked.addresses, owner=call.owner)
        return Response(status_code=204)

    async def derive(self, call: Call) -> Response:
        """Derive addresses."""
        asked = read_as(call.fields, DeriveRequest)
        name = call.parts["name"]
        fresh = await self.frame.service.wallets.derive(
            name, owner=call.owner, dialect=DIALECT, subchain=asked.subchain_index, count=asked.count
        )
        shown = await self.frame.service.wallets.show(name, owner=call.owner, is_derived=True)
        return json_response(wallet_json_of(ShownWallet(wallet=shown.wallet, addresses=fresh), call.token), status=201)

    async def remove_wallet(self, is_derived: bool, call: Call) -> Response:
        """Forget a wallet."""
        await self.frame.service.wallets.remove(call.parts["name"], owner=call.owner, is_derived=is_derived)
        return Response(status_code=204)


class DeriveRequest(msgspec.Struct, kw_only=True, frozen=True):
    """How many addresses are asked for, and of which branch."""

    count: int = 1
    subchain_index: int | None = None


def _choice_of(call: Call, name: str) -> bool | None:
    """Read a truth value that may be left out."""
    return {"true": True, "false": False}.get(call.text(name).lower())


def _terms_of(asked: HookRequest) -> HookTerms:
    event = wire.event_of(asked.event)
    confirmations = wire.DEFAULT_CONFIRMATIONS if asked.confirmations is None else asked.confirmations
    if event is Event.CONFIRMATION and not 1 <= confirmations <= wire.MOST_CONFIRMATIONS:
        raise RequestError(
            f"confirmations is {str(confirmations)[:20]}, want 1 to {wire.MOST_CONFIRMATIONS}", code="bad-number"
        )
    confidence = wire.DEFAULT_CONFIDENCE if asked.confidence is None else asked.confidence
    if event is Event.CONFIDENCE and not 0 < confidence < 1:
        raise RequestError(f"confidence is {confidence}, want a number between 0 and 1", code="bad-number")
    match event:
        case Event.CONFIRMATION:
            return HookTerms(event, confirmations=confirmations)
        case Event.CONFIDENCE:
            return HookTerms(event, confidence=confidence)
        case _:
            return HookTerms(event)


def _hook_json_of(shown: ShownHook, token: str) -> answers.HookJson:
    hook = shown.hook
    return answers.hook_json_of(
        hook.hook_id,
        wire.decode_terms(hook.terms),
        url=hook.url,
        address=hook.address,
        wallet=shown.wallet,
        token=token,
        errors=hook.errors,
        has_own_key=hook.has_own_key,
        is_suspended=hook.suspended_at is not None,
    )


def wallet_json_of(shown: ShownWallet, token: str) -> answers.WalletJson | answers.DerivedWalletJson:
    """Return a wallet as the original shows it."""
    wallet = shown.wallet
    if not wallet.extended_key:
        return answers.WalletJson(
            name=wallet.name, addresses=[one.address for one in shown.addresses], token=token or msgspec.UNSET
        )
    branches: Sequence[int | None] = wallet.subchains or (None,)
    chains = [
        answers.ChainJson(
            chain_addresses=[
                answers.ChainAddressJson(address=one.address, path=_path_of(branch, one.index))
                for one in shown.addresses
                if one.subchain == branch
            ],
            index=msgspec.UNSET if branch is None else branch,
        )
        for branch in branches
    ]
    return answers.DerivedWalletJson(
        name=wallet.name,
        hd=True,
        extended_public_key=wallet.extended_key,
        chains=chains,
        token=token or msgspec.UNSET,
    )


def _path_of(branch: int | None, index: int | None) -> str:
    return f"m/{index}" if branch is None else f"m/{branch}/{index}"
