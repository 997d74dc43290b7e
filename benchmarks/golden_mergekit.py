"""Writes tests/golden/mergekit: small models and what mergekit 0.1.5 makes of them, by every method we share.

Runs with the Python of mergekit's own environment (the one that `merge_vs_mergekit.py` makes), and needs nothing of
taskvec.

The inputs are seeded. They hold what a method may stumble over: deltas of 5 % of the weights, deltas below every
absolute threshold, a tensor that one task left alone, rows and columns of one entry, a vector of one entry.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.merge_methods import registered_methods
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "mergekit"
MODELS = ("base", "a", "b", "c")
# What the models are in, and what mergekit computes and writes in.
VARIANTS: dict[str, tuple[torch.dtype, dict[str, str]]] = {
    "float32": (torch.float32, {"dtype": "float32"}),
    "bfloat16": (torch.bfloat16, {"dtype": "bfloat16"}),
    "bfloat16-wide": (torch.bfloat16, {"dtype": "float32", "out_dtype": "bfloat16"}),
}
LAYER = "model.layers.0."
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (24, 8),
    LAYER + "self_attn.q_proj.weight": (8, 8),
    LAYER + "self_attn.k_proj.weight": (4, 8),
    LAYER + "self_attn.v_proj.weight": (4, 8),
    LAYER + "self_attn.o_proj.weight": (8, 8),
    LAYER + "mlp.gate_proj.weight": (12, 8),
    LAYER + "mlp.up_proj.weight": (12, 8),
    LAYER + "mlp.down_proj.weight": (8, 12),
    LAYER + "input_layernorm.weight": (8,),
    LAYER + "post_attention_layernorm.weight": (8,),
    "model.norm.weight": (8,),
    "lm_head.weight": (24, 8),
}
TINY = LAYER + "self_attn.v_proj.weight"  # weights of 1e-3, deltas of 2e-5
STILL = LAYER + "self_attn.o_proj.weight"  # task c did not move it
FAR = LAYER + "mlp.gate_proj.weight"  # deltas as large as the weights
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
    "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 24,
    "tie_word_embeddings": False, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
}  # fmt: skip
THREE = {"weight": [0.3, 0.5, 0.9]}
SIGNED = {"weight": [0.7, -0.4, 0.25]}
EACH = {**THREE, "density": [0.2, 0.5, 0.37]}
HALF = {**THREE, "density": 0.5}

# name: (method, inputs, parameters of all, parameters of each input); the base is the first input where it is listed.
Case = tuple[str, str, dict[str, Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "linear": ("linear", "abc", {}, THREE),
    "linear_sum": ("linear", "abc", {"normalize": False}, SIGNED),
    "linear_with_base": ("linear", "base,a,b", {}, {"weight": [1.0, 0.1, 0.7]}),
    "passthrough": ("passthrough", "a", {}, {}),
    "passthrough_scaled": ("passthrough", "a", {}, {"scale": [0.3]}),
    "slerp": ("slerp", "base,a", {"t": 0.3}, {}),
    "slerp_far": ("slerp", "base,b", {"t": 0.85}, {}),
    "nuslerp": ("nuslerp", "ab", {}, {"weight": [0.6, 0.3]}),
    "nuslerp_rows": ("nuslerp", "ab", {"nuslerp_flatten": False}, {"weight": [0.6, 0.3]}),
    "nuslerp_columns": (
        "nuslerp", "ab", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"weight": [0.6, 0.3]}),
    "nuslerp_deltas": ("nuslerp", "base+ab", {}, {"weight": [0.25, 0.5]}),
    "nuslerp_delta_rows": ("nuslerp", "base+ab", {"nuslerp_flatten": False}, {"weight": [0.25, 0.5]}),
    "multislerp": ("multislerp", "abc", {}, THREE),
    "multislerp_sum": ("multislerp", "abc", {"normalize_weights": False}, SIGNED),
    "multislerp_deltas": ("multislerp", "base+abc", {}, THREE),
    "karcher": ("karcher", "abc", {}, {}),
    "karcher_loose": ("karcher", "abc", {"max_iter": 2, "tol": 0.001}, {}),
    "model_stock": ("model_stock", "base+abc", {}, {}),
    "model_stock_rows": ("model_stock", "base+abc", {"filter_wise": True}, {}),
    "nearswap": ("nearswap", "base,a", {"t": 0.01}, {}),
    "nearswap_little": ("nearswap", "base,b", {"t": 0.0001}, {}),
    "arcee_fusion": ("arcee_fusion", "base,a", {}, {}),
    "sce": ("sce", "base+abc", {}, {}),
    "sce_selected": ("sce", "base+abc", {"select_topk": 0.4}, {}),
    "ram": ("ram", "base+abc", {}, {}),
    "ram_epsilon": ("ram", "base+abc", {"epsilon": 0.02}, {}),
    "ramplus_tl": ("ramplus_tl", "base+abc", {}, {}),
    "ramplus_tl_strong": ("ramplus_tl", "base+abc", {"epsilon": 0.02, "r": 0.5, "alpha": 0.7}, {}),
    "task_arithmetic": ("task_arithmetic", "base+abc", {}, THREE),
    "task_arithmetic_mean": ("task_arithmetic", "base+abc", {"normalize": True, "lambda": 0.6}, SIGNED),
    "ties": ("ties", "base+abc", {}, EACH),
    "ties_sum": (
        "ties", "base+abc", {"normalize": False, "lambda": 0.7, "int8_mask": True}, {**SIGNED, "density": 0.5}),
    "breadcrumbs": ("breadcrumbs", "base+abc", {}, {**HALF, "gamma": 0.1}),
    "breadcrumbs_mean": (
        "breadcrumbs", "base+abc", {"normalize": True, "lambda": 1.3}, {**THREE, "density": 0.9, "gamma": 0.3}),
    "breadcrumbs_ties": ("breadcrumbs_ties", "base+abc", {}, {**EACH, "gamma": 0.1}),
    "breadcrumbs_ties_mean": (
        "breadcrumbs_ties", "base+abc", {"normalize": True, "lambda": 0.5}, {**SIGNED, "density": 0.9, "gamma": 0.3}),
    "dare_linear_whole": ("dare_linear", "base+abc", {"normalize": True, "lambda": 0.5}, THREE),
    "dare_ties_whole": ("dare_ties", "base+abc", {"lambda": 0.5}, SIGNED),
    "della_linear_whole": ("della_linear", "base+abc", {}, THREE),
    "della_whole": ("della", "base+abc", {"lambda": 0.5}, THREE),
}  # fmt: skip
# Random ones: one task, so that what was kept can be told, and the mean over seeds with three.
RANDOM: dict[str, Case] = {
    "dare_linear": ("dare_linear", "base+a", {}, {"weight": [1.0], "density": 0.4}),
    "dare_linear_plain": ("dare_linear", "base+a", {"rescale": False}, {"weight": [1.0], "density": 0.4}),
    "dare_ties": ("dare_ties", "base+a", {}, {"weight": [1.0], "density": 0.4}),
    "della_linear": ("della_linear", "base+a", {}, {"weight": [1.0], "density": 0.4, "epsilon": 0.3}),
    "della": ("della", "base+a", {}, {"weight": [1.0], "density": 0.4, "epsilon": 0.3}),
    "dare_linear_mean": ("dare_linear", "base+abc", {"normalize": True}, HALF),
    "dare_ties_mean": ("dare_ties", "base+abc", {}, HALF),
    "della_linear_mean": ("della_linear", "base+abc", {}, {**HALF, "epsilon": 0.3}),
    "della_mean": ("della", "base+abc", {}, {**HALF, "epsilon": 0.3}),
}
SEEDS = 200


def inputs(dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """The base and three tuned models; norms are ones and a little."""
    found: dict[str, dict[str, torch.Tensor]] = {model: {} for model in MODELS}
    for i, (name, shape) in enumerate(SHAPES.items()):
        random = torch.Generator().manual_seed(i)
        size = 1e-3 if name == TINY else 0.3
        base = torch.randn(shape, generator=random) * size + (1.0 if len(shape) == 1 else 0.0)
        step = {TINY: 2e-5, FAR: 0.3}.get(name, 0.015)
        common = torch.randn(shape, generator=random)
        for model in MODELS:
            own = torch.randn(shape, generator=random)
            moved = base if model == "base" or (name, model) == (STILL, "c") else base + step * (common + own)
            found[model][name] = moved.to(dtype).clone()
    return found


def listed(spec: str) -> tuple[str | None, list[str]]:
    """The base model and the listed inputs: "base+ab" has a base that is not listed, "base,a" lists it first."""
    if "," in spec:
        return "base", spec.split(",")
    base, plus, rest = spec.rpartition("+")
    return (base if plus else None), list(rest)


def recipe(case: Case, dtypes: dict[str, str]) -> str:
    """mergekit's YAML; models are folders beside it."""
    method, spec, shared, each = case
    base, models = listed(spec)
    rows: list[dict[str, Any]] = [{"model": m} for m in models]
    for i, row in enumerate(rows):
        own = {k: v[i] if isinstance(v, list) else v for k, v in each.items()}
        if own:
            row["parameters"] = own
    told: dict[str, Any] = {"merge_method": method, **dtypes, "models": rows}
    if base is not None and method != "linear":
        told["base_model"] = base
    if shared:
        told["parameters"] = shared
    return str(yaml.safe_dump(told, sort_keys=False))


def merged(text: str, out: str, seed: int) -> dict[str, torch.Tensor]:
    """What mergekit makes of a recipe in the present folder."""
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    LoaderCache().loaders.clear()  # the folders keep their names, and get other models
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=seed)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), out, options)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(Path(out).glob("*.safetensors")):
        found |= load_file(file)
    return found


def write_models(kind: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """The inputs as folders that mergekit accepts, in the present folder."""
    models = inputs(kind)
    for model, tensors in models.items():
        Path(model).mkdir(exist_ok=True)
        save_file(tensors, Path(model) / "model.safetensors", metadata={"format": "pt"})
        (Path(model) / "config.json").write_text(json.dumps(CONFIG))
    return models


def main() -> None:
    """Write inputs, outputs and cases.json."""
    torch.set_num_threads(1)
    told: dict[str, Any] = {"mergekit": metadata.version("mergekit"), "seeds": SEEDS, "cases": {}, "random": {}}
    told["methods"] = sorted(method.spec.name for method in registered_methods())
    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for variant, (kind, dtypes) in VARIANTS.items():
            models = write_models(kind)
            packed = {f"{m}/{n}": t for m, tensors in models.items() for n, t in tensors.items()}
            _save(packed, f"inputs-{dtype_name(kind)}")
            outputs: dict[str, torch.Tensor] = {}
            for name, case in CASES.items():
                text = recipe(case, dtypes)
                told["cases"].setdefault(name, {})[variant] = text
                outputs |= {f"{name}/{n}": t for n, t in merged(text, "out", 0).items()}
            _save(outputs, f"outputs-{variant}")
        _save(_random(told), "random")
    (GOLDEN / "cases.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def dtype_name(kind: torch.dtype) -> str:
    """Its name without the module."""
    return str(kind).removeprefix("torch.")


def _save(tensors: dict[str, torch.Tensor], name: str) -> None:
    path = GOLDEN / f"{name}.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)


def _random(told: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random methods in float32: of each case the first two seeds, and the mean of all."""
    write_models(torch.float32)
    outputs: dict[str, torch.Tensor] = {}
    for name, case in RANDOM.items():
        told["random"][name] = recipe(case, {"dtype": "float32"})
        total: dict[str, Any] = {}
        for seed in range(SEEDS):
            for tensor, values in merged(told["random"][name], "out", seed).items():
                total[tensor] = total.get(tensor, 0.0) + values.double() / SEEDS
                if seed < 2:
                    outputs[f"{name}/{seed}/{tensor}"] = values
        outputs |= {f"{name}/mean/{tensor}": values.float() for tensor, values in total.items()}
    return outputs


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
