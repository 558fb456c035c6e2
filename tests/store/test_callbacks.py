"""Messages and attempts as the owners of the subscriptions see them."""

import pytest

from lightipn.bitcoin.hashes import hex_of
from lightipn.store import callbacks, outbox
from lightipn.store.callbacks import Call, Callback
from lightipn.store.database import Database
from tests.builders import entry_of, txid_of
from tests.store.each_dialect import HEARD
from tests.store.plain_dialect import answer_of
from tests.store.rows import NOW, claim, finish, only_delivery, pay, subscribe, subscribe_to_each

URL = "http://shop.example/paid?secret=1"


def page(
    db: Database,
    *,
    owner: str = "shop",
    dialect: str = "each",
    subscription_id: int | None = None,
    is_acknowledged: bool | None = None,
    offset: int = 0,
    limit: int = 100,
) -> list[Callback]:
    """Return a page of an owner's messages."""
    return callbacks.load_callbacks(
        db,
        owner=owner,
        dialect=dialect,
        subscription_id=subscription_id,
        is_acknowledged=is_acknowledged,
        offset=offset,
        limit=limit,
    )


def keys_of(found: list[Callback]) -> list[int]:
    """Return their keys."""
    return [callback.message_key for callback in found]


def told_once(db: Database, number: int, *, body: bytes | None = b"not yet", now: float = NOW, url: str = URL) -> None:
    """Have a payment of the address with this number told, by a subscription of its own."""
    subscribe_to_each(db, number, url=url)
    pay(db, number, entry_of(number), now=now)
    (taken,), _ = claim(db, now=now)
    finish(db, taken, body=body, now=now)


@pytest.fixture
def filled(db: Database) -> Database:
    """Return a database with six messages: 1, 2 and 4 are of one subscription, 3 is acknowledged, 5 another owner's.

    The last one is of another dialect.
    """
    subscribe_to_each(db, 0, url=URL)
    pay(db, 0, entry_of(1))
    pay(db, 0, entry_of(2))
    told_once(db, 3, body=HEARD, now=NOW - 9, url="http://other.example/")
    pay(db, 0, entry_of(4))
    subscribe_to_each(db, 5, url=URL, owner="other")
    pay(db, 5, entry_of(5))
    subscribe(db, 6, url=URL)
    pay(db, 6, entry_of(6))
    return db


def test_message_is_shown_with_whom_it_is_for(db: Database) -> None:
    """A message comes back whole, with its subscription, and with its last attempt once there is one."""
    subscription = subscribe_to_each(db, url=URL)
    pay(db, 0, entry_of(1))
    message_id = only_delivery(db).message_id
    for last_tried_at, now in ((None, NOW + 1.5), (NOW + 1.5, NOW + 100.5), (NOW + 100.5, NOW + 200.5)):
        loaded = outbox.load_message(db, 1, hex_of(txid_of(1)))
        assert loaded is not None
        assert loaded[1].message_id == message_id
        expected = Callback(
            message_key=loaded[0], message=loaded[1], subscription=subscription, last_tried_at=last_tried_at
        )
        assert callbacks.load_callback(db, owner="shop", dialect="each", message_id=message_id) == expected
        assert page(db) == [expected]
        (taken,), _ = claim(db, now=now)
        finish(db, taken, now=now)


def test_owners_see_only_their_own(filled: Database) -> None:
    """A page holds an owner's messages of one dialect, oldest first, and nobody else's."""
    assert keys_of(page(filled)) == [1, 2, 3, 4]
    assert keys_of(page(filled, owner="other")) == [5]
    assert keys_of(page(filled, dialect="plain")) == [6]
    assert page(filled, owner="nobody") == []


@pytest.mark.parametrize(("owner", "dialect"), [("other", "each"), ("shop", "plain"), ("nobody", "each")])
def test_another_owners_message_is_not_there(filled: Database, owner: str, dialect: str) -> None:
    """A message is found by its own owner, in its own dialect, and not by its id alone."""
    message_id = page(filled)[0].message.message_id
    assert callbacks.load_callback(filled, owner="shop", dialect="each", message_id=message_id) is not None
    assert callbacks.load_callback(filled, owner=owner, dialect=dialect, message_id=message_id) is None
    assert callbacks.load_callback(filled, owner="shop", dialect="each", message_id="no such id") is None


@pytest.mark.parametrize(
    ("subscription_id", "is_acknowledged", "expected"),
    [
        pytest.param(None, None, [1, 2, 3, 4], id="all"),
        pytest.param(None, True, [3], id="acknowledged"),
        pytest.param(None, False, [1, 2, 4], id="not acknowledged"),
        pytest.param(1, None, [1, 2, 4], id="of one subscription"),
        pytest.param(1, True, [], id="of one subscription, acknowledged"),
        pytest.param(2, False, [], id="of another, not acknowledged"),
        pytest.param(3, None, [], id="of somebody else's subscription"),
        pytest.param(99, None, [], id="of none"),
    ],
)
def test_page_is_filtered(
    filled: Database, subscription_id: int | None, is_acknowledged: bool | None, expected: list[int]
) -> None:
    """A page can be of one subscription, and of what is or is not acknowledged."""
    found = page(filled, subscription_id=subscription_id, is_acknowledged=is_acknowledged)
    assert keys_of(found) == expected


@pytest.mark.parametrize("state", ["withdrawn", "dead"])
def test_what_was_never_heard_is_not_acknowledged(db: Database, state: str) -> None:
    """A message that is told no more is not listed as acknowledged."""
    told_once(db, 0)
    db.execute("UPDATE message SET state = ?", [state])
    assert keys_of(page(db, is_acknowledged=False)) == [1]
    assert page(db, is_acknowledged=True) == []


def test_pages_follow_each_other_without_gaps(filled: Database) -> None:
    """Pages of any size, one after the other, are the whole list; behind the end there is nothing."""
    for limit in (1, 2, 3, 4, 100):
        pages = [keys_of(page(filled, offset=offset, limit=limit)) for offset in range(0, 5, limit)]
        assert [key for keys in pages for key in keys] == [1, 2, 3, 4]
    assert page(filled, offset=4) == []


# --- calls -------------------------------------------------------------------------------------------------------


def calls(db: Database, *, url: str = URL, owner: str = "shop", dialect: str = "each", limit: int = 100) -> list[Call]:
    """Return the attempts of an owner's URL."""
    return list(callbacks.load_calls(db, owner=owner, dialect=dialect, url=url, limit=limit))


def test_calls_are_shown_oldest_first(db: Database) -> None:
    """Every attempt that has ended is shown with its answer, whatever it came to; one under way is not."""
    told_once(db, 1, body=None, now=NOW + 0.5)
    told_once(db, 2, body=b"not yet", now=NOW + 1.5)
    told_once(db, 3, body=HEARD, now=NOW + 2.5)
    subscribe_to_each(db, 4, url=URL)
    pay(db, 4, entry_of(4), now=NOW + 3.5)
    (taken,), _ = claim(db, now=NOW + 3.5)
    expected = [
        Call(url=URL, called_at=NOW + 0.5, answer=b"", status=None),
        Call(url=URL, called_at=NOW + 1.5, answer=b"not yet", status=200),
        Call(url=URL, called_at=NOW + 2.5, answer=HEARD, status=200),
    ]
    assert calls(db) == expected
    finish(db, taken, answer=answer_of(b"oops", status=500))
    assert calls(db) == [*expected, Call(url=URL, called_at=NOW + 3.5, answer=b"oops", status=500)]


def test_newest_calls_are_shown_where_there_are_many(db: Database) -> None:
    """A limit leaves the oldest calls out."""
    for number in range(4):
        told_once(db, number, now=NOW + number)
    assert [call.called_at for call in calls(db, limit=2)] == [NOW + 2, NOW + 3]


def test_calls_are_of_exactly_that_url(db: Database) -> None:
    """Neither another spelling of a URL nor a part of it is the URL that was registered."""
    told_once(db, 1)
    for url in ("http://shop.example/paid", "http://shop.example/paid?secret=2", f"{URL}/", URL.upper(), "%"):
        assert calls(db, url=url) == []


def test_calls_are_the_owners_own(db: Database) -> None:
    """Two owners with one URL see each their own calls, in each dialect their own."""
    told_once(db, 1)
    subscribe_to_each(db, 2, url=URL, owner="other")
    subscribe(db, 3, url=URL)
    pay(db, 2, entry_of(2), now=NOW + 1)
    pay(db, 3, entry_of(3), now=NOW + 2)
    for taken in claim(db, now=NOW + 2)[0]:
        finish(db, taken, body=HEARD, now=NOW + 2)
    assert [call.answer for call in calls(db)] == [b"not yet"]
    assert len(calls(db, owner="other")) == len(calls(db, dialect="plain")) == 1
    assert calls(db, owner="nobody") == []
