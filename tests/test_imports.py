"""What an idle service carries in memory."""

import subprocess
import sys

import pytest

HEAVY = ("cryptography", "bit", "coincurve", "embit.bip32", "embit.ec", "embit.descriptor", "lightipn.simulator.server")


@pytest.mark.slow
def test_idle_service_does_not_carry_key_code_or_the_simulator() -> None:
    """What only derivation, signing or the demo needs is not imported by ``lightipn serve``."""
    program = f"import sys, lightipn.cli.main, lightipn.app\nprint([name for name in {HEAVY!r} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
