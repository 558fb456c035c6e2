"""Which histories are to be told, and when; sans-IO.

A script is *touched* when something of it may have changed. Its history is then read, and told if its status differs
from the one that was absorbed. Laws: a script that is being worked in is not told again before that is done; what
touches it meanwhile is not forgotten; a recheck tells it in any case, when its time has come.
"""

import math
from collections.abc import Iterable

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.chain.history import UNKNOWN, Status


class WatchBook:
    """Who watches what, and how far it is worked in. Times are on the caller's clock, in seconds."""

    def __init__(self) -> None:
        self.known: dict[ScriptHash, Status | None] = {}
        self._touched: dict[ScriptHash, None] = {}
        self._under_way: set[ScriptHash] = set()
        self._rechecks: dict[ScriptHash, float] = {}
        self._asked: set[ScriptHash] = set()  # whose recheck is due: told whatever was absorbed

    def watch(self, scripthash: ScriptHash, known_status: Status | None) -> bool:
        """Take a script up with what of it was absorbed; False if it is watched already."""
        if scripthash in self.known:
            return False
        self.known[scripthash] = known_status
        return True

    def unwatch(self, scripthash: ScriptHash) -> None:
        """Forget a script."""
        self.known.pop(scripthash, None)
        self._touched.pop(scripthash, None)
        self._rechecks.pop(scripthash, None)
        self._asked.discard(scripthash)
        self._under_way.discard(scripthash)

    def touch(self, scripthashes: Iterable[ScriptHash]) -> None:
        """Say that something of these scripts may have changed."""
        self._touched.update(dict.fromkeys(each for each in scripthashes if each in self.known))

    def absorbed(self, scripthash: ScriptHash, status: Status | None) -> None:
        """Take note that a history was worked in."""
        self._under_way.discard(scripthash)
        if scripthash in self.known:
            self.known[scripthash] = status

    def recheck(self, scripthash: ScriptHash, *, at: float) -> None:
        """Have a script told again from a time on, whatever was absorbed; an earlier time stands."""
        self._under_way.discard(scripthash)
        if scripthash in self.known:
            self.known[scripthash] = UNKNOWN
            self._rechecks[scripthash] = min(at, self._rechecks.get(scripthash, math.inf))

    def take(self, *, now: float, limit: int) -> list[ScriptHash]:
        """Return scripts whose histories are to be read now; at most ``limit`` are under way at a time."""
        due = [scripthash for scripthash, at in self._rechecks.items() if at <= now]
        for scripthash in due:
            del self._rechecks[scripthash]
        self._asked.update(due)
        self.touch(due)
        room = limit - len(self._under_way)
        taken: list[ScriptHash] = []
        for scripthash in self._touched:
            if len(taken) >= room:
                break
            if scripthash not in self._under_way:
                taken.append(scripthash)
        for scripthash in taken:
            del self._touched[scripthash]
        return taken

    def is_news(self, scripthash: ScriptHash, status: Status | None) -> bool:
        """Tell whether a history must be told; if so, it counts as under way until it is absorbed or rechecked."""
        if scripthash not in self.known or (self.known[scripthash] == status and scripthash not in self._asked):
            return False
        self._asked.discard(scripthash)
        self._under_way.add(scripthash)
        return True

    def next_recheck(self) -> float:
        """Return when the next recheck is due; infinity where none is."""
        return min(self._rechecks.values(), default=math.inf)
