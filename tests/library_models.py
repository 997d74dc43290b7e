"""Tiny random models of real libraries, their fine-tunes, and what a merge of them must be in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import oracles
import taskvec as tv
from taskvec import methods
from taskvec.testing.evaluation import check_close, spread

transformers.utils.logging.disable_progress_bar()

TASKS = ("one", "two", "three")
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = SMALL | {"image_size": 16, "patch_size": 8}
TEXTS = SMALL | {"vocab_size": 64, "max_position_embeddings": 16}
WORDS = torch.tensor([[1, 5, 9, 2], [1, 17, 4, 2]])
PARAMETERS: Mapping[str, dict[str, Any]] = {
    "average": {},
    "task_arithmetic": {"coefficients": [0.5, 0.3, -0.2]},
    "ties": {"density": 0.3},
    "slerp": {"t": 0.4},
    "tsv_m": {},
    "iso_c": {},
}
METHODS = [name for name in PARAMETERS if name in methods.names()]


@dataclass(frozen=True)
class Family:
    """One architecture: how to make it, and what its forward takes."""

    make: Callable[[], transformers.PreTrainedModel]
    inputs: Callable[[], dict[str, torch.Tensor]]


def _clip() -> transformers.CLIPModel:
    text, vision = TEXTS | {"eos_token_id": 2, "projection_dim": 16}, IMAGES | {"projection_dim": 16}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def _whisper() -> transformers.WhisperForConditionalGeneration:
    config = transformers.WhisperConfig(
        vocab_size=64, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=10,
        max_target_positions=12, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def _t5() -> transformers.T5ForConditionalGeneration:
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def _pixels() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _sound() -> torch.Tensor:
    return torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(1))


FAMILIES: Mapping[str, Family] = {
    "clip": Family(_clip, lambda: {"input_ids": WORDS, "pixel_values": _pixels()}),
    "vit": Family(
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGES, num_labels=3)),
        lambda: {"pixel_values": _pixels()},
    ),
    "whisper": Family(_whisper, lambda: {"input_features": _sound(), "decoder_input_ids": WORDS}),
    "t5": Family(_t5, lambda: {"input_ids": WORDS, "decoder_input_ids": WORDS}),
    "bert": Family(
        lambda: transformers.BertModel(transformers.BertConfig(**TEXTS)),
        lambda: {"input_ids": WORDS, "attention_mask": torch.ones_like(WORDS)},
    ),
}


def seeded(make: Callable[[], torch.nn.Module], seed: int = 0) -> Any:
    """A module with random weights that are the same every time, ready to be called."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def disturb(module: torch.nn.Module, seed: int, size: float = 0.02) -> None:
    """Stands for fine-tuning: seeded noise on every parameter, once where two names share it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def write_family(family: Family, root: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """`base` and a folder a task, each written by the library."""
    seeded(family.make).to(dtype).save_pretrained(root / "base")
    for seed, task in enumerate(TASKS, 1):
        model = seeded(family.make)
        disturb(model, seed)
        model.to(dtype).save_pretrained(root / task)
    return root


def merged(name: str, root: Path, tasks: Sequence[str] = TASKS) -> tv.Checkpoint:
    """The merge of the fine-tunes under `root` through the public door, lazy."""
    base = tv.Checkpoint.open(root / "base")
    named = _inputs(name, tasks)
    tuned = {task: tv.Checkpoint.open(root / task) for task in named}
    options = spread(PARAMETERS[name], named)
    if methods.get(name).space == "point":
        return tv.merge(name, tuned, **options)
    return base + tv.merge(name, {task: point - base for task, point in tuned.items()}, **options)


def _inputs(name: str, tasks: Sequence[str]) -> Sequence[str]:
    return tasks[: methods.get(name).most]


Parameters = Mapping[str, torch.Tensor]


def parameters_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter once, under the library's own name for it, which may be another than that in the file."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def expected(name: str, base: Parameters, tuned: Mapping[str, Parameters]) -> dict[str, torch.Tensor]:
    """The merge in float64, by the method's slow reference, from what the library holds."""
    method = methods.get(name)
    named = {task: tuned[task] for task in _inputs(name, list(tuned))}
    parameters = method.bind(spread(PARAMETERS[name], list(named)), list(named)).at("")
    reference = oracles.load(name).reference
    if method.space == "point":
        found = reference(_stacks(named, None), **parameters)
        return {n: torch.from_numpy(np.asarray(x)) for n, x in found.items()}
    found = reference(_stacks(named, base), **parameters)
    return {n: torch.from_numpy(np.asarray(x)) + base[n].double() for n, x in found.items()}


def _stacks(named: Mapping[str, Parameters], base: Parameters | None) -> dict[str, np.ndarray]:
    def row(parameters: Parameters, name: str) -> torch.Tensor:
        return parameters[name].double() - (base[name].double() if base is not None else 0)

    names = next(iter(named.values()))
    return {n: torch.stack([row(parameters, n) for parameters in named.values()]).numpy() for n in names}


def check_parameters(name: str, module: torch.nn.Module, wanted: Parameters, base: Parameters) -> None:
    """Refuse parameters that differ from the reference by more than rounding."""
    found = parameters_of(module)
    assert found.keys() == wanted.keys()
    size = {n: np.stack([t.double().numpy(), wanted[n].numpy()]) for n, t in base.items()}
    plain = {n: t.double().numpy() for n, t in found.items()}
    rtol = getattr(oracles.load(name), "RTOL", 1e-6)
    entrywise = methods.get(name).acts_on not in {"matrix", "tensor"}
    target = {n: t.numpy() for n, t in wanted.items()}
    check_close(plain, target, size, what=name, rtol=rtol, entrywise=entrywise)


def with_parameters(module: Any, wanted: Parameters) -> Any:
    """The module with these parameters, in its own dtype."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(wanted[name].to(parameter.dtype))
    return module


def tensors_in(output: Any) -> list[torch.Tensor]:
    """The float tensors of a library's output, however it nests them."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    return [t for part in output for t in tensors_in(part)] if isinstance(output, list | tuple) else []
