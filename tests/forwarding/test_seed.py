"""The recovery words: what they stand for, and how they are kept."""

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST
from lightipn.errors import ConfigError
from lightipn.forwarding.seed import (
    addresses_of,
    check_words,
    new_words,
    path_of,
    read_words,
    secret_of,
    write_words,
)
from tests.builders import load_vectors

BIP39 = load_vectors("bip39")["rows"]
BIP84 = load_vectors("bip84")
WORDS = BIP84["mnemonic"]
TPUB_ROW = next(row for row in load_vectors("extended_keys")["rows"] if row["name"] == "BIP-84 testnet")


@pytest.mark.parametrize("words", [row[1] for row in BIP39], ids=[row[0][:8] + f"-{len(row[0]) * 4}" for row in BIP39])
def test_published_words_are_taken(words: str) -> None:
    """The words of BIP-39's vectors are right, however they are spaced and in whatever case."""
    assert check_words(words) == words
    assert check_words(f"  {words.upper().replace(' ', chr(9))}\r\n") == words


@pytest.mark.parametrize(("index", "wif", "address"), [(n, *row) for n, row in enumerate(BIP84["receiving"])])
def test_keys_and_addresses_are_those_of_bip84(index: int, wif: str, address: str) -> None:
    """On mainnet the input addresses and their keys are the receiving ones of the first BIP-84 account."""
    from embit import base58

    assert addresses_of(WORDS, MAINNET).address_at(index).text == address
    assert b"\x80" + secret_of(WORDS, MAINNET, index) + b"\x01" == base58.decode_check(wif)


def test_addresses_of_test_networks_are_those_of_bip84() -> None:
    """Elsewhere the coin type is 1, as the published testnet account has it; on regtest only the prefix differs."""
    from embit import bech32

    for name, network in NETWORKS.items():
        assert path_of(network) == f"m/84h/{0 if name == 'mainnet' else 1}h/0h"
    chain = addresses_of(WORDS, NETWORKS["testnet4"])
    assert chain.address_at(0).text == TPUB_ROW["first"]
    regtest = addresses_of(WORDS, REGTEST).address_at(0)
    assert regtest.script == chain.address_at(0).script
    assert regtest.text == bech32.encode("bcrt", 0, regtest.script[2:])


def test_supply_holds_no_private_key() -> None:
    """What the running service keeps of the words is public: no text of theirs, and no private key."""
    chain = addresses_of(WORDS, REGTEST)
    assert "prv" not in repr(chain)
    assert not any(word in repr(chain) for word in (WORDS, secret_of(WORDS, REGTEST, 0).hex()))


def test_new_words_are_twelve_and_never_the_same() -> None:
    """Fresh words are twelve, right, and different each time."""
    drawn = {new_words() for _ in range(20)}
    assert len(drawn) == 20
    assert {len(check_words(words).split()) for words in drawn} == {12}


WRONG = {
    "nothing": "",
    "eleven": " ".join(["abandon"] * 11),
    "wrong checksum": " ".join(["abandon"] * 12),
    "no such word": " ".join([*["abandon"] * 11, "bitcoin"]),
    "nine with a right checksum": " ".join(["abandon"] * 9),
    "another language": " ".join([*["ábaco"] * 11, "abierto"]),
    "twenty-seven": " ".join(["abandon"] * 27),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_wrong_words_are_refused_and_not_repeated(text: str) -> None:
    """A mistake is named without the words: they may be all but one of the right ones."""
    with pytest.raises(ConfigError) as caught:
        check_words(text)
    assert not {word for word in text.split() if word in str(caught.value).split()}


# --- the file ----------------------------------------------------------------------------------------------------


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The words come back, and from the beginning nobody else could read them, whatever the umask."""
    file = tmp_path / "seed"
    before = os.umask(0)
    try:
        write_words(file, WORDS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_words(file) == WORDS


def test_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    """No words are ever written over others, nor through a link."""
    file, link = tmp_path / "seed", tmp_path / "link"
    file.write_text("precious")
    link.symlink_to(tmp_path / "elsewhere")
    for taken in (file, link):
        with pytest.raises(ConfigError, match="is there already"):
            write_words(taken, WORDS)
    assert file.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610, 0o601, 0o620])
def test_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    """Any right of the group or of others is refused, and the error says what is wanted."""
    file = tmp_path / "seed"
    write_words(file, WORDS)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}, want 0600"):
        read_words(file)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    """Its owner may forbid himself to write it."""
    file = tmp_path / "seed"
    write_words(file, WORDS)
    file.chmod(mode)
    assert read_words(file) == WORDS


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe" + WORDS.encode(), WORDS.encode()[:-1], WORDS.encode() + b" abandon", WORDS.encode() * 100],
    ids=["empty", "no text", "cut", "a word too many", "endless"],
)
def test_file_without_words_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    """What is no recovery phrase is refused; neither error nor log repeats a word of it."""
    file = tmp_path / "seed"
    write_words(file, "")
    file.write_bytes(content)
    with capture_logs() as logs, pytest.raises(ConfigError) as caught:
        read_words(file)
    assert "abandon" not in f"{caught.value!r} {caught.value.__cause__!r} {logs}"


def test_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    """Who has no file yet is told how to get one; a folder is no file."""
    with pytest.raises(ConfigError, match="lightipn forwarding init makes one"):
        read_words(tmp_path / "seed")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_words(tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_words(tmp_path / "no" / "folder", WORDS)
