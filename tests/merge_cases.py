"""A small base with fine-tunes in every form that a recipe takes: folders, a vector, an adapter, a store."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import taskvec as tv

LAYERS = 3
MODELS: dict[str, tuple[int, ...]] = {
    "lm_head.weight": (30, 8),
    "model.embed_tokens.weight": (30, 8),
    **{
        f"model.layers.{i}.{part}": shape
        for i in range(LAYERS)
        for part, shape in (("attn.weight", (8, 8)), ("mlp.weight", (8, 12)), ("norm.weight", (8,)))
    },
    "model.norm.weight": (8,),
}
SEEDS = {"base": 0, "math": 1, "code": 2, "chat": 3, "other": 4}


def tensors_of(name: str) -> dict[str, torch.Tensor]:
    """The tensors of one model, float32: the base's, plus small noise for a fine-tune."""
    found = {}
    for j, (key, shape) in enumerate(MODELS.items()):
        start = torch.randn(shape, generator=torch.Generator().manual_seed(j))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * SEEDS[name] + j))
        found[key] = start + 0.1 * noise if SEEDS[name] else start
    return found


def save_model(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A model folder of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"torch_dtype": "float32"}')
    return folder


def model_folders(root: Path) -> Path:
    """base, math, code, chat; small and fewer (which do not fit); vectors, an adapter and a store."""
    for name in SEEDS:
        save_model(root / name, {**tensors_of(name), "steps": torch.arange(3)})
    save_model(root / "small", {n: t[:5] for n, t in tensors_of("math").items()} | {"steps": torch.arange(3)})
    save_model(
        root / "fewer",
        {n: t for n, t in tensors_of("math").items() if n != "lm_head.weight"} | {"steps": torch.arange(3)},
    )
    base = tv.Checkpoint.open(root / "base")
    (tv.Checkpoint.open(root / "math") - base).save(root / "math.tv.safetensors")
    other = tv.Checkpoint.open(root / "other")
    (tv.Checkpoint.open(root / "math") - other).save(root / "other.tv.safetensors")
    store = tv.Store.create(root / "library", base=base)
    store.add("stored", tv.Checkpoint.open(root / "code"))
    store.add("math", tv.Checkpoint.open(root / "math"))
    _adapter(root / "adapter")
    return root


def _adapter(folder: Path) -> None:
    folder.mkdir()
    key = "base_model.model.model.layers.0.mlp"
    left = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    right = torch.randn(2, 12, generator=torch.Generator().manual_seed(2))
    save_file({f"{key}.lora_A.weight": right, f"{key}.lora_B.weight": left}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["mlp"], "base_model_name_or_path": ""}
    (folder / "adapter_config.json").write_text(json.dumps(config))
