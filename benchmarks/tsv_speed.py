"""TSV-Merge and TSV-Compress beside a full singular value decomposition of every matrix, in CPU seconds of one process.

The merges of T synthetic vectors of ViT shapes, singular values j^-p between random vectors (`--power`), and of the
stored vectors of a suite (`--real FOLDER`). The plain way follows the published recipe: a full decomposition of every
task's matrix in float32, the largest r // T triplets side by side, two more decompositions for the polar factors. Both
ways alternate, layer by layer, on one thread. Peak memory is that of a process that merges vectors from files, at some
layers and at twice as many.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import _measure
import taskvec as tv
from taskvec.ops.spectral import leading

SHAPES = {
    "vit-b-32": ((768, 768), (2304, 768), (3072, 768), (768, 3072)),
    "vit-l-14": ((1024, 1024), (3072, 1024), (4096, 1024), (1024, 4096)),
}
KEEP = 8  # TSV-Compress keeps r / 8 triplets
Matrices = Mapping[str, Sequence[torch.Tensor]]  # of every task, by tensor


def layer(shapes: Sequence[tuple[int, int]], tasks: int, power: float, seed: int) -> Matrices:
    """The deltas of one layer."""
    generator = torch.Generator().manual_seed(seed)

    def one(m: int, n: int) -> torch.Tensor:
        r = min(m, n)
        u, v = (torch.linalg.qr(torch.randn(size, r, generator=generator)).Q for size in (m, n))
        return (u * torch.arange(1, r + 1) ** -power) @ v.T

    return {f"{m}x{n}": [one(m, n) for _ in range(tasks)] for m, n in shapes}


def real(folder: Path) -> Iterator[Matrices]:
    """The matrices of stored vectors whose short side is above 64, a few at a time."""
    vectors = [tv.TaskVector.open(p) for p in sorted(folder.glob("*.tv.safetensors"))]
    for name, spec in vectors[0].specs.items():
        if len(spec.shape) == 2 and min(spec.shape) > 64 and max(spec.shape) < 20_000:
            yield {name: [v[name] for v in vectors]}


def plain_merge(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """The published recipe, in float32."""
    k = min(deltas[0].shape) // len(deltas)
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    s = torch.cat([d[:k] for _, d, _ in parts])
    u, _, vh = torch.linalg.svd(torch.cat([p[:, :k] for p, _, _ in parts], 1), full_matrices=False)
    left = u @ vh
    u, _, vh = torch.linalg.svd(torch.cat([qh[:k] for _, _, qh in parts]), full_matrices=False)
    merged: torch.Tensor = torch.linalg.multi_dot([left, torch.diag(s), u @ vh])
    return merged


def our_merge(vectors: Sequence[tv.TaskVector], **options: Any) -> torch.Tensor:
    """The same through the public door."""
    return tv.merge("tsv_m", vectors, threads=1, **options)[vectors[0].names()[0]]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what the work gives."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def merges(layers: Iterator[Matrices], *, checked: int) -> dict[str, Any]:
    """Both ways on every matrix; on the first few also the merge in float64."""
    seconds: dict[str, list[float]] = {}
    squares, size = 0.0, 0.0
    against: list[dict[str, float]] = []
    our_merge([tv.TaskVector.from_tensors({"w": torch.eye(65)})])  # compiles what is compiled
    for number, matrices in enumerate(layers):
        for name, deltas in matrices.items():
            vectors = [tv.TaskVector.from_tensors({name: delta}) for delta in deltas]
            ours, found = timed(lambda vectors=vectors: our_merge(vectors))
            plain, expected = timed(lambda deltas=deltas: plain_merge(deltas))
            row = seconds.setdefault("x".join(map(str, deltas[0].shape)), [0.0, 0.0])
            row[0], row[1] = row[0] + ours, row[1] + plain
            squares += float((found - expected).double().square().sum())
            size += float(expected.double().square().sum())
            if number < checked:
                exact = our_merge(vectors, exact=True)
                norm = float(exact.norm())
                against.append(
                    {"ours": float((found - exact).norm()) / norm, "plain": float((expected - exact).norm()) / norm}
                )
        print({k: round(plain / ours, 2) for k, (ours, plain) in seconds.items()}, flush=True)
    ours, plain = (sum(row[i] for row in seconds.values()) for i in (0, 1))
    return {
        "ratio": plain / ours,
        "seconds": {"ours": ours, "plain": plain},
        "by_shape": {k: {"ours": a, "plain": b, "ratio": b / a} for k, (a, b) in seconds.items()},
        "difference": (squares / size) ** 0.5,
        "largest_error_against_float64": {k: max(row[k] for row in against) for k in ("ours", "plain")},
    }


def compressions(layers: Iterator[Matrices]) -> dict[str, Any]:
    """The r / 8 largest triplets of the first task: all routes against the full decomposition of each matrix."""
    totals = {"plain": 0.0, "exact": 0.0, "certified": 0.0}
    routes: dict[str, int] = {}
    worst, certified = 1.0, 1.0
    for matrices in layers:
        for deltas in matrices.values():
            x, rank = deltas[0], min(deltas[0].shape) // KEEP
            seconds, (_, s, _) = timed(lambda x=x: torch.linalg.svd(x, full_matrices=False))
            totals["plain"] += seconds
            totals["exact"] += timed(lambda x=x, rank=rank: leading(x, rank))[0]
            seconds, found = timed(lambda x=x, rank=rank: leading(x, rank, energy=0.999))
            totals["certified"] += seconds
            routes[found.route] = routes.get(found.route, 0) + 1
            certified = min(certified, found.energy)
            kept = found.triplets.s.square().sum() / s[:rank].double().square().sum()
            worst = min(worst, float(kept))
    return {
        "seconds": totals,
        "ratio_exact": totals["plain"] / totals["exact"],
        "ratio_certified": totals["plain"] / totals["certified"],
        "routes": routes,
        "certified_energy": certified,
        "measured_energy": worst,
    }


MERGE = """
import sys, torch, taskvec as tv
torch.set_num_threads(1)
base = tv.Checkpoint.open(sys.argv[1])
vectors = [tv.Checkpoint.open(p) - base for p in sys.argv[3:]]
(base + tv.merge("tsv_m", vectors, threads=1)).save(sys.argv[2], threads=1)
"""


def memory(shapes: Sequence[tuple[int, int]], tasks: int, layers: int) -> dict[str, Any]:
    """Peak anonymous memory of merging models from files, and what their matrices take."""
    with tempfile.TemporaryDirectory(dir=_measure.WORK if _measure.WORK.exists() else None) as folder:
        names = [f"{i}.{m}x{n}" for i in range(layers) for m, n in shapes]
        zeros = {n: torch.zeros(*map(int, n.split(".")[1].split("x"))) for n in names}
        tv.Checkpoint.from_tensors(zeros).save(Path(folder) / "base.safetensors")
        paths = []
        for t in range(tasks):
            generator = torch.Generator().manual_seed(t)
            tensors = {n: torch.randn(z.shape, generator=generator) for n, z in zeros.items()}
            paths.append(str(Path(folder) / f"{t}.safetensors"))
            tv.Checkpoint.from_tensors(tensors).save(paths[-1])
            del tensors
        command = [sys.executable, "-c", MERGE, f"{folder}/base.safetensors", f"{folder}/out.safetensors", *paths]
        run = _measure.run(command)
        idle = _measure.run([sys.executable, "-c", "import torch, taskvec.engine.merge"])
    assert run.code == 0
    largest = 4 * max(m * n for m, n in shapes)
    return {
        "layers": layers,
        "peak_anonymous": run.peak_anonymous,
        "of_the_interpreter": idle.peak_anonymous,
        "largest_matrix_of_all_tasks": tasks * largest,
        "all_models": tasks * sum(4 * z.numel() for z in zeros.values()),
    }


def main() -> None:
    """Write results/tsv_speed*.json and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="vit-b-32")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--power", type=float, default=0.6)
    parser.add_argument("--fast-power", type=float, default=1.5, help="of spectra that fall fast, for TSV-Compress")
    parser.add_argument("--real", type=Path, help="a folder of stored vectors, as suite_protocols.py leaves one")
    parser.add_argument("--memory-layers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shapes, key = SHAPES[options.shape], f"{options.shape}-{options.tasks}"
    shared = (shapes, options.tasks)
    result: dict[str, Any] = {"options": {k: v for k, v in vars(options).items() if k != "real"}}
    result["merge"] = merges((layer(*shared, options.power, i) for i in range(options.layers)), checked=1)
    for label, power in (("compress", options.power), ("compress_fast_spectra", options.fast_power)):
        result[label] = compressions(layer(shapes, 1, power, 100 + i) for i in range(min(options.layers, 3)))
    if options.real is not None:
        result["real"] = {"merge": merges(real(options.real), checked=4), "compress": compressions(real(options.real))}
    if options.memory_layers:
        result["memory"] = [memory(*shared, n * options.memory_layers) for n in (1, 2)]
    name = "tsv_speed" if key == "vit-b-32-8" else f"tsv_speed-{key}"
    print(json.dumps(result, indent=1))
    _measure.write(name, result)


if __name__ == "__main__":
    main()
