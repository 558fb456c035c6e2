"""What a client of the callback dialect does, and what its tests agree on."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from lightipn.bitcoin.address import Address
from tests.builders import confirmed, entry_of
from tests.dialects.rig import ADDRESS, TIP, Caller
from tests.store.rows import regtest_address

URL = "https://shop.example/post/url?order=7"
RETRIES = 3
PERIOD_S = 120
CREATED = "2023-11-14T22:13:20"  # SEEN_AT
IN_30_DAYS = "2023-12-14T22:13:20"
WISH = {"address": ADDRESS.text, "callback_url": URL}
UNKNOWN_ID = "51253edb-1652-4907-b4dc-934bccfe2dbe"

OpenCaller = Callable[..., AbstractAsyncContextManager[Caller]]


async def paid(caller: Caller, *numbers: int, address: Address = ADDRESS) -> None:
    """Have an address paid after the tip at which the test subscribed, in the next block."""
    entries = [entry_of(number, state=confirmed(TIP + 1)) for number in numbers]
    await caller.pay(*entries, address=address, tip_height=TIP + 1)


async def one_callback(caller: Caller) -> str:
    """Subscribe, have the address paid once, and return the callback's id."""
    await caller.call("POST", "/subscription", json=WISH)
    await paid(caller, 1)
    (found,) = (await caller.call("GET", "/callback"))["callbacks"]
    return str(found["id"])


async def subscribe_many(caller: Caller, count: int) -> None:
    """Subscribe to so many addresses."""
    for number in range(count):
        await caller.call("POST", "/subscription", json=WISH | {"address": regtest_address(number).text})


async def walk(caller: Caller, path: str, name: str) -> list[list[int]]:
    """Follow the links to the last page, and back to the first; return the ids page by page."""
    pages, links = [], []
    following: str | None = path
    while following:
        page = await caller.call("GET", following)
        assert list(page) == [name, "paging"]
        assert list(page["paging"]) == ["prev", "next"]
        pages.append([item["id"] for item in page[name]])
        links.append(following)
        following = page["paging"]["next"]
    before = page["paging"]["prev"]
    for ids in reversed(pages[:-1]):
        page = await caller.call("GET", before)
        assert [item["id"] for item in page[name]] == ids
        before = page["paging"]["prev"]
    assert before is None
    return pages
