"""What a transfer costs, and its signature: plans within the operator's limits, signed with keys that are forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import structlog
import trio

from lightipn.bitcoin.address import parse_address
from lightipn.bitcoin.network import Network
from lightipn.bitcoin.transaction import Transaction, TxOutput
from lightipn.errors import ConfigError, SourceError
from lightipn.forwarding.plan import LOWEST_FEE_RATE, FeeLimits, Hold, PassingTerms, Plan, plan_of
from lightipn.forwarding.seed import read_words
from lightipn.forwarding.signing import OwnCoin, SigningError, sign_transfer
from lightipn.service.ground import Outside
from lightipn.store.forwards import Coin, ForwardTerms

UNUSABLE_SEED = "seed-unusable"

log = structlog.get_logger("forwarding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """Plans and signs.

    Args:
        fee_target_blocks: within so many blocks a transfer shall be mined.
    """

    network: Network
    seed_file: Path
    limits: FeeLimits
    fee_target_blocks: int
    outside: Outside

    async def estimate(self) -> float | None:
        """Return what the servers say is enough, in satoshis a virtual byte; None while none answers.

        Where they answer and have no estimate, it is the least that is relayed.
        """
        try:
            rate = await self.outside.fee_rate(self.fee_target_blocks)
        except SourceError:
            return None
        return LOWEST_FEE_RATE if rate is None else rate

    def plan(
        self, coins: Sequence[Coin], terms: PassingTerms, *, fee_rate: float, least_fee_sat: int = 0
    ) -> Plan | Hold:
        """Plan a transfer of all these coins."""
        amounts_sat = [coin.amount_sat for coin in coins]
        return plan_of(amounts_sat, terms, fee_rate=fee_rate, limits=self.limits, least_fee_sat=least_fee_sat)

    async def sign(self, coins: Sequence[Coin], plan: Plan) -> Transaction | Hold:
        """Sign in a thread: the keys' code takes a moment to load. The words are read for this, and forgotten.

        Returns:
            The signed transaction; a hold where the seed file cannot be used now, or does not own the coins.
        """
        owned = [
            OwnCoin(
                outpoint=coin.outpoint,
                amount_sat=coin.amount_sat,
                scripthash=coin.scripthash,
                address_index=coin.address_index,
            )
            for coin in coins
        ]
        try:
            return await trio.to_thread.run_sync(
                partial(_read_and_sign, self.seed_file, self.network, owned, plan.outputs)
            )
        except (ConfigError, SigningError) as error:
            log.error("forwarding.seed_unusable", reason=str(error))
            return Hold(UNUSABLE_SEED)

    def terms_of(self, terms: ForwardTerms) -> PassingTerms:
        """Return what a forward asks for as output scripts; its addresses were checked when it was made."""
        return PassingTerms(
            destination=self.script_of(terms.destination),
            process_script=self.script_of(terms.process_address) if terms.process_address else None,
            process_sat=terms.process_sat,
            process_share=Decimal(terms.process_share or 0),
            mining_fee_sat=terms.mining_fee_sat,
        )

    def script_of(self, address: str) -> bytes:
        """Return the output script of an address that was checked before."""
        return parse_address(address, self.network).script


def _read_and_sign(
    seed_file: Path, network: Network, coins: Sequence[OwnCoin], outputs: Sequence[TxOutput]
) -> Transaction:
    return sign_transfer(read_words(seed_file), network, coins, outputs)
