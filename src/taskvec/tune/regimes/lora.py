"""Low-rank adapters: B A is added to every matrix outside the embedding tables (arXiv:2106.09685)."""

from taskvec.suites import Encoder
from taskvec.tune.adapters import adapted
from taskvec.tune.regime import Run, regime
from taskvec.tune.settings import Settings


@regime(autocast=True, pair=True)
def lora(encoder: Encoder, settings: Settings) -> Run:
    """Trains A and B; B starts at 0, A is uniform in ±1/√k (k columns of the matrix), drawn from the seed."""
    return adapted(encoder, settings, frozen=())
