"""Linearized low-rank adapters (Tang et al., arXiv:2310.04742): every adapter to first order around its start."""

from taskvec.suites import Encoder
from taskvec.tune.adapters import adapted
from taskvec.tune.regime import Run, regime
from taskvec.tune.settings import Settings


@regime(autocast=True, pair=True)
def l_lora(encoder: Encoder, settings: Settings) -> Run:
    """Trains B; A stays as drawn. With B = 0 at the start this is the first-order expansion of B A, exactly."""
    return adapted(encoder, settings, frozen=("A",))
