"""What happens to addresses on a made-up chain: it is the truth that accounts are compared with."""

from random import Random

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Transaction, parse_transaction
from lightipn.chain.verifier import Confirmed, Place, Unconfirmed
from lightipn.errors import RequestError
from lightipn.ledger.entries import COINBASE_MATURITY_BLOCKS
from lightipn.simulator.blocks import SimulatedChain
from tests.store.rows import regtest_address

ADDRESSES = [regtest_address(number) for number in range(4)]
SCRIPTS = {address.script for address in ADDRESSES}
OTHERS = regtest_address(99).script  # the miner, the thief, and whoever else is paid
HAPPENINGS = (
    *("pay", "pay", "pay", "pay two", "spend", "bump", "steal", "evict", "come back"),
    *("mine", "mine", "mine", "mine some", "mine for us", "reorg", "reorg", "reorg and drop", "reorg and drop"),
)


class Truth:
    """A chain on which our addresses are paid.

    Attributes:
        known: every transaction that ever stood.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.chain = SimulatedChain()
        self.chain.mine(8)
        self.known: dict[Txid, Transaction] = {}

    def happen(self, name: str) -> str:
        """Let one thing happen, and return what did; what cannot happen now does not."""
        chance, made_up = self._chance, self.chain
        ours = [txid for txid in made_up.mempool if self._pays_us(txid)]
        match name:
            case "pay":
                made_up.pay(self._script(), chance.randint(1_000, 10**7), rbf=chance.random() < 0.8)
            case "pay two":
                made_up.pay_many([(self._script(), chance.randint(1_000, 10**7)) for _ in range(2)])
            case "spend":
                self._spend()
            case "bump" if ours:
                made_up.replace(chance.choice(ours))
            case "steal" if ours:
                made_up.replace(chance.choice(ours), script=chance.choice([OTHERS, self._script()]))
            case "evict" if ours:
                made_up.evict(chance.choice(ours))
            case "come back":
                if not self._come_back():
                    return "refused"
            case _ if not self._happen_to_blocks(name):
                return ""
        self._note()
        return name

    def _happen_to_blocks(self, name: str) -> bool:
        chance, made_up = self._chance, self.chain
        match name:
            case "mine":
                made_up.mine(chance.choice([1, 1, 1, 2, 3, 7]))
            case "mine some":
                made_up.mine(include=[txid for txid in made_up.mempool if chance.random() < 0.5])
            case "mine for us":
                made_up.mine(pay_to=self._script())
                made_up.mine(chance.choice([1, 1, 1, COINBASE_MATURITY_BLOCKS - 2, COINBASE_MATURITY_BLOCKS]))
            case "reorg":
                made_up.reorg(chance.randint(1, 5), remine=chance.random() < 0.5)
            case "reorg and drop":
                depth = chance.randint(1, 3)
                lost = [txid for back in range(depth) for txid in made_up.block_txids(made_up.tip_height - back)[1:]]
                made_up.reorg(depth, drop=[txid for txid in lost if chance.random() < 0.5])
            case _:
                return False
        return True

    def _note(self) -> None:
        """Write down every transaction that stands: it may have to come back, or to be told of as a rival."""
        standing = [*self.chain.mempool]
        for height in range(self.chain.tip_height, 0, -1):
            if self.chain.block_txids(height)[0] in self.known:
                break
            standing += self.chain.block_txids(height)
        for txid in standing:
            if txid not in self.known:
                raw = self.chain.transaction(txid)
                assert raw is not None
                self.known[txid] = parse_transaction(raw)

    def _script(self) -> bytes:
        return self._chance.choice(ADDRESSES).script

    def _pays_us(self, txid: Txid) -> bool:
        return any(output.script in SCRIPTS for output in self.known[txid].outputs)

    def _spend(self) -> None:
        """Spend what one of our addresses was paid, with change to any of them, or to nobody of us."""
        held = self.chain.coins(self._chance.choice(ADDRESSES).scripthash)
        free = [coin for coin in held if coin.spent_by is None and coin.amount_sat > 5_000]
        if free:
            coin = self._chance.choice(free)
            change_to = self._chance.choice([None, self._script()])
            payee = self._chance.choice([OTHERS, self._script()])
            amount_sat = (
                coin.amount_sat * self._chance.choice([1, 3]) // 2
            )  # with a coin of somebody else's, or without
            self.chain.pay(payee, amount_sat, spend=[coin.outpoint], change_to=change_to)

    def _come_back(self) -> bool:
        """Have somebody send again what was gone; nobody takes it where its coins are spent, or are nowhere."""
        gone = [one for txid, one in self.known.items() if self.chain.transaction(txid) is None]
        gone = [one for one in gone if not any(spend.txid in {other.txid for other in gone} for spend in one.spends)]
        if not gone:
            return False
        try:
            self.chain.submit(self._chance.choice(gone).raw)
        except RequestError:
            return False
        return True

    def place_of(self, txid: Txid) -> Place:
        """Return where a transaction is now; how many servers hold a claim is anybody's guess."""
        height = self.chain.height_of(txid)
        if height is None:
            return Unconfirmed(self._chance.randint(1, 3))
        block = self.chain.block_at(height)
        return Confirmed(block.block_hash, height, block.txids.index(txid))

    def owed_to(self, number: int, depth: int) -> dict[Txid, tuple[int, bool, bool]]:
        """Return what each transaction adds to an address, whether that is deep enough, and whether in a block."""
        script = ADDRESSES[number].script
        truth = {}
        for claim in self.chain.history(ADDRESSES[number].scripthash):
            transaction = self.known[claim.txid]
            net_sat = sum(output.amount_sat for output in transaction.outputs if output.script == script)
            for spend in transaction.spends:
                parent = self.known.get(spend.txid)
                if parent is not None and parent.outputs[spend.index].script == script:
                    net_sat -= parent.outputs[spend.index].amount_sat
            if net_sat > 0:
                confirmations = 0 if claim.height is None else self.chain.tip_height - claim.height + 1
                needed = max(depth, 100) if transaction.is_coinbase else depth
                truth[claim.txid] = (net_sat, confirmations >= needed, confirmations > 0)
        return truth
