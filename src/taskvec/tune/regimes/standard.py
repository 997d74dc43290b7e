"""Ordinary fine-tuning: every parameter outside the embedding tables moves."""

from taskvec.suites import Encoder
from taskvec.tune.regime import Run, regime, trainable_parameters


@regime(autocast=True)
def standard(encoder: Encoder) -> Run:
    """Trains the module itself."""
    parameters = trainable_parameters(encoder.module)
    encoder.module.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return Run(parameters=parameters, features=encoder.features, finish=lambda: encoder)
