"""Runs ``lightipn`` so that it kills itself at one step of the forwarding path: a program, no module of the tests.

``KILLED_AT`` in the environment names the step; with ``:2`` behind it, the second time that it is reached. Nothing in
the product knows of this: functions are replaced here, before the service is built.
"""

import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

import trio

from lightipn.bitcoind.source import BitcoindSource
from lightipn.chain.verifier import Confirmed
from lightipn.cli import main
from lightipn.electrum.source import ElectrumSource
from lightipn.forwarding import follower
from lightipn.forwarding.purse import Purse
from lightipn.store import attempts, ledger, transfers
from lightipn.store.database import Database, Store
from lightipn.tracker.questions import Questions


def die() -> NoReturn:
    """End as in a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL does not return")


class Step:
    """The moment at which the process dies.

    Args:
        count: it dies at the so many-th time.
    """

    def __init__(self, count: int) -> None:
        self.left = count
        self.is_marked = False

    def reach(self) -> None:
        """Die, if this was the last time."""
        self.left -= 1
        if self.left == 0:
            die()

    # --- where ---

    def before(self, owner: Any, name: str) -> None:
        """Die before a function runs."""
        real = getattr(owner, name)

        def replaced(*arguments: Any, **named: Any) -> Any:
            self.reach()
            return real(*arguments, **named)

        setattr(owner, name, replaced)

    def after(self, owner: Any, name: str) -> None:
        """Die when a function has run; inside a transaction, so before its commit."""
        real = getattr(owner, name)

        def replaced(*arguments: Any, **named: Any) -> Any:
            value = real(*arguments, **named)
            self.reach()
            return value

        setattr(owner, name, replaced)

    def after_awaiting(self, owner: Any, name: str) -> None:
        """Die when an asynchronous function has run."""
        real = getattr(owner, name)

        async def replaced(*arguments: Any, **named: Any) -> Any:
            value = await real(*arguments, **named)
            self.reach()
            return value

        setattr(owner, name, replaced)

    def after_commit_of(self, owner: Any, name: str, is_it: Callable[..., bool] = lambda *_, **__: True) -> None:
        """Die when the transaction is on disk in which a function was called so."""
        real, transact = getattr(owner, name), Store.transact

        def replaced(*arguments: Any, **named: Any) -> Any:
            self.is_marked |= is_it(*arguments, **named)
            return real(*arguments, **named)

        async def transact_and_die(store: Store, work: Callable[[Database], Any]) -> Any:
            was_it = False

            def marked(db: Database) -> Any:
                nonlocal was_it
                self.is_marked = False
                value = work(db)
                was_it = self.is_marked
                return value

            value = await transact(store, marked)
            if was_it:
                self.reach()
            return value

        setattr(owner, name, replaced)
        Store.transact = transact_and_die  # type: ignore[method-assign]  # that is what this program is for


def spends_own(db: Any, scripthash: Any, entries: Any) -> bool:
    """Tell whether a transaction that spends from one of our addresses is written."""
    return any(entry.sent_sat for entry in entries)


def mines_own(db: Any, scripthash: Any, entries: Any) -> bool:
    """Tell whether such a transaction is written that is in a block."""
    return any(entry.sent_sat and isinstance(entry.state, Confirmed) for entry in entries)


def kill_once_seen(step: Step) -> None:
    """Die when our ledger knows the transaction, while whoever handed it over still waits for an answer."""
    real = Questions.broadcast

    async def broadcast(*arguments: Any) -> None:
        await real(*arguments)
        await trio.sleep_forever()

    Questions.broadcast = broadcast  # type: ignore[method-assign]  # that is what this program is for
    step.after_commit_of(ledger, "save_entries", spends_own)


def kill_before_mined(step: Step) -> None:
    """Die while it is written that the transaction is in a block."""
    real = ledger.save_entries

    def save_entries(db: Any, scripthash: Any, entries: Any) -> None:
        real(db, scripthash, entries)
        if mines_own(db, scripthash, entries):
            step.reach()

    ledger.save_entries = save_entries


def kill_once_handed_over(step: Step) -> None:
    """Die when the source has the transaction, whichever it is."""
    for source in (ElectrumSource, BitcoindSource):
        step.after_awaiting(source, "broadcast")


STEPS: dict[str, Callable[[Step], None]] = {
    "before it is signed": lambda step: step.before(Purse, "sign"),
    "signed": lambda step: step.after_awaiting(Purse, "sign"),
    "while it is stored": lambda step: step.after(transfers, "add_version"),
    "stored": lambda step: step.after_commit_of(transfers, "add_version"),
    "server has it": kill_once_handed_over,
    "broadcast": lambda step: step.after_awaiting(Questions, "broadcast"),
    "seen": kill_once_seen,
    "while it is recorded": lambda step: step.after(transfers, "save_broadcast"),
    "recorded": lambda step: step.after_commit_of(follower, "tell_passed_on"),
    "told": lambda step: step.before(attempts, "finish_attempt"),
    "while it is mined": kill_before_mined,
    "mined": lambda step: step.after_commit_of(ledger, "save_entries", mines_own),
    "while its depth is told": lambda step: step.after(follower, "tell_confirmations"),
    "depth told": lambda step: step.after_commit_of(follower, "tell_confirmations"),
}

if __name__ == "__main__":
    name, _, count = os.environ["KILLED_AT"].partition(":")
    STEPS[name](Step(int(count or 1)))
    main.app()
