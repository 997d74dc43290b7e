"""Fine-tuning in the tangent space (arXiv:2305.12827): the model to first order in its weights is trained."""

import torch

from taskvec.suites import Encoder
from taskvec.suites.linearize import check_inference, first_order, weights_of
from taskvec.tune.regime import Run, added, regime, trainable_parameters
from taskvec.tune.settings import Settings


@regime(autocast=False, linear=True, pair=True)
def tangent(encoder: Encoder, settings: Settings) -> Run:
    """Trains τ, which starts at 0 and is what weight decay shrinks; θ0 is frozen. float32 throughout.

    Differs from the released code, which trains θ0 + τ and so decays θ0 too.

    Raises:
        ParameterError: dropout or batch normalization in training mode, or no forward-mode derivative.
    """
    check_inference(encoder.module)
    names = trainable_parameters(encoder.module)
    encoder.module.requires_grad_(False)
    point = weights_of(encoder.module)
    tau = {name: torch.zeros_like(point[name], requires_grad=True) for name in names}

    def delta() -> dict[str, torch.Tensor]:
        return {name: each.detach().clone() for name, each in tau.items()}

    return Run(
        parameters=tau,
        features=lambda batch: first_order(
            lambda w: encoder.features(batch, params=w), point, tau, derivative=settings.derivative
        ),
        delta=delta,
        finish=lambda: added(encoder, delta()),
    )
