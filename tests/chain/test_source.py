"""The values that sources deliver."""

import dataclasses
import inspect
import typing

import pytest

from lightipn.chain.source import (
    ChainSource,
    MerkleBranch,
    Misbehaviour,
    RawTransaction,
    ScriptHashChanged,
    ServerState,
    SourceLost,
    TipChanged,
    Update,
)


def test_updates_are_compared_by_value() -> None:
    """Two updates with the same contents are equal and those of different servers are not."""
    tip = TipChanged(server="a", height=1, raw_header=bytes(80))
    assert tip == TipChanged(server="a", height=1, raw_header=bytes(80))
    assert tip != TipChanged(server="b", height=1, raw_header=bytes(80))


def test_branch_is_the_same_whoever_sent_it() -> None:
    """A branch is compared by what it proves; its sender is kept beside it, to be blamed where it is false."""
    branch = MerkleBranch(1, (bytes(32),), server="a")
    assert branch == MerkleBranch(1, (bytes(32),), server="b") == MerkleBranch(1, (bytes(32),))
    assert hash(branch) == hash(MerkleBranch(1, (bytes(32),)))
    assert branch.server == "a"
    assert branch != MerkleBranch(2, (bytes(32),), server="a")
    assert branch != MerkleBranch(1, (bytes(31),), server="a")


def test_bytes_of_a_transaction_belong_to_their_sender() -> None:
    """The same bytes of two servers are two answers: each is a witness of its own."""
    assert RawTransaction("a", b"raw") == RawTransaction("a", b"raw")
    assert RawTransaction("a", b"raw") != RawTransaction("b", b"raw")


def test_misbehaviour_is_reported_without_a_time() -> None:
    """Whoever reports a lie knows no clock; it is recorded with a time later."""
    found = Misbehaviour(server="a", kind="false-header", claim="c", contradiction="d")
    assert (found.raw, found.observed_at) == (b"", 0)


def test_server_is_neither_pinned_nor_banned_at_first() -> None:
    """What is known of a server that was never tried holds nothing for it and nothing against it."""
    state = ServerState(name="a.example:50002:s", verdict="connecting")
    assert (state.fingerprint, state.is_ca_signed, state.banned_until) == (None, False, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.banned_until = 1  # type: ignore[misc]  # what the test is about


def test_every_update_names_its_server() -> None:
    """Each kind of update says which server it came from, so that a lie has an author."""
    kinds = typing.get_args(Update)
    assert set(kinds) == {TipChanged, ScriptHashChanged, SourceLost}
    assert all("server" in kind.__dataclass_fields__ for kind in kinds)


def test_source_interface_delivers_no_conclusions() -> None:
    """No method of a source returns a proved place: conclusions belong to the verifier."""
    members = {name for name in vars(ChainSource) if not name.startswith("_")}
    returned = {name: str(typing.get_type_hints(getattr(ChainSource, name)).get("return")) for name in members}
    assert {"watch", "unwatch", "updates", "fetch_headers", "fetch_merkle_branch", "fetch_transaction"} <= members
    assert {"connected", "voices", "report", "demote", "servers"} <= members
    assert not [name for name, kind in returned.items() if "verifier" in kind or "Confirmed" in kind]


def test_every_fetched_proof_names_its_server_and_may_avoid_one() -> None:
    """What can be false comes with its sender, and can be asked of others: a liar does not stand in the way."""
    for method in (ChainSource.fetch_merkle_branch, ChainSource.fetch_transaction):
        answer = typing.get_type_hints(method)["return"]
        assert "server" in answer.__dataclass_fields__
        arguments = inspect.signature(method).parameters
        assert {"prefer", "avoid"} <= arguments.keys()
        assert arguments["avoid"].default == frozenset()
