"""The cost of a tangent step and of a disentanglement map, beside an ordinary step and a forward pass.

Each measurement runs in a process of its own (so that its peak memory is its own) and reports CPU-seconds a step; the
order alternates. The base is all-MiniLM-L6-v2 on 32 texts of 33 tokens, and a small ViT (random weights) on 32 images.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import _measure

KINDS = ("standard_fused", "standard_plain", "tangent")
BATCH, TOKENS = 32, 33


def model_of(name: str, attention: str) -> tuple[Any, dict[str, Any], Callable[[Any], Any]]:
    """A module, one batch, and how a feature is taken from its output."""
    import torch
    import transformers

    torch.manual_seed(0)
    if name == "vit":
        config = transformers.ViTConfig(
            image_size=32, patch_size=4, hidden_size=192, num_hidden_layers=6, num_attention_heads=6,
            intermediate_size=768, attn_implementation=attention,
        )  # fmt: skip
        return transformers.ViTModel(config).eval(), {"pixel_values": torch.randn(BATCH, 3, 32, 32)}, _first
    from taskvec.suites import base_source

    module = transformers.AutoModel.from_pretrained(base_source(), attn_implementation=attention).float().eval()
    ids = torch.randint(1000, 20000, (BATCH, TOKENS))
    return module, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, _first


def _first(output: Any) -> Any:
    return output.last_hidden_state.mean(1)


def step_of(name: str, kind: str) -> Callable[[], None]:
    """One optimizer step of one kind."""
    import torch

    from taskvec.suites.linearize import first_order, weights_of
    from taskvec.tune import trainable_parameters

    module, batch, feature = model_of(name, "eager" if kind == "standard_plain" else "sdpa")
    names = trainable_parameters(module)
    module.requires_grad_(False)
    target = torch.randn(BATCH, feature(module(**batch)).shape[-1])
    if kind == "tangent":
        point = weights_of(module)
        leaves = {n: torch.zeros_like(point[n], requires_grad=True) for n in names}

        def forward() -> Any:
            def features(weights: Any) -> Any:
                return feature(torch.func.functional_call(module, dict(weights), (), batch))

            return first_order(features, point, leaves)
    else:
        leaves = dict(names)

        def forward() -> Any:
            return feature(module(**batch))

    for leaf in leaves.values():
        leaf.requires_grad_(True)
    optimizer = torch.optim.AdamW(list(leaves.values()), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        ((forward() - target) ** 2).mean().backward()
        optimizer.step()

    return step


def child(name: str, kind: str, steps: int, threads: int) -> None:
    """Measure in this process and print JSON."""
    import torch

    torch.set_num_threads(threads)
    step = step_of(name, kind)
    step()
    before, started = time.process_time(), time.perf_counter()
    for _ in range(steps):
        step()
    cpu, wall = (time.process_time() - before) / steps, (time.perf_counter() - started) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak}))


def map_cost(threads: int) -> dict[str, float]:
    """A 25 × 25 map of two vectors in the tangent regime, in forwards of the same inputs."""
    import torch

    import taskvec as tv
    from taskvec.evaluate import disentanglement, prepare, score
    from taskvec.suites import Split, Suite, Task, TextEncoder, base_source, heads_of

    torch.set_num_threads(threads)
    words = ("red", "green", "blue", "one", "two", "three")
    texts = tuple(" ".join(words[(i * 7 + j * 3) % 6] for j in range(30)) for i in range(128))
    split = Split(texts, tuple(i % 2 for i in range(128)))
    splits = dict.fromkeys(("train", "val", "test"), split)
    tasks = tuple(
        Task(name=n, classes=("a", "b"), phrases=(f"{n} first", f"{n} second"), splits=splits) for n in ("x", "y")
    )
    grid = [i / 4 for i in range(-12, 13)]
    suite = Suite(name="cost", base=base_source(), tasks=tasks, temperature=20.0, versions={})
    encoder = TextEncoder.open()
    point = {n: p for n, p in encoder.module.named_parameters() if p.ndim == 2}
    vectors = {n: tv.TaskVector.from_tensors({k: 1e-3 * torch.randn_like(p) for k, p in point.items()}) for n in "xy"}
    prepared = prepare(encoder, suite, split="test", heads=heads_of(suite, base=encoder))
    seconds = []
    for work in (
        lambda: score(encoder, prepared),
        lambda: disentanglement(encoder, vectors, prepared, grid, regime="linear"),
    ):
        work()
        before = time.process_time()
        work()
        seconds.append(time.process_time() - before)
    return {"forward": seconds[0], "map": seconds[1], "forwards_a_map": seconds[1] / seconds[0]}


def main() -> None:
    """Measure in alternation, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.steps, options.threads)
        return
    result: dict[str, Any] = {"runs": options.runs, "steps": options.steps, "threads": options.threads}
    for name in ("minilm", "vit"):
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(options.runs):
            for kind in KINDS:
                command = [sys.executable, __file__, "--child", name, kind, "--steps", str(options.steps)]
                done = subprocess.run([*command, "--threads", str(options.threads)], check=True, capture_output=True)
                found[kind].append(json.loads(done.stdout.splitlines()[-1]))
        row: dict[str, Any] = {
            kind: {key: sorted(r[key] for r in runs)[len(runs) // 2] for key in runs[0]} for kind, runs in found.items()
        }
        for plain in KINDS[:2]:
            for key in ("cpu", "wall", "peak"):
                row[f"{key}_to_{plain}"] = round(row["tangent"][key] / row[plain][key], 2)
        result[name] = row
        print(name, json.dumps(row), flush=True)
    result["map"] = map_cost(options.threads)
    print(_measure.write("tangent_cost", result).read_text())


if __name__ == "__main__":
    main()
