"""One random history of accounts: payments and blocks come, go and come back, and are told late, twice or half.

A made-up chain is the truth. What the service is told of it is worked into a database as the tracker does it, in any
order, with stale repeats, and the database is closed and opened between any two of these. In the end all is told, and
what the accounts must hold is added up from the chain alone.
"""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.header import parse_header
from lightipn.chain.headers import ChainDelta
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger import rules
from lightipn.ledger.accounts import DepositStatus
from lightipn.store import accounts, chain, deposits, ledger, movements, reviews
from lightipn.store.database import Database
from lightipn.store.migrations import migrations
from lightipn.tracker.recording import record_delta
from tests.ledger.steps import fact, verified
from tests.store.account_rows import account_in, book, flaws_in, open_account
from tests.store.account_truth import ADDRESSES, HAPPENINGS, Truth
from tests.store.rows import NOW, POLICIES
from tests.store.tips import connect, wake

TELLINGS = (
    *("keep up", "keep up", "keep up", "keep up", "follow", "follow some", "absorb", "absorb part"),
    *("lose", "deny", "repeat", "repeat", "add an address", "book", "open anew"),
)
Work = Callable[[Database], None]


@dataclass(slots=True, kw_only=True)
class Till:
    """An account of the history.

    Args:
        numbers: of its addresses so far.
        later: of those that it gets later.
        booked: what its owner booked, by reference.
    """

    owner: str
    name: str
    depth: int
    numbers: list[int]
    later: list[int]
    booked: dict[str, int] = field(default_factory=dict)


def tills_of(chance: Random) -> list[Till]:
    """Draw three accounts of two owners; each owner's have their own addresses."""
    numbers = range(len(ADDRESSES))
    first, second = chance.sample(numbers, len(numbers)), chance.sample(numbers, 2)

    def till(owner: str, name: str, numbers: list[int]) -> Till:
        known = chance.randint(0, len(numbers))
        depth = chance.choice([1, 2, 2, 2, 3, 6])
        return Till(owner=owner, name=name, depth=depth, numbers=numbers[:known], later=numbers[known:])

    return [till("shop", "a", first[:2]), till("shop", "b", first[2:]), till("other", "a", second)]


class Books:
    """Accounts in a file, the chain that they are about, and everything that ever happened on it.

    Attributes:
        counts: what happened, and what moved, how often.
    """

    def __init__(self, template: Path, path: Path, chance: Random) -> None:
        shutil.copyfile(template, path)
        self._path = path
        self._chance = chance
        self.db = self._open()
        self.truth = Truth(chance)
        self.chain = self.truth.chain
        self.tills = tills_of(chance)
        self.counts: Counter[str] = Counter()
        self._done: list[Work] = []

        def found(db: Database) -> None:
            for till in self.tills:
                open_account(db, *till.numbers, name=till.name, owner=till.owner, depth=till.depth)
            for address in ADDRESSES[::2]:  # somebody else watches them anyway
                ledger.add_script(db, address)

        self._commit(found)
        self._done.clear()

    # --- the process ---

    def _open(self) -> Database:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = MEMORY")  # a process that dies is played, not a machine that does
        connection.execute("PRAGMA synchronous = OFF")
        return Database(connection, execute_plugins=False)

    def open_anew(self) -> None:
        """End the process, whatever it is in the middle of, and start another."""
        self.db.conn.close()
        self.db = self._open()

    def close(self) -> None:
        """End the history."""
        self.db.conn.close()

    def _commit(self, work: Work) -> None:
        self.db.conn.execute("BEGIN IMMEDIATE")
        work(self.db)
        self.db.conn.execute("COMMIT")
        self._done.append(work)

    def tell(self, work: Work) -> None:
        """Work something in; now and then the process dies before that is on disk, and nobody tells it again."""
        if self._chance.random() < 0.07:
            self.counts["died"] += 1
            self.db.conn.execute("BEGIN IMMEDIATE")
            work(self.db)
            self.open_anew()
            return
        self._commit(work)

    # --- what is told of it ---

    def told(self, name: str) -> None:
        """Tell the service one thing; what cannot be told now is not."""
        chance, number = self._chance, self._chance.randrange(len(ADDRESSES))
        self.counts[name] += 1
        match name:
            case "follow":
                self.tell(self._following(self.chain.tip_height))
            case "follow some":
                self.tell(self._following(chance.randint(0, self.chain.tip_height)))
            case "absorb":
                self.tell(self._absorbing(number))
            case "keep up":
                self.tell(self._following(self.chain.tip_height))
                for one in range(len(ADDRESSES)):
                    self.tell(self._absorbing(one))
            case "absorb part":
                self.tell(self._absorbing(number, share=chance.random(), hidden=chance.random()))
            case "lose":
                self.tell(self._losing(number))
            case "deny":
                self.tell(self._denying(number))
            case "repeat":
                self.tell(chance.choice(self._done or [wake_all]))
            case "add an address":
                self._add_address(chance.choice(self.tills))
            case "book":
                self._book(chance.choice(self.tills))
            case _:
                assert name == "open anew"
                self.open_anew()

    def _following(self, height: int) -> Work:
        """Follow the chain as it is now up to a height, or whole where that is a reorg."""
        headers = [self.chain.header_at(at) for at in range(self.chain.tip_height + 1)]

        def follow(db: Database) -> None:
            tip_height = fork_height = chain.load_tip_height(db)
            if tip_height >= len(headers) - 1:
                return  # it has no more work than ours
            stored = {at: chain.load_block(db, at) for at in range(1, tip_height + 1)}
            while fork_height > 0 and (found := stored[fork_height]) is not None and found[1] != headers[fork_height]:
                fork_height -= 1
            last = height if fork_height == tip_height else len(headers) - 1
            if last > fork_height:
                left = [block for at in range(fork_height + 1, tip_height + 1) if (block := stored[at]) is not None]
                delta = ChainDelta(
                    fork_height=fork_height,
                    disconnected=tuple(parse_header(block[1]) for block in left),
                    connected=tuple(parse_header(raw) for raw in headers[fork_height + 1 : last + 1]),
                )
                take_in(db, delta)

        return follow

    def _absorbing(self, number: int, *, share: float = 1.0, hidden: float = 0.0) -> Work:
        """Absorb the history that an address has now.

        Args:
            share: how much of it is proved at this time.
            hidden: how much of it the server does not list.
        """
        listed = [claim.txid for claim in self.chain.history(_scripthash(number)) if self._chance.random() >= hidden]
        facts = [
            (self.truth.known[txid], self.truth.place_of(txid)) for txid in listed if self._chance.random() < share
        ]

        def absorb(db: Database) -> None:
            payments = ledger.load_payments(db, _scripthash(number))
            if payments is None:
                return
            held = [
                (one, place)
                for one, place in facts
                if not isinstance(place, Confirmed) or chain.load_block_hash(db, place.height) == place.block_hash
            ]
            delta = rules.absorbed(payments, verified(payments, held), now=NOW, listed=set(listed))
            record_delta(db, POLICIES, payments, delta, now=NOW)

        return absorb

    def _losing(self, number: int) -> Work:
        """Look for what became of unconfirmed payments that are nowhere: a rival stands, or nobody knows them."""
        standing = {txid: one for txid, one in self.truth.known.items() if self.chain.transaction(txid) is not None}
        rivals = {spend: one for one in standing.values() if not one.is_coinbase for spend in one.spends}
        places = {txid: self.truth.place_of(txid) for txid in standing}

        def lose(db: Database) -> None:
            for txid in sorted(_unconfirmed_in(db, number) - standing.keys()):
                payments = ledger.load_payments(db, _scripthash(number))
                assert payments is not None
                if payments.entries[txid].is_coinbase:
                    continue  # nobody lists it, and nobody is asked for it
                found = [rivals[spend] for spend in payments.entries[txid].spends if spend in rivals]
                place = places[found[0].txid] if found else None
                if isinstance(place, Confirmed) and chain.load_block_hash(db, place.height) != place.block_hash:
                    continue
                if found:
                    delta = rules.replaced(payments, txid, fact(found[0], place), now=NOW)
                else:
                    delta = rules.dropped(payments, txid, denied_by=2, now=NOW)
                record_delta(db, POLICIES, payments, delta, now=NOW)

        return lose

    def _denying(self, number: int) -> Work:
        """Have all servers deny an unconfirmed payment for a while, though it stands."""
        lot = self._chance.random()

        def deny(db: Database) -> None:
            held = sorted(_unconfirmed_in(db, number))
            if held:
                payments = ledger.load_payments(db, _scripthash(number))
                assert payments is not None
                delta = rules.dropped(payments, held[int(lot * len(held))], denied_by=2, now=NOW)
                record_delta(db, POLICIES, payments, delta, now=NOW)

        return deny

    def _add_address(self, till: Till) -> None:
        if not till.later:
            return
        number = till.later.pop()
        till.numbers.append(number)

        def add(db: Database) -> None:
            account = account_in(db, name=till.name, owner=till.owner)
            accounts.add_address(db, account, ADDRESSES[number], index=None, hook_ids=(), now=NOW)

        self._commit(add)
        self._done.pop()  # the service refuses an address that is there

    def _book(self, till: Till) -> None:
        reference = f"r-{self._chance.randrange(4)}"
        amount_sat = till.booked.get(reference, self._chance.randint(-(10**7), 10**6))
        till.booked[reference] = amount_sat
        account_id = account_in(self.db, name=till.name, owner=till.owner).account_id
        self._commit(lambda db: book(db, account_id, amount_sat, reference))

    # --- the end ---

    def tell_all(self) -> None:
        """Tell everything that is so now, in any order but for the chain, which comes first."""
        for till in self.tills:
            while till.later:
                self._add_address(till)
        self._commit(self._following(self.chain.tip_height))
        for _ in range(2):
            works = [make(number) for number in range(len(ADDRESSES)) for make in (self._absorbing, self._losing)]
            self._chance.shuffle(works)
            for work in works:
                self._commit(work)

    def check(self) -> None:
        """Compare all accounts with the chain, which knows nothing of deposits and movements."""
        for till in self.tills:
            account = account_in(self.db, name=till.name, owner=till.owner)
            balance_sat, locked_sat = sum(till.booked.values()), 0
            wanted: dict[tuple[Txid, ScriptHash], DepositStatus] = {}
            for number in till.numbers:
                for txid, (net_sat, is_deep, is_mined) in self.truth.owed_to(number, till.depth).items():
                    status = DepositStatus.COMPLETED if is_deep else DepositStatus.AWAITING
                    wanted[txid, _scripthash(number)] = status
                    balance_sat += net_sat if is_deep else 0
                    locked_sat += net_sat if is_mined and not is_deep else 0
            self.counts["negative"] += balance_sat < 0
            sums = (account.balance_sat, account.locked_sat)
            assert sums == (balance_sat, locked_sat), f"{till} has {sums}, want {balance_sat, locked_sat}"
            found = {
                (one.deposit.txid, one.scripthash): one.deposit.status
                for one in deposits.load_deposits(self.db, account.account_id, limit=10_000)
                if one.deposit.amount_sat
            }
            standing = {key: status for key, status in found.items() if status is not DepositStatus.FAILED}
            assert standing == wanted, f"{till} has deposits {standing}, want {wanted}"
            for one in movements.load_movements(self.db, account.account_id, limit=10_000):
                self.counts[f"{one.movement.kind.value} {one.movement.status.value}"] += 1
        check_flaws(self.db)

    def movements(self) -> int:
        """Return how many movements there are."""
        return int(self.db.execute("SELECT count(*) FROM movement").fetchone()[0])


def _scripthash(number: int) -> ScriptHash:
    return ADDRESSES[number].scripthash


def _unconfirmed_in(db: Database, number: int) -> set[Txid]:
    payments = ledger.load_payments(db, _scripthash(number))
    entries = () if payments is None else payments.entries.values()
    return {entry.txid for entry in entries if isinstance(entry.state, Unconfirmed)}


def check_flaws(db: Database) -> None:
    """Audit all accounts; ``AssertionError`` where any is flawed."""
    flaws = flaws_in(db)
    assert not flaws, "; ".join(flaws)


def wake_all(db: Database) -> None:
    """Work our tip in once more."""
    wake(db)


def take_in(db: Database, delta: ChainDelta) -> None:
    """Follow a chain change as the tracker does: headers, what lost its block, and what became deep enough."""
    connect(db, delta)
    lost = ledger.load_entries_above(db, delta.fork_height)
    for scripthash, entry in lost:
        after, _ = rules.reverted(scripthash, entry)
        ledger.save_entries(db, scripthash, [after])
    for scripthash in dict.fromkeys(scripthash for scripthash, _ in lost):
        reviews.review_script(db, POLICIES, scripthash, tip_height=delta.tip_height, now=NOW)
    wake(db)


def make_template(path: Path) -> Path:
    """Make an empty database that histories begin with."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrations.apply(Database(connection, execute_plugins=False))
    return path


def run_history(template: Path, seed: int) -> Counter[str]:
    """Run one history, compare its end with the truth, and return what happened.

    Raises:
        AssertionError: an account is not what the chain says, or is flawed on the way; it names the seed.
    """
    chance = Random(seed)
    path = template.with_name(f"history-{seed}.db")
    books = Books(template, path, chance)
    try:
        for _ in range(chance.randint(3, 27)):
            books.counts[books.truth.happen(chance.choice(HAPPENINGS))] += 1
            for _ in range(chance.choice([0, 1, 2, 4])):
                books.told(chance.choice(TELLINGS))
                check_flaws(books.db)
        books.tell_all()
        books.check()
        count = books.movements()
        books.open_anew()
        books.tell_all()
        wake_all(books.db)
        books.check()
        assert books.movements() == count, "what was told again has moved something"
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        books.close()
        path.unlink()
    return books.counts
