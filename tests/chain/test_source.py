"""The values that sources deliver."""

import typing

from lightipn.chain.source import ChainSource, MerkleBranch, ScriptHashChanged, SourceLost, TipChanged, Update


def test_updates_are_compared_by_value() -> None:
    """Two updates with the same contents are equal and those of different servers are not."""
    tip = TipChanged(server="a", height=1, raw_header=bytes(80))
    assert tip == TipChanged(server="a", height=1, raw_header=bytes(80))
    assert tip != TipChanged(server="b", height=1, raw_header=bytes(80))
    assert MerkleBranch(1, (bytes(32),)) == MerkleBranch(1, (bytes(32),))


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
    assert not [name for name, kind in returned.items() if "verifier" in kind or "Confirmed" in kind]
