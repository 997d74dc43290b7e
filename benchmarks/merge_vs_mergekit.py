"""Merges of three 1.1 B bf16 models beside mergekit 0.1.5: CPU-seconds, wall, peak anonymous memory, and the outputs.

mergekit is installed in an environment of its own (`work/mergekit`), never beside taskvec. Runs alternate. Both tools
read the same files and write bf16 models; the outputs are compared entry by entry, in steps of one bf16 ulp.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import _measure
import _models

PINS = ["torch==2.13.0", "mergekit==0.1.5"]
CASES = {
    "linear": ("linear", {}, {"weight": 0.5}, {"coefficients": 0.5, "dialect": "mergekit"}),
    "task_arithmetic": ("task_arithmetic", {}, {"weight": 0.4}, {"coefficients": 0.4}),
    "slerp": ("slerp", {"t": 0.3}, {}, {"t": 0.3}),
    "ties": ("ties", {}, {"weight": 0.5, "density": 0.2}, {"coefficients": 0.5, "density": 0.2, "dialect": "mergekit"}),
    "dare_ties": (
        "dare_ties",
        {},
        {"weight": 0.5, "density": 0.5},
        {"coefficients": 0.5, "density": 0.5, "dialect": "mergekit"},
    ),
    "ties_whole_model": ("", {}, {}, {"density": 0.2}),
}


def environment() -> Path:
    """The Python of mergekit's own environment."""
    folder = _measure.WORK / "mergekit"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
    return python


def config(method: str, shared: dict[str, float], each: dict[str, float], base: Path, tuned: list[Path]) -> str:
    """mergekit's YAML for one case."""
    lines = [f"merge_method: {method}", "dtype: bfloat16"]
    listed = [base, tuned[0]] if method == "slerp" else tuned
    if method not in ("linear",):
        lines.append(f"base_model: {base}")
    lines.append("models:")
    for path in listed:
        lines.append(f"  - model: {path}")
        if each:
            lines.append("    parameters: {" + ", ".join(f"{k}: {v}" for k, v in each.items()) + "}")
    if shared:
        lines.append("parameters: {" + ", ".join(f"{k}: {v}" for k, v in shared.items()) + "}")
    return "\n".join(lines) + "\n"


def ours(case: str, settings: dict[str, object], base: Path, tuned: list[Path], out: Path) -> list[str]:
    """Our command for one case."""
    method = "ties" if case == "ties_whole_model" else case
    points = [base, tuned[0]] if method == "slerp" else tuned
    command = [sys.executable, "-m", "taskvec", "merge", "--method", method, "-o", str(out), "--quiet"]
    command += [] if method in ("slerp", "linear") else ["--base", str(base)]
    for key, value in settings.items():
        command += ["--dialect", str(value)] if key == "dialect" else ["--set", f"{key}={value}"]
    return [*command, *map(str, points)]


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
                with safe_open(where[name], "pt") as y:
                    gap = (steps(x.get_tensor(name)) - steps(y.get_tensor(name))).abs()
                total += gap.numel()
                differ += int((gap > 0).sum())
                more += int((gap > 1).sum())
                largest = max(largest, int(gap.max()))
    return {"differ": differ / total, "more_than_one_step": more / total, "largest_steps": largest}


def main() -> None:
    """Measure, compare, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    base = _models.make(_measure.WORK / "plain", seed=None)
    tuned = [_models.make(_measure.WORK / f"plain{i}", seed=i) for i in (1, 2)]
    os.environ["TASKVEC_CACHE"] = str(_measure.WORK / "cache")
    mergekit = environment().parent / "mergekit-yaml"
    result: dict[str, object] = {"runs": options.runs, "mergekit": "0.1.5"}
    for case in options.cases:
        method, shared, each, settings = CASES[case]
        mine, theirs = _measure.WORK / "ours", _measure.WORK / "theirs"
        recipe = _measure.WORK / "case.yml"
        recipe.write_text(config(method, shared, each, base, tuned))
        runs: dict[str, list[_measure.Run]] = {"taskvec": [], "mergekit": []}
        for _ in range(options.runs):
            for key, command, out in (
                ("taskvec", ours(case, settings, base, tuned, mine), mine),
                ("mergekit", [str(mergekit), str(recipe), str(theirs), "--no-copy-tokenizer"], theirs),
            ):
                if key == "mergekit" and not method:
                    continue
                shutil.rmtree(out, ignore_errors=True)
                runs[key].append(_measure.run(command, stderr=subprocess.DEVNULL if key == "mergekit" else None))
                if runs[key][-1].code:
                    raise SystemExit(f"{key} failed on {case} with code {runs[key][-1].code}")
        row: dict[str, object] = {key: _measure.median(values) for key, values in runs.items() if values}
        if method:
            row["cpu_ratio"] = round(row["mergekit"]["cpu"] / row["taskvec"]["cpu"], 2)  # type: ignore[index]
            if case != "dare_ties":
                row["outputs"] = compare(mine, theirs)
        result[case] = row
        print(case, row, flush=True)
        _measure.write("merge_vs_mergekit", result)


if __name__ == "__main__":
    main()
