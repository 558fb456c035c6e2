"""What a transfer pays: named cases, and the laws that hold for all."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightipn.bitcoin.transaction import TxOutput
from lightipn.forwarding.plan import (
    FEE_TOO_HIGH,
    LOWEST_FEE_RATE,
    MOST_COINS,
    TOO_SMALL,
    FeeLimits,
    Hold,
    PassingTerms,
    Plan,
    dust_sat_of,
    least_bump_sat,
    plan_of,
    vbytes_of,
    worth_spending,
)

P2PKH = b"\x76\xa9\x14" + bytes(20) + b"\x88\xac"
P2SH = b"\xa9\x14" + bytes(20) + b"\x87"
P2WPKH = b"\x00\x14" + bytes(20)
P2WSH = b"\x00\x20" + bytes(32)
P2TR = b"\x51\x20" + bytes(32)
SCRIPTS = {"p2pkh": P2PKH, "p2sh": P2SH, "p2wpkh": P2WPKH, "p2wsh": P2WSH, "p2tr": P2TR}
# Of one P2WPKH input and one P2WPKH output: 110 virtual bytes, as every fee calculator says.
SIZE = 110


def planned(amounts_sat: list[int], terms: PassingTerms, **more: float) -> Plan | Hold:
    """Plan with two satoshis a virtual byte, and a tenth or 500 a byte at most, unless something else is said."""
    limits = FeeLimits(max_percent=more.pop("max_percent", 10.0), max_rate=more.pop("max_rate", 500.0))
    least_fee_sat = int(more.pop("least_fee_sat", 0))
    return plan_of(amounts_sat, terms, fee_rate=more.pop("fee_rate", 2.0), limits=limits, least_fee_sat=least_fee_sat)


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "dust_sat"),
    [(P2PKH, 546), (P2SH, 540), (P2WPKH, 294), (P2WSH, 330), (P2TR, 330)],
    ids=SCRIPTS,
)
def test_dust_is_what_bitcoin_core_says(script: bytes, dust_sat: int) -> None:
    """The least amount of an output depends on its kind, as in Bitcoin Core's documents and tests."""
    assert dust_sat_of(script) == dust_sat


@pytest.mark.parametrize(
    ("inputs", "scripts", "vbytes"),
    [
        (1, [P2WPKH], 110),
        (1, [P2WPKH, P2WPKH], 141),
        (2, [P2WPKH], 178),
        (1, [P2PKH], 113),
        (1, [P2TR], 122),
        (253, [P2WPKH], 17248),
    ],
)
def test_size_is_what_the_formula_of_bip141_gives(inputs: int, scripts: list[bytes], vbytes: int) -> None:
    """10.5 bytes for the frame, 68 for an input, and each output as long as it is; rounded up."""
    assert vbytes_of(inputs, scripts) == vbytes


# --- cases -------------------------------------------------------------------------------------------------------


def test_destination_gets_all_but_the_fee() -> None:
    """Without a share the whole amount less the fee arrives."""
    assert planned([60_000, 40_000], PassingTerms(destination=P2WPKH)) == Plan(
        outputs=(TxOutput(amount_sat=99_644, script=P2WPKH),), fee_sat=356, value_sat=99_644
    )


def test_share_is_paid_second_and_counts_for_the_size() -> None:
    """A part of the whole goes to the process address, rounded down to whole satoshis."""
    terms = PassingTerms(destination=P2WPKH, process_script=P2WPKH, process_share=Decimal("0.01"))
    assert planned([100_099], terms) == Plan(
        outputs=(TxOutput(amount_sat=98_817, script=P2WPKH), TxOutput(amount_sat=1_000, script=P2WPKH)),
        fee_sat=282,
        value_sat=98_817,
    )


def test_share_that_could_not_be_relayed_is_none() -> None:
    """A share of dust stays with the destination, and its output costs nothing."""
    terms = PassingTerms(destination=P2WPKH, process_script=P2WPKH, process_sat=293)
    plan = planned([100_000], terms)
    assert plan == planned([100_000], PassingTerms(destination=P2WPKH))
    terms = PassingTerms(destination=P2WPKH, process_script=P2WPKH, process_sat=294)
    plan = planned([100_000], terms)
    assert isinstance(plan, Plan)
    assert len(plan.outputs) == 2


def test_fixed_fee_is_paid_whatever_the_servers_say() -> None:
    """Who names a fee pays it, but never less than what is relayed at all."""
    terms = PassingTerms(destination=P2WPKH, mining_fee_sat=777)
    for rate in (0.0, 1.0, 50.0):
        plan = planned([100_000], terms, fee_rate=rate)
        assert isinstance(plan, Plan)
        assert plan.fee_sat == 777
    plan = planned([100_000], PassingTerms(destination=P2WPKH, mining_fee_sat=1))
    assert isinstance(plan, Plan)
    assert plan.fee_sat == SIZE


def test_bump_of_a_fixed_fee_follows_the_rate() -> None:
    """A fixed fee that proved too low is raised by the rate, and by the least step at least."""
    terms = PassingTerms(destination=P2WPKH, mining_fee_sat=200)
    plan = planned([100_000], terms, fee_rate=9.0, least_fee_sat=310)
    assert isinstance(plan, Plan)
    assert plan.fee_sat == 9 * SIZE
    plan = planned([100_000], terms, fee_rate=1.0, least_fee_sat=310)
    assert isinstance(plan, Plan)
    assert plan.fee_sat == 310


def test_bump_pays_for_its_own_relay() -> None:
    """A replacement pays more than what it replaces, by the relay rate of its size."""
    assert least_bump_sat(500, 110) == 610


@pytest.mark.parametrize(
    ("amounts_sat", "more", "reason"),
    [
        pytest.param([1_099], {}, TOO_SMALL, id="not even the lowest fee is within the limit"),
        pytest.param([1_100], {}, FEE_TOO_HIGH, id="the lowest fee would be within the limit"),
        pytest.param([2_199], {}, FEE_TOO_HIGH, id="a satoshi is missing"),
        pytest.param([2_200], {}, None, id="a tenth is not above a tenth"),
        pytest.param([100_000], {"fee_rate": 91.0}, FEE_TOO_HIGH, id="a hundred sat a byte"),
        pytest.param([403], {"max_percent": 100.0, "fee_rate": 1.0}, TOO_SMALL, id="what is left is dust"),
        pytest.param([404], {"max_percent": 100.0, "fee_rate": 1.0}, None, id="what is left is just enough"),
        pytest.param([1], {}, TOO_SMALL, id="a satoshi"),
        pytest.param([10**9], {"fee_rate": 500.0}, None, id="the highest rate"),
        pytest.param([10**9], {"fee_rate": 500.1}, FEE_TOO_HIGH, id="above the highest rate"),
        pytest.param([10**5], {"least_fee_sat": 10_000}, None, id="a bump that is just within the limit"),
        pytest.param([10**5], {"least_fee_sat": 10_001}, FEE_TOO_HIGH, id="a bump above the limit"),
    ],
)
def test_what_waits_and_why(amounts_sat: list[int], more: dict[str, float], reason: str | None) -> None:
    """Coins wait for more coins where nothing else helps, and for lower fees where these would do."""
    plan = planned(amounts_sat, PassingTerms(destination=P2WPKH), **more)
    assert (plan.reason if isinstance(plan, Hold) else None) == reason


def test_bump_pays_what_the_limits_allow() -> None:
    """Where the rate is above the limits, a bump pays all that they allow, since it cannot wait for lower fees."""
    for limits, fee_sat in (({"max_percent": 5.0}, 5_000), ({"max_rate": 20.0}, 20 * SIZE)):
        plan = planned([100_000], PassingTerms(destination=P2WPKH), fee_rate=400.0, least_fee_sat=330, **limits)
        assert isinstance(plan, Plan)
        assert plan.fee_sat == fee_sat


@pytest.mark.parametrize(
    ("amounts_sat", "rate", "chosen"),
    [
        ([], 1.0, []),
        ([68, 69], 1.0, [1]),
        ([69, 68], 0.0, [0]),
        ([500, 900, 700], 1.0, [1, 2, 0]),
        ([681, 680, 5_000], 10.0, [2, 0]),
        ([800, 800, 800], 1.0, [0, 1, 2]),
        (list(range(1_000, 1_300)), 1.0, list(range(299, 99, -1))),
    ],
)
def test_coins_that_cost_more_than_they_bring_stay(amounts_sat: list[int], rate: float, chosen: list[int]) -> None:
    """Coins above the price of an input are taken, the largest first, and at most two hundred."""
    assert worth_spending(amounts_sat, rate) == chosen


def test_share_that_leaves_nothing_waits() -> None:
    """A fixed share above what came waits for more coins; it is never paid out of nothing."""
    terms = PassingTerms(destination=P2WPKH, process_script=P2WPKH, process_sat=100_000)
    assert planned([100_000], terms) == Hold(TOO_SMALL)


# --- laws --------------------------------------------------------------------------------------------------------

AMOUNTS = st.lists(st.integers(1, 30_000_000), min_size=1, max_size=MOST_COINS)
OUTPUT_SCRIPTS = st.sampled_from(list(SCRIPTS.values()))


@st.composite
def all_terms(draw: st.DrawFn) -> PassingTerms:
    """Draw what may be wanted of a forward."""
    has_process, is_fixed = draw(st.booleans()), draw(st.booleans())
    share = draw(st.integers(1, 99_999_999))
    return PassingTerms(
        destination=draw(OUTPUT_SCRIPTS),
        process_script=draw(OUTPUT_SCRIPTS) if has_process else None,
        process_sat=draw(st.integers(1, 10_000_000)) if has_process and is_fixed else None,
        process_share=Decimal(share).scaleb(-8) if has_process and not is_fixed else Decimal(0),
        mining_fee_sat=draw(st.one_of(st.none(), st.integers(1, 1_000_000))),
    )


@given(
    amounts_sat=AMOUNTS,
    terms=all_terms(),
    fee_rate=st.floats(0, 10_000),
    max_percent=st.floats(0.01, 100),
    max_rate=st.floats(1, 100_000),
    least_fee_sat=st.one_of(st.just(0), st.integers(1, 100_000)),
)
def test_laws_of_every_plan(
    amounts_sat: list[int],
    terms: PassingTerms,
    fee_rate: float,
    max_percent: float,
    max_rate: float,
    least_fee_sat: int,
) -> None:
    """Inputs are outputs and fee; the fee is within limit and relay rate; no output is dust; shares are exact."""
    limits = FeeLimits(max_percent=max_percent, max_rate=max_rate)
    plan = plan_of(amounts_sat, terms, fee_rate=fee_rate, limits=limits, least_fee_sat=least_fee_sat)
    if isinstance(plan, Hold):
        assert plan.reason in (TOO_SMALL, FEE_TOO_HIGH)
        return
    total_sat = sum(amounts_sat)
    assert sum(output.amount_sat for output in plan.outputs) + plan.fee_sat == total_sat
    assert Decimal(plan.fee_sat) * 100 <= total_sat * Decimal(max_percent)
    size = vbytes_of(len(amounts_sat), [output.script for output in plan.outputs])
    assert max(size * LOWEST_FEE_RATE, least_fee_sat) <= plan.fee_sat <= size * max_rate
    if terms.mining_fee_sat is None and not least_fee_sat:
        assert plan.fee_sat >= size * fee_rate
    assert all(output.amount_sat >= dust_sat_of(output.script) for output in plan.outputs)
    assert plan.outputs[0] == TxOutput(amount_sat=plan.value_sat, script=terms.destination)
    for output in plan.outputs[1:]:
        wanted = terms.process_sat if terms.process_sat is not None else int(total_sat * terms.process_share)
        assert (output.script, output.amount_sat) == (terms.process_script, wanted)
    assert len(plan.outputs) <= 2


@given(amounts_sat=AMOUNTS, terms=all_terms(), rate=st.floats(0, 1_000))
def test_more_coins_never_make_a_small_amount_wait(amounts_sat: list[int], terms: PassingTerms, rate: float) -> None:
    """What is held as too small goes at last when enough is added to it."""
    whale = 10**12
    if terms.process_share <= Decimal("0.5"):
        limits = FeeLimits(max_percent=10.0, max_rate=1_000_000.0)
        plan = plan_of([*amounts_sat[:100], whale], terms, fee_rate=rate, limits=limits)
        assert isinstance(plan, Plan)
