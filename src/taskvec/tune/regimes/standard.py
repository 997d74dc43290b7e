"""Ordinary fine-tuning: every parameter outside the embedding tables moves."""

from taskvec.suites import Encoder
from taskvec.tune.regime import Run, regime, trainable_parameters, trained_in_place
from taskvec.tune.settings import Settings


@regime(autocast=True)
def standard(encoder: Encoder, settings: Settings) -> Run:
    """Trains the module itself."""
    return trained_in_place(encoder, trainable_parameters(encoder.module))
