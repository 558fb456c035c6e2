"""Stories for property tests: lists of things that happen to a made-up chain."""

import contextlib

from hypothesis import strategies as st

from lightipn.bitcoin.hashes import scripthash_of
from lightipn.bitcoin.transaction import AMBIGUOUS_BYTES, TxOutput
from lightipn.errors import RequestError
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from tests.simulator.readers import parsed

SCRIPTS = [forge.made_up_script(f"law {n}") for n in range(4)]
Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["mine", "mine", "pay", "pay", "pay", "spend", "spend", "replace", "evict", "reorg", "submit"]),
        st.integers(0, 10),
        st.integers(0, 3),
    ),
    max_size=25,
)


def do(chain: SimulatedChain, step: Step) -> None:
    """Do one of the things that can happen, where it can."""
    act, number, which = step
    mempool = [txid for txid in chain.mempool if len(chain.transaction(txid) or b"") != AMBIGUOUS_BYTES]
    unspent = [coin.outpoint for script in SCRIPTS for coin in chain.coins(scripthash_of(script)) if not coin.spent_by]
    match act:
        case "mine":
            chosen = None if number < 5 else mempool[: number - 5]
            chain.mine(which, include=chosen, pay_to=SCRIPTS[which])
        case "pay":
            chain.pay(SCRIPTS[which], 50_000 + number, rbf=number > 3, segwit=number % 2 == 0)
        case "spend" if unspent:
            outpoint = unspent[number % len(unspent)]
            chain.pay(SCRIPTS[which], 10_000 * number, spend=[outpoint], change_to=SCRIPTS[number % 4])
        case "replace" if mempool:
            chain.replace(mempool[number % len(mempool)], SCRIPTS[which] if number % 2 else None, 1 + number)
        case "evict" if mempool:
            chain.evict(mempool[number % len(mempool)])
        case "reorg" if chain.tip_height:
            depth = min(1 + which, chain.tip_height)
            drop = chain.block_txids(chain.tip_height)[:: number + 1]
            chain.reorg(depth, drop=drop, remine=number % 2 == 0)
        case "submit" if mempool:
            spends = parsed(chain, mempool[number % len(mempool)]).spends
            output = TxOutput(amount_sat=number + 1, script=SCRIPTS[which])
            with contextlib.suppress(RequestError):  # some signal no replaceability
                chain.submit(forge.payment_of(spends, [output], sequence=0xF0000000 + chain.version).raw)
