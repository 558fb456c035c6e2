"""Accounts whose addresses are given away; their addresses are derived by bitcoind, not by the code under test."""

import secrets
from dataclasses import dataclass

from embit import bip32

from tests.regtest.nodes import Bitcoind

TPUB, VPUB = bytes.fromhex("043587cf"), bytes.fromhex("045f1cf6")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account that nobody has used.

    Args:
        key: its extended public key, as a wallet exports it.
        descriptor: of its receiving addresses, as bitcoind reads it.
    """

    key: str
    descriptor: str

    async def addresses(self, bitcoind: Bitcoind, count: int) -> list[str]:
        """Return its first addresses."""
        checked = (await bitcoind.rpc("getdescriptorinfo", self.descriptor))["descriptor"]
        return await bitcoind.rpc("deriveaddresses", checked, [0, count - 1])


def new_account(*, is_segwit: bool) -> Account:
    """Make an account of native segwit addresses (its key is a vpub), or of legacy ones (a tpub)."""
    purpose = 84 if is_segwit else 44
    public = bip32.HDKey.from_seed(secrets.token_bytes(32)).derive(f"m/{purpose}h/1h/0h").to_public()
    tpub = public.to_base58(version=TPUB)
    if is_segwit:
        return Account(key=public.to_base58(version=VPUB), descriptor=f"wpkh({tpub}/0/*)")
    return Account(key=tpub, descriptor=f"pkh({tpub}/0/*)")
