"""Fine-tuning of the attention projections alone (Jin et al., arXiv:2407.07089): nearly linear, at the usual cost."""

from taskvec.errors import ParameterError
from taskvec.suites import Encoder
from taskvec.tune.regime import Run, regime, trainable_parameters, trained_in_place
from taskvec.tune.settings import Settings


@regime(autocast=True)
def attention_only(encoder: Encoder, settings: Settings) -> Run:
    """Trains the matrices of the attention modules, those whose type is called so; biases and norms stay.

    Differs from the released code, whose mode of that name freezes everything.

    Raises:
        ParameterError: the model has no such module.
    """
    homes = [name for name, each in encoder.module.named_modules() if "Attention" in type(each).__name__]
    matrices = {name: each for name, each in trainable_parameters(encoder.module).items() if each.ndim == 2}
    chosen = {name: each for name, each in matrices.items() if any(name.startswith(f"{home}.") for home in homes)}
    if not chosen:
        raise ParameterError(
            f"no module of {type(encoder.module).__name__} has 'Attention' in the name of its type.",
            "use the regime 'standard'.",
        )
    return trained_in_place(encoder, chosen)
