"""What a shop of the receive dialect does, and what its tests agree on."""

import json
from typing import Any

from embit import base58, bip32

from lightipn.bitcoin.extended_key import parse_receive_chains
from lightipn.bitcoin.network import REGTEST
from lightipn.store import supplies
from lightipn.store.database import Database
from tests.builders import SEEN_AT, entry_of
from tests.dialects.rig import ADDRESS, SILENCE, Caller
from tests.store.plain_dialect import answer_of

ACCOUNT = bip32.HDKey.from_seed(bytes(range(64)), version=bytes.fromhex("04358394")).derive("m/84h/1h/0h")
TPUB = ACCOUNT.to_public().to_base58()
VPUB = str(base58.encode_check(bytes.fromhex("045f1cf6") + base58.decode_check(TPUB)[4:]))
TPRV = ACCOUNT.to_base58()
CALLBACK = "https://mystore.example?invoice_id=058921123&secret=ZzsMLGKe162CfA5EcG6j"
BASE = "/v2/receive"
WANTED = {"xpub": VPUB, "callback": CALLBACK}
BALANCE = {"addr": ADDRESS.text, "callback": CALLBACK, "onNotification": "KEEP", "op": "RECEIVE", "confs": 5}
BLOCKS = {"height": 500_000, "callback": CALLBACK, "onNotification": "DELETE"}
PLAIN = {"Content-Type": "text/plain"}
GAP_TOO_LARGE = {
    "message": "Problem with xpub",
    "description": "Gap between last used address and next address too large. This might make funds inaccessible.",
}


async def scanned(caller: Caller, key: str = VPUB, *, used: dict[str, int] | None = None) -> None:
    """Have a key looked at already.

    Args:
        used: the highest used index by kind of script.
    """
    _, chains = parse_receive_chains(key, REGTEST)

    def work(db: Database) -> None:
        for chain in chains:
            assert chain.kind is not None
            used_to = (used or {}).get(chain.kind.value, -1)
            supplies.add_supply(db, identity=chain.identity, kind=chain.kind.value, source=key, now=SEEN_AT)
            record = supplies.load_supply(db, chain.identity)
            assert record is not None
            supplies.save_scan(db, record.chain_id, scanned_to=used_to + 121, used_to=used_to, ahead=20)

    await caller.store.transact(work)


def address_at(index: int, key: str = VPUB) -> str:
    """Return the address with this index of a key's supply."""
    return parse_receive_chains(key, REGTEST)[0].address_at(index).text


async def every_spelling(caller: Caller, path: str, fields: dict[str, Any]) -> list[Any]:
    """Call with the fields in the query, in a form, and as JSON under both of its names; with and without a slash."""
    texts = {name: str(value) for name, value in fields.items()}
    answers = []
    for slash in ("", "/"):
        answers += [
            await caller.call("GET", path + slash, params=texts),
            await caller.call("POST", path + slash, params=texts),
            await caller.call("POST", path + slash, data=texts),
            await caller.call("POST", path + slash, json=fields),
            await caller.call("POST", path + slash, content=json.dumps(fields), headers=PLAIN),
        ]
    return answers


async def check_refused(caller: Caller, path: str, fields: dict[str, Any], *, reason: str, status: int = 400) -> None:
    """Check that a call is refused in the dialect's shape with a reason, as GET and as POST."""
    texts = {name: value for name, value in fields.items() if value is not None}
    for method, more in (("GET", {"params": texts}), ("POST", {"json": fields})):
        found, body = await caller.refusal(method, path, **more)
        assert (found, list(body)) == (status, ["message", "description"])
        assert reason in f"{body['message']}: {body['description']}"


async def called_twice(caller: Caller) -> None:
    """Have a given address paid, and the shop called twice: it hangs first, and then says no ``*ok*``."""
    await scanned(caller)
    await caller.call("GET", BASE, params=WANTED | {"key": caller.secret})
    await caller.pay(entry_of(1), address=parse_receive_chains(VPUB, REGTEST)[0].address_at(0))
    await caller.send(SILENCE)
    caller.now += 15
    await caller.send(answer_of(b"*bad*"))
