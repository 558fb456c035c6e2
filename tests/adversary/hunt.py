"""Run thousands of random histories by hand: ``python -m tests.adversary.hunt --histories 10000 --seed 1``."""

import argparse
import logging
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from random import Random

import structlog
import trio
import trio.testing

from tests.adversary.histories import LIES, FalsehoodError, run_group

HISTORIES_PER_GROUP = 10


def main() -> int:
    """Run groups of histories, each with a seed of its own, and report what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the first group; each group takes the next")
    parser.add_argument("--lies", nargs="*", default=sorted(LIES), help="names of the lies to choose from")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--liars", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="with the service's log")
    arguments = parser.parse_args()
    if not arguments.verbose:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    groups = max(1, arguments.histories // HISTORIES_PER_GROUP)
    began, events, wrong = time.monotonic(), 0, 0
    for seed in range(arguments.seed, arguments.seed + groups):
        with tempfile.TemporaryDirectory() as folder:
            work = partial(
                run_group,
                Path(folder),
                Random(seed),
                name=f"seed {seed}",
                histories=min(HISTORIES_PER_GROUP, arguments.histories),
                lies=arguments.lies,
                servers=arguments.servers,
                liars=arguments.liars,
            )
            try:
                events += trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0))[0]
            except BaseExceptionGroup as group:
                found, others = group.split(FalsehoodError)
                if found is None or others is not None:
                    raise
                error: BaseException = found
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                wrong += 1
                print(error, flush=True)
            except FalsehoodError as error:
                wrong += 1
                print(error, flush=True)
    seeds = f"{arguments.seed} to {arguments.seed + groups - 1}"
    print(
        f"{arguments.liars} of {arguments.servers} servers lie: {groups * HISTORIES_PER_GROUP} histories,"
        f" seeds {seeds}, {events} events, {wrong} groups wrong, {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
