"""Image encoders of transformers: a vision model and its image processor, by PIL alone; inputs are paths."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import FormatError, ParameterError, SchemaError
from taskvec.suites.encoder import (
    Batch,
    aliases_of,
    folder_of,
    quiet,
    transformers_library,
    unit_features,
    with_weights,
)
from taskvec.suites.folder import complete_folder, names_in
from taskvec.suites.staged import staged_folder

_CLIP = "clip"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoder:
    """A transformers vision model with its image processor.

    A feature is CLIP's image embedding, else the class token's last hidden state, else (models without tokens) the mean
    over positions. `words`, of CLIP alone, embeds class phrases; it never moves.
    """

    module: nn.Module
    processor: Any
    folder: Path
    words: Any = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, source: str | Path) -> Self:
        """The vision model of a Hugging Face folder or hub id, in float32 and in inference mode.

        Raises:
            FormatError: the source is not a vision model that transformers can open.
            SchemaError: the files name their tensors otherwise than the vision model does.
            ParameterError: transformers or Pillow is not installed.
        """
        transformers = transformers_library()
        _pillow()
        folder = folder_of(source)
        with quiet(transformers):
            try:
                processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
                module, words = _opened(transformers, folder)
            except (OSError, ValueError) as error:
                raise FormatError(f"'{folder}' is not a vision model that transformers can open: {error}") from error
        aliases = aliases_of(module, folder)
        _check_names({aliases.get(name, name) for name in module.state_dict()}, folder)
        return cls(module=module.float().eval(), processor=processor, folder=folder, words=words, aliases=aliases)

    def batch(self, inputs: Sequence[str]) -> Batch:
        """The images at these paths, as the processor makes them.

        Raises:
            FormatError: a path holds no image.
        """
        pixels = self.processor(images=[_image(path) for path in inputs], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels}

    def features(self, batch: Batch, *, params: Mapping[str, Tensor] | None = None) -> Float[Tensor, "batch dim"]:
        """One vector an image, not normalized; `params` replace the module's own tensors of these names."""
        if params is None:
            output = self.module(**batch)
        else:
            output = torch.func.functional_call(self.module, dict(params), (), dict(batch))
        embeds: Tensor | None = getattr(output, "image_embeds", None)
        if embeds is not None:
            return embeds
        hidden: Tensor = output.last_hidden_state
        return hidden[:, 0] if hidden.ndim == 3 else hidden.flatten(2).mean(dim=-1)

    def encode(self, inputs: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """L2-normalized features of a few images, without gradients.

        Raises:
            NonFiniteError: a feature is not finite, e.g. because the model's files lack a tensor.
        """
        return unit_features(self, inputs, f"the model at '{self.folder}'")

    def embed(self, phrases: Sequence[str]) -> Float[Tensor, "phrase dim"]:
        """The unit vectors of class phrases, by the text side of the model.

        Raises:
            ParameterError: the model has none.
        """
        if self.words is None:
            raise ParameterError(
                f"the model at '{self.folder}' reads no texts, so names cannot become a head.",
                "make the head of examples: head: prototypes in the suite, or prototype_head(encoder, task, …).",
            )
        tokenizer, model = self.words
        with torch.inference_mode():
            found: Tensor = model(**tokenizer(list(phrases), padding=True, return_tensors="pt")).text_embeds
        return nn.functional.normalize(found.float(), dim=-1)

    def duplicate(self) -> Self:
        """The same encoder with a deep copy of the module; processor and text side are shared."""
        return replace(self, module=copy.deepcopy(self.module))

    def with_weights(self, weights: Checkpoint) -> Self:
        """A copy that holds the tensors of `weights`, by name; the text side must be that of the folder.

        Raises:
            SchemaError: see `TextEncoder.with_weights`.
        """
        return with_weights(self, weights, frozen=Checkpoint.open(self.folder))

    def save(self, folder: str | Path) -> Path:
        """Writes an ordinary Hugging Face folder with the files and names that it was opened from.

        The folder appears only when it is complete.

        Raises:
            DestinationError: `folder` exists already.
        """
        with staged_folder(Path(folder)) as partial, quiet(transformers_library()):
            self.module.save_pretrained(partial)  # type: ignore[operator]  # a PreTrainedModel
            if self.words is not None:  # the configuration of the whole model, not of its vision side
                (partial / "config.json").unlink()
            complete_folder(partial, self.folder)
        return Path(folder)


def _opened(transformers: Any, folder: Path) -> tuple[nn.Module, Any]:
    config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type == _CLIP:
        module, info = transformers.CLIPVisionModelWithProjection.from_pretrained(folder, output_loading_info=True)
        words = transformers.CLIPTextModelWithProjection.from_pretrained(folder).float().eval()
        return _filled(module, info), (transformers.AutoTokenizer.from_pretrained(folder), words)
    options = {"output_loading_info": True, "add_pooling_layer": False}
    try:
        module, info = transformers.AutoModel.from_pretrained(folder, **options)
    except TypeError:  # an architecture that has no pooling layer to leave out
        module, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    if getattr(module, "main_input_name", "") != "pixel_values":
        raise ValueError(f"a model of the type '{config.model_type}' reads no images")
    return _filled(module, info), None


def _filled(module: nn.Module, info: Mapping[str, Any]) -> nn.Module:
    """NaN where the files lack a tensor, so that a feature that needed it cannot pass for a result."""
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if name in info["missing_keys"] and tensor.is_floating_point():
                tensor.fill_(torch.nan)
    return module


def _check_names(own: set[str], folder: Path) -> None:
    found = names_in(folder)
    if found and not own & found.keys():
        raise SchemaError(
            f"the files at '{folder}' name their tensors like '{min(found)}', the vision model like '{min(own)}'.",
            "save the vision model alone: AutoModel.from_pretrained(…).save_pretrained(…).",
        )


def _image(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise FormatError(
            f"'{path}' cannot be read as an image.", "replace it, or take it out of the folder."
        ) from error


def _pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ParameterError("images need Pillow, which is not installed.", "pip install 'taskvec[hf]'.") from error
