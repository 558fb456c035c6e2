"""The recovery words: made once, kept in a file that only its owner reads, and what is derived of them.

Input addresses are children of ``m/84h/COINh/0h/0`` (BIP-84; COIN is 0 on mainnet, 1 elsewhere): any wallet that takes
the words finds them. embit is imported when forwarding is used.
"""

import os
import secrets
import stat
from pathlib import Path
from typing import Any

from lightipn.bitcoin.extended_key import AddressChain, parse_address_chain
from lightipn.bitcoin.network import Network
from lightipn.errors import ConfigError

WORD_BYTES = 16  # 12 words
MAX_FILE_BYTES = 1000


def path_of(network: Network) -> str:
    """Return the path of the account key that the addresses are derived from."""
    return f"m/84h/{0 if network.name == 'mainnet' else 1}h/0h"


def new_words() -> str:
    """Draw twelve recovery words (BIP-39)."""
    from embit import bip39

    return str(bip39.mnemonic_from_bytes(secrets.token_bytes(WORD_BYTES)))


def check_words(text: str) -> str:
    """Return recovery words in their plain spelling.

    Raises:
        ConfigError: they are not 12 to 24 words of BIP-39 with a right checksum; they are not repeated.
    """
    from embit import bip39

    words = " ".join(text.lower().split())
    if len(words.split()) not in (12, 15, 18, 21, 24) or not bip39.mnemonic_is_valid(words):
        raise ConfigError(["the recovery words are not 12 to 24 words of the English list with a right checksum"])
    return words


def write_words(file: Path, words: str) -> None:
    """Write a new file that only its owner may read.

    Raises:
        ConfigError: there is such a file already, or it cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError([f"forwarding.seed_file: {file} is there already, and is left as it is"]) from None
    except OSError as error:
        raise ConfigError([f"forwarding.seed_file: {file} cannot be written ({error.strerror})"]) from error
    with os.fdopen(descriptor, "w") as stream:
        stream.write(words + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_words(file: Path) -> str:
    """Read the recovery words.

    Raises:
        ConfigError: the file cannot be read, others may read it, or it holds no recovery words.
    """
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            raw = stream.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigError(
            [f"forwarding.seed_file: {file} cannot be read ({error.strerror}); lightipn forwarding init makes one"]
        ) from error
    if mode & 0o077:
        raise ConfigError([f"forwarding.seed_file: {file} has mode {mode:04o}, want 0600: others must not read it"])
    try:
        return check_words(raw.decode("ascii"))
    except (UnicodeError, ConfigError):
        raise ConfigError(
            [f"forwarding.seed_file: {file} does not hold 12 to 24 recovery words with a right checksum"]
        ) from None


def addresses_of(words: str, network: Network) -> AddressChain:
    """Return the supply of input addresses; it holds public keys alone."""
    public = _account_of(words, network).to_public()
    return parse_address_chain(f"wpkh({public.to_base58(version=_public_version(network))}/0/*)", network)


def secret_of(words: str, network: Network, index: int) -> bytes:
    """Return the private key of an input address: 32 bytes, for as long as it takes to sign."""
    return bytes(_account_of(words, network).derive([0, index]).key.secret)


def _account_of(words: str, network: Network) -> Any:
    from embit import bip32, bip39

    return bip32.HDKey.from_seed(bip39.mnemonic_to_seed(words)).derive(path_of(network))


def _public_version(network: Network) -> bytes:
    return bytes.fromhex("0488b21e" if network.name == "mainnet" else "043587cf")
