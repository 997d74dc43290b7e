"""What mergekit 0.1.5 made of small models (see benchmarks/golden_mergekit.py), and our call for one of its recipes."""

import functools
import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

import taskvec as tv
from taskvec import methods

FOLDER = Path(__file__).parent / "golden" / "mergekit"
TOLD = json.loads((FOLDER / "cases.json").read_text())
CASES, RANDOM, SEEDS = TOLD["cases"], TOLD["random"], TOLD["seeds"]
METHODS = set(TOLD["methods"])  # all that mergekit has
MODELS = ("base", "a", "b", "c")
NAMES = {"weight": "coefficients", "lambda": "scale", "normalize_weights": "normalize", "select_topk": "density"}
IGNORED = {"int8_mask"}  # changes no result in mergekit either
ANGLES = {"nuslerp_flatten", "nuslerp_row_wise"}


@functools.cache
def tensors(file):
    """The tensors of a golden file by what precedes and what follows the last slash of their names."""
    found = {}
    for key, value in load_file(FOLDER / f"{file}.safetensors").items():
        group, _, name = key.rpartition("/")
        found.setdefault(group, {})[name] = value
    return found


@functools.cache
def models(dtype):
    return {m: tv.Checkpoint.from_tensors(tensors(f"inputs-{dtype}")[m]) for m in MODELS}


def parameters(recipe):
    """mergekit's parameters under our names; per-model ones as lists."""
    method, given = methods.get(recipe["merge_method"]), recipe.get("parameters", {})
    found = {NAMES.get(k, k): v for k, v in given.items() if k not in IGNORED | ANGLES}
    for key in {k for row in recipe["models"] for k in row.get("parameters", {})}:
        ours = NAMES.get(key, key)
        values = [row["parameters"][key] for row in recipe["models"]]
        found[ours] = values if ours in method.parameters and method.parameters[ours].per_task else values[0]
    if given.get("nuslerp_flatten") is False:
        found["angles"] = "column" if given.get("nuslerp_row_wise") else "row"
    return found | ({"dialect": "mergekit"} if "dialect" in method.parameters else {})


def merged(text, dtype, **more):
    """Our merge for one of mergekit's recipes, as a checkpoint."""
    recipe, known = yaml.safe_load(text), models(dtype)
    name, options = recipe["merge_method"], parameters(recipe) | more
    listed = [row["model"] for row in recipe["models"]]
    base = known[recipe["base_model"]] if "base_model" in recipe else None
    method = methods.get(name)
    if method.space == "vector":
        return base + tv.merge(name, {m: known[m] - base for m in listed}, **options)
    if method.base == "none":
        return tv.merge(name, {m: known[m] for m in listed}, **options)
    return tv.merge(name, {m: known[m] for m in listed if known[m] is not base}, base=base, **options)


def deltas(text, dtype, name):
    """float64 (task, *shape): what the listed models moved."""
    known = tensors(f"inputs-{dtype}")
    listed = [row["model"] for row in yaml.safe_load(text)["models"] if row["model"] != "base"]
    return torch.stack([known[m][name].double() - known["base"][name].double() for m in listed])


def steps(x, y):
    """How many bfloat16 steps lie between two tensors, entry by entry; zeros of both signs are one."""

    def place(t):
        bits = t.bfloat16().view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (place(x) - place(y)).abs()
