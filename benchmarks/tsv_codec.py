"""The codec `tsv` beside bf16, int8 and int4: error and exact bytes, at one density everywhere and by water-filling.

Of a synthetic vector of MiniLM's shapes (spectra that fall as j^-p, p from 0.2 to 1.2 by tensor), and of the fine-tuned
models of a folder that `taskvec demo` made (`--demo FOLDER`). Errors are measured on what is read back, not taken from
the files: the norm of decoded - delta over the norm of delta, over all tensors.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import _measure
import taskvec as tv
from taskvec.codecs._file import FileDelta

DENSITIES = {"1/20": 1 / 20, "1/8": 1 / 8, "1/4": 1 / 4}
DTYPES = ("float32", "bfloat16", "int8")
OTHERS: dict[str, dict[str, Any]] = {
    "bf16": {"codec": "dense", "dtype": "bfloat16"},
    "int8": {"codec": "int8"},
    "int4": {"codec": "int4"},
}


def synthetic(layers: int = 6, hidden: int = 384) -> tv.TaskVector:
    """Deltas of MiniLM's shapes, its vocabulary cut to 2,000."""
    tensors: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {"embeddings.weight": (2000, hidden)}
    for i in range(layers):
        shapes |= {f"layer.{i}.{n}.weight": (hidden, hidden) for n in ("query", "key", "value", "output")}
        shapes |= {f"layer.{i}.up.weight": (4 * hidden, hidden), f"layer.{i}.down.weight": (hidden, 4 * hidden)}
        shapes |= {f"layer.{i}.{n}.bias": (hidden,) for n in ("query", "key", "value", "output", "down")}
    for i, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed(i)
        if len(shape) == 1:
            tensors[name] = 1e-4 * torch.randn(shape, generator=generator)
            continue
        u, v = (torch.linalg.qr(torch.randn(n, hidden, generator=generator))[0] for n in shape)
        s = 0.05 * torch.arange(1, hidden + 1).float() ** -(0.2 + i % 6 / 5)
        tensors[name] = (u * s) @ v.T
    return tv.TaskVector.from_tensors(tensors)


def tuned(folder: Path, tasks: int) -> Iterator[tuple[str, tv.TaskVector]]:
    """The vectors of the first fine-tuned models of a demo."""
    base = tv.Checkpoint.open(folder / "base")
    for path in sorted((folder / "tuned").iterdir())[:tasks]:
        yield path.name, tv.Checkpoint.open(path) - base


def saved(vector: tv.TaskVector, folder: Path, **options: Any) -> dict[str, Any]:
    """Bytes of a file and of its data, and the error of what it holds."""
    path = vector.save(folder / "v.tv.safetensors", force=True, **options)
    again = tv.TaskVector.open(path)
    leaf = again.single()
    assert isinstance(leaf, FileDelta)
    parts = [(p, r) for p in leaf.parts.values() for r in p.roles()]
    return {
        "error": (again.rebased() - vector.rebased()).norm() / vector.norm(),
        "stated": leaf.total_error(),
        "data": sum(p.part_spec(r).nbytes for p, r in parts),
        "bytes": path.stat().st_size,
    }


def compared(vector: tv.TaskVector, folder: Path) -> dict[str, Any]:
    """Every codec on one vector; each uniform density beside the budget of its bytes."""
    rows: dict[str, Any] = {name: saved(vector, folder, **options) for name, options in OTHERS.items()}
    for label, density in DENSITIES.items():
        for dtype in DTYPES:
            other = dtype if dtype == "int8" else "bfloat16"
            same: dict[str, Any] = {"codec": "tsv", "dtype": dtype, "other": other}
            uniform = saved(vector, folder, density=density, **same)
            filled = saved(vector, folder, budget=uniform["data"], **same)
            rows[f"tsv {label} {dtype}"] = uniform
            rows[f"tsv budget of {label} {dtype}"] = filled
    return {"fp32": 4 * sum(s.numel for s in vector.specs.values()), "codecs": rows}


def main() -> None:
    """Write results/tsv_codec.json and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, help="a folder that `taskvec demo` made")
    parser.add_argument("--tasks", type=int, default=2, help="how many of its models")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {"synthetic": compared(synthetic(), Path(folder))}
        for name, vector in tuned(arguments.demo, arguments.tasks) if arguments.demo else ():
            result[name] = compared(vector, Path(folder))
    for name, table in result.items():
        print(name)
        for codec, row in table["codecs"].items():
            print(f"  {codec:32} {row['bytes'] / table['fp32']:7.2%} of fp32, error {row['error']:8.3%}")
    _measure.write("tsv_codec", result)


if __name__ == "__main__":
    main()
