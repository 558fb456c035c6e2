"""``lightipn server``: what is held against servers, and trusting one anew."""

import pytest

from lightipn.chain.source import Misbehaviour, ServerState
from lightipn.store import evidence, servers
from lightipn.store.database import Database
from tests.cli.conftest import Run, write
from tests.store.rows import NOW

HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]:skull:\r\n\x9b5m\x7f\u202etxt"
BANNED = ServerState(
    name="a.example:50002:s", verdict="banned", reason="false-header", fingerprint=b"\x01" * 32, banned_until=NOW + 60
)
TWIN = ServerState(name="a.example:50001:t", verdict="connected")
OTHER = ServerState(name="[2001:db8::1]:100:s", verdict="connected")


def catch(*found: Misbehaviour) -> None:
    """Write what servers were caught with."""
    write(lambda db: evidence.save_evidence(db, found))


def caught(number: int = 0, *, claim: str = "header 7", raw: bytes = b"\x1b[31m") -> Misbehaviour:
    """Return a server's lie."""
    return Misbehaviour(
        server=f"s{number}.example:50002:s",
        kind="false-header",
        claim=claim,
        contradiction="its work is too little",
        raw=raw,
        observed_at=NOW,
    )


def know(db: Database) -> None:
    """Write three servers."""
    servers.save_servers(db, [BANNED, TWIN, OTHER], now=NOW)


def test_evidence_is_shown(run: Run) -> None:
    """Claim, contradiction and bytes of each lie are shown, newest first; the bytes as hex, never as text."""
    catch(caught(0), caught(1, raw=b"Please visit https://evil.example/ now"))
    done = run("server", "evidence")
    assert (done.code, done.err) == (0, "")
    _, first, second = done.out.splitlines()
    assert first.split()[0] == "2"
    assert first.rstrip().endswith(b"Please visit https:/".hex() + "...")
    assert "evil" not in done.out
    for part in ("2023-11-14T22:13:20Z", "s0.example:50002:s", "false-header", "header 7", "its work is too little"):
        assert part in second
    assert second.rstrip().endswith("1b5b33316d")


def test_evidence_is_json_for_programs(run: Run) -> None:
    """``--json`` gives all facts, the bytes whole."""
    catch(*(caught(number, raw=b"\x00" * 500) for number in range(3)))
    found = run("server", "evidence", "--json", "--limit", "2").json
    assert [item["id"] for item in found] == [3, 2]
    assert found[0] == {
        "id": 3,
        "observed_at": NOW,
        "server": "s2.example:50002:s",
        "kind": "false-header",
        "claim": "header 7",
        "contradiction": "its work is too little",
        "raw": "00" * 500,
    }


def test_no_evidence_is_said(run: Run) -> None:
    """Where nobody lied, people read a sentence and programs an empty list."""
    write(lambda db: None)
    assert run("server", "evidence").out == "No server was caught with anything.\n"
    assert run("server", "evidence", "--json").json == []


@pytest.mark.parametrize("words", [(), ("--json",)], ids=" ".join)
def test_evidence_does_not_steer_the_terminal(run: Run, words: tuple[str, ...]) -> None:
    """Whatever stands in a row is shown, never obeyed."""
    catch(caught(claim=HOSTILE))
    done = run("server", "evidence", *words)
    assert all(character.isprintable() or character == "\n" for character in done.out)
    if words:
        assert done.json[0]["claim"] == HOSTILE
    else:
        assert "[bold]:skull:" in done.out


def test_server_is_trusted_anew(run: Run) -> None:
    """A host means all its servers, a full name one; each is named, and nothing is held against it any more."""
    write(know)
    done = run("server", "trust", "a.example:50002:s")
    assert (done.code, done.out, done.err) == (0, "a.example:50002:s is trusted anew.\n", "")
    assert all(state.banned_until == 0 and state.fingerprint is None for state in write(servers.load_servers))
    assert write(servers.take_trust_changes) == ["a.example:50002:s"]
    done = run("server", "trust", "a.example")
    assert done.out == "a.example:50001:t is trusted anew.\na.example:50002:s is trusted anew.\n"
    assert run("server", "trust", "2001:db8::1").out == "[2001:db8::1]:100:s is trusted anew.\n"


@pytest.mark.parametrize("name", ["evil.example", "", HOSTILE])
def test_unknown_server_is_refused_with_those_known(run: Run, name: str) -> None:
    """A name that no server has is exit code 1, in one printable line with the names there are."""
    write(know)
    done = run("server", "trust", name)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.isprintable()
    assert (":skull:" in line) == (name == HOSTILE)  # not made a picture of
    assert line.endswith("known: [2001:db8::1]:100:s, a.example:50001:t, a.example:50002:s")
    assert BANNED in write(servers.load_servers)
