"""From the first server's push to the IPN's arrival at the shop, in milliseconds, commits included.

    python -m tests.bench.latency [--payments 40] [--servers 1]

A second session of the benchmark's own subscribes to the same scripthashes at the same ElectrumX; the push it receives
is the start of the clock, the arrival of the IPN's request at the shop the end. Each payment is made alone, with a
pause: ElectrumX holds back what follows within a second, and the service's last question about a block comes half a
second after it.

With ``--servers N`` there are N ElectrumX on one bitcoind and two services: one on the first server, and one on all of
them, whose clock starts with the first push of any. Payments go to them in turn, so both are measured in one run, and
the ratios of the second over the first are printed. What is more with several servers is that a payment must be held by
two of them before it is told.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.regtest.electrum_link import ElectrumLink
from tests.regtest.nodes import Bitcoind, ElectrumX, open_bitcoind, open_electrumx
from tests.regtest.shop import Shop, open_shop
from tests.service_process import ServiceProcess, open_service

PAUSE_S = 2.0
DEADLINE_S = 20.0
AMOUNT_SAT = 100_000
AMOUNT_TEXT = "0.001"
MOMENTS = ("unconfirmed", "confirmed")


@dataclass(slots=True)
class Pushes:
    """When each server pushed the status of a scripthash for the last time.

    Args:
        at: (place of the server, scripthash in hex) → ``time.monotonic``.
    """

    at: dict[tuple[int, str], float] = field(default_factory=dict)
    bell: trio.Event = field(default_factory=trio.Event)

    async def listen(self, place: int, link: ElectrumLink) -> None:
        """Note the pushes of one server, for ever."""
        while True:
            notice = await link.receive_notification()
            self.at[place, notice["params"][0]] = time.monotonic()
            self.bell.set()
            self.bell = trio.Event()

    async def wait_first(self, servers: int, scripthash: str, after: float) -> float:
        """Return when the first of so many servers pushed a scripthash after a moment."""
        with trio.fail_after(DEADLINE_S):
            while True:
                pushed = [self.at.get((place, scripthash), 0.0) for place in range(servers)]
                if times := [pushed_at for pushed_at in pushed if pushed_at > after]:
                    return min(times)
                await self.bell.wait()


@dataclass(slots=True)
class Course:
    """A service that is measured.

    Args:
        servers: it is on so many of the servers, from the first on.
        latencies: in milliseconds, by the moment.
    """

    service: ServiceProcess
    servers: int
    latencies: dict[str, list[float]] = field(default_factory=lambda: {moment: [] for moment in MOMENTS})


async def measure_one(bitcoind: Bitcoind, course: Course, pushes: Pushes, shop: Shop, address: str) -> None:
    """Pay an address and mine the payment, and note how long after each push the shop was told."""
    scripthash = await bitcoind.scripthash(address)
    for moment in MOMENTS:
        await trio.sleep(PAUSE_S)
        began = time.monotonic()
        if moment == "unconfirmed":
            await bitcoind.send(address, AMOUNT_SAT)
        else:
            await bitcoind.mine(1)
        pushed_at = await pushes.wait_first(course.servers, scripthash, began)
        request = await shop.wait_for(
            lambda r, moment=moment: r.form.get("address") == address and r.form.get(moment) == AMOUNT_TEXT, DEADLINE_S
        )
        course.latencies[moment].append((request.arrived_at - pushed_at) * 1000)


async def measure(
    bitcoind: Bitcoind, servers: Sequence[ElectrumX], courses: Sequence[Course], shop: Shop, payments: int
) -> None:
    """Fill the latencies of every course, a payment of each in turn."""
    pushes = Pushes()
    addresses = {course.servers: [await bitcoind.new_address() for _ in range(payments)] for course in courses}
    for course in courses:
        for address in addresses[course.servers]:
            await course.service.subscribe(address, f"{shop.url}/{address}", max_confirms=1)
    scripthashes = [await bitcoind.scripthash(address) for each in addresses.values() for address in each]
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for place, server in enumerate(servers):
            link = await stack.enter_async_context(server.open_link())
            await link.request_all("blockchain.scripthash.subscribe", scripthashes)
            nursery.start_soon(pushes.listen, place, link)
        for number in range(payments):
            for course in courses:
                await measure_one(bitcoind, course, pushes, shop, addresses[course.servers][number])
        nursery.cancel_scope.cancel()


def percentile_99(latencies: Sequence[float]) -> float:
    """Return the 99th percentile; of few values the greatest."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def report(courses: Sequence[Course]) -> None:
    """Print the median, the 99th percentile and the extremes, and how the last course compares with the first."""
    for moment in MOMENTS:
        for course in courses:
            found = course.latencies[moment]
            print(
                f"{moment:<12} servers={course.servers} n={len(found)} p50={statistics.median(found):.1f} ms"
                f" p99={percentile_99(found):.1f} ms min={min(found):.1f} ms max={max(found):.1f} ms"
            )
        one, several = courses[0].latencies[moment], courses[-1].latencies[moment]
        if len(courses) > 1:
            print(
                f"{moment:<12} ratio {courses[-1].servers} servers over 1:"
                f" p50 {statistics.median(several) / statistics.median(one):.2f}"
                f" p99 {percentile_99(several) / percentile_99(one):.2f}"
            )


async def main(payments: int, servers: int) -> None:
    """Run the benchmark."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bitcoind = await stack.enter_async_context(open_bitcoind(folder / "bitcoind"))
        running = [
            await stack.enter_async_context(open_electrumx(bitcoind, folder / f"electrumx-{place}"))
            for place in range(servers)
        ]
        shop = await stack.enter_async_context(open_shop())
        courses = []
        for count in sorted({1, servers}):
            options = {
                "LIGHTIPN_NETWORK": "regtest",
                "LIGHTIPN_ELECTRUM_SERVERS": ",".join(server.url for server in running[:count]),
                "LIGHTIPN_ELECTRUM_CONNECTIONS": str(count),
                "LIGHTIPN_ELECTRUM_REDUNDANCY": str(count),
            }
            service = await stack.enter_async_context(open_service(folder / f"lightipn-{count}", options))
            courses.append(Course(service, count))
        await measure(bitcoind, running, courses, shop, payments)
        for course in courses:
            assert await course.service.stop() == 0
    report(courses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payments", type=int, default=40)
    parser.add_argument("--servers", type=int, default=1)
    arguments = parser.parse_args()
    trio.run(main, arguments.payments, arguments.servers)
