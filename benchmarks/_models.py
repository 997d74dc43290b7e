"""Synthetic checkpoints of real shapes: a 1.1 B-parameter decoder in bf16, five shards, and fine-tunes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, LAYERS, INNER, VOCABULARY, KEYS = 2048, 22, 5632, 32000, 256


def shapes(layers: int = LAYERS) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a decoder with 1,100,048,384 parameters (at 22 layers)."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "mlp.down_proj.weight", (HIDDEN, INNER)
        yield p + "mlp.gate_proj.weight", (INNER, HIDDEN)
        yield p + "mlp.up_proj.weight", (INNER, HIDDEN)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "self_attn.k_proj.weight", (KEYS, HIDDEN)
        yield p + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield p + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield p + "self_attn.v_proj.weight", (KEYS, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def shards(count: int, layers: int = LAYERS) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The tensors cut into `count` runs of about equal size."""
    rows = list(shapes(layers))
    total = sum(_numel(s) for _, s in rows)
    out: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    at = 0
    for name, shape in rows:
        if at >= total * len(out) / count:
            out.append([])
        out[-1].append((name, shape))
        at += _numel(shape)
    return out


def _numel(shape: tuple[int, ...]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def make(folder: Path, *, seed: int | None, noise: float = 0.01, plant: bool = False, layers: int = LAYERS) -> Path:
    """Write a base (`seed=None`) or a fine-tune of it: base + `noise` relative Gaussian noise, in bf16.

    `plant` puts the values that no float delta restores into one small matrix: -0.0 over +0.0, subnormals, ratios of
    2^50, opposed 3e38. A folder that is complete is kept.
    """
    if (folder / ".done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    plan = shards(5, layers)
    for i, rows in enumerate(plan, 1):
        file = f"model-{i:05d}-of-{len(plan):05d}.safetensors"
        tensors = {}
        for j, (name, shape) in enumerate(rows):
            base = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * i + j)) * 0.02
            if plant and name == "model.layers.0.self_attn.k_proj.weight":
                _plant_base(base)
            tensor = base.bfloat16()
            if seed is not None:
                generator = torch.Generator().manual_seed(100_000 * seed + 1000 * i + j)
                tensor = (tensor.float() * (1 + noise * torch.randn(shape, generator=generator))).bfloat16()
                if plant and name == "model.layers.0.self_attn.k_proj.weight":
                    _plant_tuned(tensor)
            tensors[name] = tensor
            weight_map[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    total = sum(2 * _numel(s) for rows in plan for _, s in rows)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / ".done").touch()
    return folder


def _plant_base(base: torch.Tensor) -> None:
    flat = base.view(-1)
    flat[0], flat[1], flat[2], flat[3] = 0.0, 1.0, 3e38, -3e38
    flat[4], flat[5] = 1e-39, 1.0


def _plant_tuned(tuned: torch.Tensor) -> None:
    flat = tuned.view(-1)
    flat[0], flat[1], flat[2], flat[3] = -0.0, 2.0**-50, -3e38, 3e38
    flat[4], flat[5] = -3e-39, 1e-40
