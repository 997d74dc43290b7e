"""Plain modules as encoders: any `torch.nn.Module`, a function that reads inputs, and one that makes features."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, final

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import ParameterError
from taskvec.suites.encoder import Batch, unit_features, with_weights
from taskvec.suites.staged import staged_folder


def _tensor(output: Any, batch: Batch) -> Tensor:
    if not isinstance(output, Tensor):
        raise ParameterError(
            f"the module returns {type(output).__name__}, not a tensor.",
            "give pool=…, e.g. lambda output, batch: output.pooler_output.",
        )
    return output


def _write_tensors(module: nn.Module, folder: Path) -> None:
    folder.mkdir()
    save_file(
        {n: t.detach().contiguous().clone() for n, t in module.state_dict().items()}, folder / "model.safetensors"
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleEncoder:
    """An encoder made of parts.

    `read` turns inputs (texts, or whatever a task's strings stand for, e.g. paths of images) into the module's keyword
    arguments, the first axis of each being the batch; `pool` takes one vector an input out of the module's output;
    `phrases` gives the unit vectors of class phrases, where the model has a text side; `write` stores the module in a
    folder that is not there yet.
    """

    module: nn.Module
    read: Callable[[Sequence[str]], Batch]
    pool: Callable[[Any, Batch], Tensor] = _tensor
    phrases: Callable[[Sequence[str]], Tensor] | None = None
    write: Callable[[nn.Module, Path], None] = _write_tensors

    @property
    def aliases(self) -> Mapping[str, str]:
        """None: it is stored under its own names."""
        return {}

    def batch(self, inputs: Sequence[str]) -> Batch:
        """`inputs` as tensors."""
        return self.read(inputs)

    def features(self, batch: Batch, *, params: Mapping[str, Tensor] | None = None) -> Float[Tensor, "batch dim"]:
        """One vector an input, not normalized; `params` replace the module's own tensors of these names."""
        if params is None:
            return self.pool(self.module(**batch), batch)
        return self.pool(torch.func.functional_call(self.module, dict(params), (), dict(batch)), batch)

    def encode(self, inputs: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """L2-normalized features, without gradients.

        Raises:
            NonFiniteError: a feature is not finite.
        """
        return unit_features(self, inputs, f"the module {type(self.module).__name__}")

    def embed(self, phrases: Sequence[str]) -> Float[Tensor, "phrase dim"]:
        """The unit vectors of class phrases.

        Raises:
            ParameterError: the model has no text side.
        """
        if self.phrases is None:
            raise ParameterError(
                f"the model {type(self.module).__name__} reads no texts, so names cannot become a head.",
                "make the head of examples: prototype_head(encoder, task), or head: prototypes in the suite.",
            )
        return self.phrases(phrases)

    def duplicate(self) -> Self:
        """The same with a deep copy of the module."""
        return replace(self, module=copy.deepcopy(self.module))

    def with_weights(self, weights: Checkpoint) -> Self:
        """A copy that holds the tensors of `weights`, by name; see `TextEncoder.with_weights`."""
        return with_weights(self, weights)

    def save(self, folder: str | Path) -> Path:
        """Writes the model, by default as `model.safetensors` under the module's own names.

        Raises:
            DestinationError: `folder` exists already.
        """
        with staged_folder(Path(folder)) as partial:
            self.write(self.module, partial)
        return Path(folder)
