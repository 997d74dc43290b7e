"""The Gram matrix of 8 fine-tunes against the released way: CPU seconds, peak anonymous memory, error.

Reference: as the code beside arXiv 2502.01015 does it, flat differences in memory, chunks (2,000,000, task) in float32,
`G += X.T @ X`. Its seconds are counted without loading and without subtracting the base (`product`: stacking the chunks
and the matmul; `matmul`: the matmul alone) and as a whole process (`process`). Ours is a whole process, files mapped,
base subtracted on the fly; `compute` is the same without the start of the interpreter, its imports and the loading of
compiled loops: it opens the files, reads and subtracts. Alternating runs, everything in the page cache; the error is
against all-float64 sums.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import _measure

TASKS = 8
_BUFFER = bytearray(1 << 22)
MODELS = {"87M": (12, 768, 3072), "300M": (24, 1024, 4096)}

REFERENCE = """
import json, sys, time, torch
from safetensors.torch import load_file
torch.set_num_threads(int(sys.argv[3]))
folder, out = sys.argv[1:3]
base = load_file(f"{folder}/base.safetensors")
flat = []
for t in range(8):
    tuned = load_file(f"{folder}/tuned{t}.safetensors")
    flat.append(torch.cat([tuned[n].sub_(base[n]).reshape(-1) for n in base]))
del tuned, base
started, inner = time.process_time(), 0.0
gram = torch.zeros(8, 8)
for at in range(0, flat[0].numel(), 2_000_000):
    x = torch.stack([f[at : at + 2_000_000] for f in flat], dim=1)
    before = time.process_time()
    gram += x.T @ x
    inner += time.process_time() - before
json.dump({"gram": gram.tolist(), "product": time.process_time() - started, "matmul": inner}, open(out, "w"))
"""

OURS = """
import json, sys, time
import torch
import taskvec as tv
folder, out, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
tiny = [tv.Checkpoint.from_tensors({"w": torch.full((4,), float(i))}) for i in range(3)]
tv.gram([t - tiny[0] for t in tiny[1:]])
started = time.process_time()
base = tv.Checkpoint.open(f"{folder}/base.safetensors")
gram = tv.gram([tv.Checkpoint.open(f"{folder}/tuned{t}.safetensors") - base for t in range(8)], threads=threads)
json.dump({"gram": gram.tolist(), "compute": time.process_time() - started}, open(out, "w"))
"""


def make(folder: Path, layers: int, hidden: int, inner: int) -> Path:
    """A base and eight fine-tunes in float32 with the shapes of a vision transformer; cosines near 0.1."""
    if (folder / ".done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"embed": (hidden, 3 * 32 * 32)}
    for i in range(layers):
        shapes |= {f"{i}.in_proj": (3 * hidden, hidden), f"{i}.out_proj": (hidden, hidden)}
        shapes |= {f"{i}.fc": (inner, hidden), f"{i}.proj": (hidden, inner), f"{i}.ln": (hidden,)}
    for t in range(-1, TASKS):
        tensors = {}
        for j, (name, shape) in enumerate(shapes.items()):
            tensors[name] = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(j))
            if t >= 0:
                common = torch.randn(shape, generator=torch.Generator().manual_seed(500 + j))
                own = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * (t + 1) + j))
                tensors[name] += 1e-3 * (1 + 0.2 * t) * (0.33 * common + own)
        save_file(tensors, folder / ("base.safetensors" if t < 0 else f"tuned{t}.safetensors"))
    (folder / ".done").touch()
    return folder


def _read(folder: Path) -> None:
    """Bring the files into the page cache, from which a run before may have driven them."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(_BUFFER):
                pass


def exact(folder: Path) -> torch.Tensor:
    """Float64 sums of float64 differences."""
    from safetensors import safe_open

    gram = torch.zeros(TASKS, TASKS, dtype=torch.float64)
    files = [safe_open(folder / f"{n}.safetensors", "pt") for n in ["base", *(f"tuned{t}" for t in range(TASKS))]]
    for name in files[0].keys():  # noqa: SIM118 - not a mapping
        base, *tuned = [f.get_tensor(name).double().reshape(-1) for f in files]
        x = torch.stack([t - base for t in tuned])
        gram += x @ x.T
    return gram


def main() -> None:
    """Measure, check, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", default="1")
    options = parser.parse_args()
    result = {}
    for key, sizes in MODELS.items():
        folder = make(_measure.WORK / f"gram{key}", *sizes)
        truth = exact(folder)
        norms = truth.diagonal().sqrt()
        runs: dict[str, list[_measure.Run]] = {"reference": [], "ours": []}
        tables: dict[str, list[dict[str, object]]] = {"reference": [], "ours": []}
        for _ in range(options.runs):
            for kind, code in (("reference", REFERENCE), ("ours", OURS)):
                out = folder / f"{kind}.json"
                _read(folder)
                run = _measure.run([*_measure.python(code), str(folder), str(out), options.threads])
                if run.code:
                    raise SystemExit(f"{kind} failed with code {run.code}")
                runs[kind].append(run)
                tables[kind].append(json.loads(out.read_text()))
        row = {kind: _measure.median(r) for kind, r in runs.items()}
        for kind, found in tables.items():
            gram = torch.tensor(found[-1]["gram"], dtype=torch.float64)
            row[kind]["error"] = float(((gram - truth).abs() / (norms[:, None] * norms[None, :])).max())
            for part in ("product", "matmul", "compute"):
                if part in found[0]:
                    row[kind][part] = sorted(float(str(t[part])) for t in found)[len(found) // 2]
        reference, ours = row["reference"], row["ours"]
        row["ratio"] = {
            "product_to_compute": round(reference["product"] / ours["compute"], 2),
            "matmul_to_compute": round(reference["matmul"] / ours["compute"], 2),
            "process_to_process": round(reference["cpu"] / ours["cpu"], 2),
        }
        result[key] = row
    print(_measure.write("gram_speed", {"runs": options.runs, "threads": options.threads, **result}).read_text())


if __name__ == "__main__":
    main()
