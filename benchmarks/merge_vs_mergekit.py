"""Merges of 1.1 B bf16 models beside mergekit 0.1.5: CPU-seconds, wall, peak anonymous memory, and the outputs.

mergekit has an environment of its own, never taskvec's: the folder `$TASKVEC_MERGEKIT`, or one made under the
benchmark's. Both tools read the same files and write bf16 models; their runs alternate, after one run on tiny models
that compiles our loops. The outputs are compared entry by entry, in steps of one bf16 ulp. `--rows ties slerp` runs
those rows and keeps the others of the JSON; `--table` only rewrites the table in benchmarks/README.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, NamedTuple

import _measure
import _models

NAME, PINS = "merge_vs_mergekit", ["torch==2.13.0", "mergekit==0.1.5"]
RESULT, README = _measure.RESULTS / f"{NAME}.json", Path(__file__).with_name("README.md")
BEGIN, END = "<!-- merge_vs_mergekit: written by `merge_vs_mergekit.py --table` -->", "<!-- end -->"


class Row(NamedTuple):
    """One merge for both tools: mergekit's shared and per-model parameters, and ours."""

    method: str
    shared: dict[str, float]
    each: dict[str, float]
    ours: dict[str, object]
    of_mergekit: bool = True


def _voting(density: float) -> dict[str, float]:
    return {"weight": 0.5, "density": density}


def _dialect(density: float) -> dict[str, object]:
    return {"coefficients": 0.5, "density": density, "dialect": "mergekit"}


ROWS = {
    "linear": Row("linear", {}, {"weight": 0.5}, {"coefficients": 0.5, "dialect": "mergekit"}),
    "task_arithmetic": Row("task_arithmetic", {}, {"weight": 0.4}, {"coefficients": 0.4}),
    "slerp": Row("slerp", {"t": 0.3}, {}, {"t": 0.3}),
    "ties": Row("ties", {}, _voting(0.2), _dialect(0.2)),
    "dare_ties": Row("dare_ties", {}, _voting(0.5), _dialect(0.5)),
    "ties_whole_model": Row("ties", {}, {}, {"density": 0.2}, of_mergekit=False),
}


def environment() -> Path:
    """The folder of mergekit's own environment."""
    folder = Path(os.environ.get("TASKVEC_MERGEKIT", _measure.WORK / "mergekit"))
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
    return folder


def config(row: Row, base: Path, tuned: list[Path]) -> str:
    """mergekit's recipe."""
    models: list[dict[str, Any]] = [{"model": str(p)} for p in ([base, tuned[0]] if row.method == "slerp" else tuned)]
    for model in models:
        model["parameters"] = row.each
    told = {"merge_method": row.method, "dtype": "bfloat16", "models": models, "parameters": row.shared}
    return json.dumps(told if row.method == "linear" else {**told, "base_model": str(base)})  # JSON is YAML


def ours(row: Row, base: Path, tuned: list[Path], out: Path) -> list[str]:
    """Our command."""
    points = [base, tuned[0]] if row.method == "slerp" else tuned
    command = [sys.executable, "-m", "taskvec", "merge", "--method", row.method, "-o", str(out), "--quiet"]
    command += [] if row.method in {"slerp", "linear"} else ["--base", str(base)]
    for key, value in row.ours.items():
        command += ["--dialect", str(value)] if key == "dialect" else ["--set", f"{key}={value}"]
    return [*command, *map(str, points)]


def run(command: list[str], out: Path, *, quiet: bool) -> _measure.Run:
    """One run that leaves a model in `out`.

    Raises:
        SystemExit: the tool failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    found = _measure.run(command, stderr=subprocess.DEVNULL if quiet else None)
    if found.code:
        raise SystemExit(f"{' '.join(command)} failed with code {found.code}")
    return found


def compile_loops(name: str) -> None:
    """One merge of small models, so that no timed run compiles."""
    base = _models.make(_measure.WORK / "small", seed=None, layers=0)
    tuned = [_models.make(_measure.WORK / f"small{i}", seed=i, layers=0) for i in (1, 2)]
    run(ours(ROWS[name], base, tuned, _measure.WORK / "ours"), _measure.WORK / "ours", quiet=False)


def measure(name: str, runs: int, base: Path, tuned: list[Path]) -> dict[str, Any]:
    """The medians of alternating runs of a row, and how the outputs differ."""
    row, mine, theirs = ROWS[name], _measure.WORK / "ours", _measure.WORK / "theirs"
    recipe = _measure.WORK / "row.yml"
    recipe.write_text(config(row, base, tuned))
    compile_loops(name)
    commands = {"taskvec": (ours(row, base, tuned, mine), mine)}
    if row.of_mergekit:
        tool = environment() / "bin" / "mergekit-yaml"
        commands["mergekit"] = ([str(tool), str(recipe), str(theirs), "--no-copy-tokenizer"], theirs)
    found: dict[str, list[_measure.Run]] = {key: [] for key in commands}
    for _ in range(runs):
        for key, (command, out) in commands.items():
            found[key].append(run(command, out, quiet=key == "mergekit"))
    result: dict[str, Any] = {key: _measure.median(values) for key, values in found.items()}
    result |= {"runs": runs, "machine": _measure.environment()}
    if row.of_mergekit:
        result["cpu_ratio"] = round(result["mergekit"]["cpu"] / result["taskvec"]["cpu"], 2)
        result["outputs"] = compare(mine, theirs)
    for folder in (mine, theirs):
        shutil.rmtree(folder, ignore_errors=True)
    return result


def compare(a: Path, b: Path) -> dict[str, float]:
    """Fractions of entries that differ, and by more than one bf16 step; the largest difference in steps."""
    import torch
    from safetensors import safe_open

    def steps(x: torch.Tensor) -> torch.Tensor:
        bits = x.bfloat16().view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    where = {k: f for f in sorted(b.glob("*.safetensors")) for k in safe_open(f, "pt").keys()}  # noqa: SIM118
    total = differ = more = largest = 0
    for file in sorted(a.glob("*.safetensors")):
        with safe_open(file, "pt") as x:
            for name in x.keys():  # noqa: SIM118
                with safe_open(where.pop(name), "pt") as y:
                    gap = (steps(x.get_tensor(name)) - steps(y.get_tensor(name))).abs()
                total += gap.numel()
                differ += int((gap > 0).sum())
                more += int((gap > 1).sum())
                largest = max(largest, int(gap.max()))
    if where:
        raise SystemExit(f"only in {b}: {', '.join(where)}")
    return {"differ": differ / total, "more_than_one_step": more / total, "largest_steps": largest}


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| merge | taskvec: CPU s / wall s / GiB | mergekit: CPU s / wall s / GiB | CPU ratio"
        " | entries that differ / by more than one bf16 step |",
        "|---|---|---|---|---|",
    ]
    for name in (n for n in ROWS if n in result):
        row = result[name]
        cells = [_figures(row["taskvec"])]
        if "mergekit" in row:
            out = row["outputs"]
            cells += [_figures(row["mergekit"]), f"{row['cpu_ratio']:.1f}"]
            random = name == "dare_ties"
            differ = "other random numbers" if random else f"{out['differ']:.2%} / {out['more_than_one_step']:.2%}"
            cells += [differ]
        else:
            cells += ["not possible", "", ""]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    rows = [result[n] for n in ROWS if n in result]
    machines = sorted(
        {f"{r['machine']['cores']} cores, {r['machine']['memory_gib']} GiB, {r['machine']['date']}" for r in rows}
    )
    runs = min(r["runs"] for r in rows)
    told = (
        f"Medians of {runs} alternating runs; {'; '.join(machines)}."
        if runs > 1
        else (f"Provisional, one run each on a busy machine; {'; '.join(machines)}.")
    )
    return "\n".join([told, "", *lines])


def _figures(row: dict[str, float]) -> str:
    return f"{row['cpu']:.1f} / {row['wall']:.1f} / {row['peak_anonymous'] / 2**30:.2f}"


def write_table(result: dict[str, Any]) -> None:
    """Rewrite the table in README.md beside this script."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    """Measure the rows, write the JSON after each, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="alternating runs of each row")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--table", action="store_true", help="measure nothing; rewrite the table from the JSON")
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if not options.table:
        base = _models.make(_measure.WORK / "plain", seed=None)
        tuned = [_models.make(_measure.WORK / f"plain{i}", seed=i) for i in (1, 2)]
        os.environ["TASKVEC_CACHE"] = str(_measure.WORK / "cache")
        for name in options.rows:
            result[name] = measure(name, options.runs, base, tuned)
            print(name, json.dumps(result[name]), flush=True)
            _measure.write(NAME, result)
    write_table(result)


if __name__ == "__main__":
    main()
