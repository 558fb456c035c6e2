"""All misbehaviours together: each is told, none is told by honest servers, and no combination breaks the server."""

import json
from collections import Counter
from dataclasses import fields
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of, scripthash_of
from lightipn.simulator.behaviour import HONEST_FIELDS, Behaviour
from lightipn.simulator.blocks import SimulatedChain
from lightipn.simulator.invention import InventedPayment
from lightipn.simulator.session import Session
from tests.simulator.readers import status_of_list
from tests.simulator.stories import SCRIPTS, Step, do, steps

NAMES = [hex_of(scripthash_of(script)) for script in SCRIPTS]
HISTORY = "blockchain.scripthash.get_history"
SUBSCRIBE = "blockchain.scripthash.subscribe"
# One value of each misbehaviour; ``hides`` is added when there is a txid. ``slow_drip`` is of the socket, a huge line
# is too huge to be told a hundred times.
ELSEWHERE = {"slow_drip", "huge_line"}
BOOLEANS = {field.name for field in fields(Behaviour) if field.type is bool} - HONEST_FIELDS - ELSEWHERE
SAMPLES: dict[str, Any] = {
    **dict.fromkeys(sorted(BOOLEANS), True),
    "wrong_history_height": -2,
    "stale_tip": 1,
    "low_work_chain": 2,
    "tip_inflated": 4,
    "invents": (
        InventedPayment(script=SCRIPTS[0], amount_sat=7),
        InventedPayment(script=SCRIPTS[1], amount_sat=8, height=2),
        InventedPayment(script=SCRIPTS[1], amount_sat=8, height=99),
    ),
}
LIMITS = {
    "batch_limit": 3,
    "max_batch_items": 30,
    "max_subs_per_ip": 2,
    "max_history": 1,
    "cost_soft_limit": 10,
    "cost_hard_limit": 1000,
    "max_protocol": "1.4",
}
# Beyond these, the status told is that of the history told.
BREAKS_STATUS = {"status_never_matches", "null_status", "history_too_large", "max_history", "garbage"}
BREAKS_STATUS |= {"stalls", "max_subs_per_ip", "cost_soft_limit", "cost_hard_limit"}


def behaviour_of(names: frozenset[str], chain: SimulatedChain) -> Behaviour:
    """Return a behaviour with these fields switched on."""
    values = {name: {**SAMPLES, **LIMITS}[name] for name in names if name != "hides"}
    if "hides" in names:
        values["hides"] = frozenset(chain.mempool[:1]) | {chain.block_txids(chain.tip_height)[0]}
    return Behaviour(**values)


class Talk:
    """A session, and what it said."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.said: list[bytes] = []
        self._ids = count(1)

    def ask(self, method: str, *params: object) -> Any:
        """Return the answer to a request; None where there is none that can be read."""
        request = {"id": next(self._ids), "method": method, "params": params}
        line = self.session.answer_line(json.dumps(request).encode())
        self.said.append(line[:1000])
        try:
            return json.loads(line).get("result")
        except ValueError:
            return None

    def ask_everything(self, chain: SimulatedChain) -> None:
        """Ask every question that could be of interest, also about what may be unknown."""
        self.ask("server.version", "test", ["1.4", "1.6"])
        for method in ("server.features", "server.banner", "server.ping", "mempool.get_fee_histogram", "nonsense"):
            self.ask(method)
        self.ask("blockchain.headers.subscribe")
        for height in range(chain.tip_height + 2):
            self.ask("blockchain.block.header", height)
        self.ask("blockchain.block.header", 0, 1)
        self.ask("blockchain.block.headers", 0, 2016)
        txids = set(chain.block_txids(chain.tip_height)) | set(chain.mempool)
        for name in NAMES:
            told = self.ask(HISTORY, name) or ()
            for method in ("subscribe", "get_mempool", "get_balance", "listunspent"):
                self.ask(f"blockchain.scripthash.{method}", name)
            for entry in told:
                self.ask("blockchain.transaction.get_merkle", entry["tx_hash"], max(entry["height"], 0))
                self.ask("blockchain.transaction.get", entry["tx_hash"])
        for txid in sorted(txids):
            self.ask("blockchain.transaction.get", hex_of(txid))
        self.ask("blockchain.transaction.id_from_pos", chain.tip_height, 0, True)
        self.said.append(self.session.answer_line(json.dumps([{"id": 1, "method": "server.ping"}] * 4).encode()))

    def hear(self) -> None:
        """Take the notices."""
        self.said.append(self.session.notices(None))


def told_in_a_story(names: frozenset[str]) -> list[bytes]:
    """Return all that a server with this behaviour says while the same things happen."""
    chain = SimulatedChain()
    chain.mine_ambiguous(SCRIPTS[2], 5000)
    chain.pay(SCRIPTS[0], 1)
    chain.pay(SCRIPTS[1], 2)
    chain.mine(2)
    replaced = chain.pay(SCRIPTS[1], 3)
    talk = Talk(Session(chain, behaviour_of(names, chain), Counter()))
    talk.ask_everything(chain)
    talk.hear()
    chain.replace(replaced, SCRIPTS[3])
    chain.mine(include=[])
    talk.hear()
    talk.ask_everything(chain)
    return talk.said


def test_every_misbehaviour_has_a_sample() -> None:
    """The samples cover every field that is no honest one."""
    names = {field.name for field in fields(Behaviour)}
    assert SAMPLES.keys() | ELSEWHERE | {"hides"} == names - HONEST_FIELDS


@pytest.mark.parametrize("name", [*SAMPLES, "hides"])
def test_every_misbehaviour_is_told(name: str) -> None:
    """Each misbehaviour alone makes a server say something that an honest one does not, and the same each time."""
    lying = told_in_a_story(frozenset({name}))
    assert lying != told_in_a_story(frozenset())
    assert lying == told_in_a_story(frozenset({name}))


names_of_lies = st.frozensets(st.sampled_from(sorted({*SAMPLES, *LIMITS, "hides"})), max_size=12)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, names_of_lies, names_of_lies)
def test_no_combination_breaks_the_server(story: list[Step], first: frozenset[str], second: frozenset[str]) -> None:
    """Whatever is combined, whatever happens and whenever it changes, every question has an answer or an error."""
    chain = SimulatedChain()
    chain.mine_ambiguous(SCRIPTS[2], 5000)
    session = Session(chain, behaviour_of(first, chain), Counter())
    talk = Talk(session)
    talk.ask("server.version", "test", "1.4")
    for number, step in enumerate(story):
        do(chain, step)
        if number == len(story) // 2:
            session.behave(behaviour_of(second, chain))
        talk.hear()
    session.behave(behaviour_of(second, chain))
    talk.ask_everything(chain)
    if not second & BREAKS_STATUS and not session.is_closing:
        for name in NAMES:
            assert talk.ask(SUBSCRIBE, name) == status_of_list(talk.ask(HISTORY, name))
