"""`taskvec plan` against measured runs: peak memory and time of a linear, an element-wise and a whole-tensor merge.

python benchmarks/plan_accuracy.py --layers 2      # a quick run; default: 22 layers, 1.1 B parameters
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import _measure
import _models

# A method that needs whole tensors, whatever is registered: row norms of the inputs on the mean's directions.
WHOLE = """
from taskvec.methods import merge_method

def row_balanced(deltas):
    '''The mean of the deltas with the mean of their row norms.'''
    mean = deltas.mean(0)
    rows = mean.reshape(mean.shape[0], -1) if mean.dim() else mean.reshape(1, 1)
    norms = deltas.reshape(len(deltas), *rows.shape).norm(dim=-1).mean(0)
    return (rows * (norms / rows.norm(dim=-1).clamp_min(1e-30))[:, None]).reshape(mean.shape)

merge_method(source="this benchmark", acts_on="tensor")(row_balanced)
"""
CASES: dict[str, dict[str, Any]] = {
    "linear": {"method": "task_arithmetic", "parameters": {"coefficients": 0.3}},
    "element": {"method": "ties", "parameters": {"density": 0.2}},
    "whole": {"method": "row_balanced", "parameters": {}},
}
MEASURED = (
    "import sys, json, taskvec as tv\nr = tv.Recipe.from_data(json.loads(sys.argv[1]))\n"
    "r.run(sys.argv[2], threads=int(sys.argv[3]), force=True)"
)
PLANNED = (
    "import sys, json, taskvec as tv\n"
    "print(tv.Recipe.from_data(json.loads(sys.argv[1])).plan(threads=int(sys.argv[2])).to_json())"
)


def _code(recipe: dict[str, Any], code: str) -> str:
    return f"{WHOLE}\n{code}" if recipe["method"] == "row_balanced" else code


def planned(recipe: dict[str, Any], threads: int) -> dict[str, Any]:
    """The plan of a recipe, from a process of its own."""
    command = [*_measure.python(_code(recipe, PLANNED)), _measure.json.dumps(recipe), str(threads)]
    return dict(_measure.json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def compare(recipe: dict[str, Any], out: Path, threads: int, runs: int) -> dict[str, Any]:
    """Predicted beside the median of the measured runs."""
    plan = planned(recipe, threads)
    command = [*_measure.python(_code(recipe, MEASURED)), _measure.json.dumps(recipe), str(out), str(threads)]
    figures = []
    for _ in range(runs):
        figures.append(_measure.run(command))
        if figures[-1].code:
            raise SystemExit(f"{recipe['method']} failed with code {figures[-1].code}")
        shutil.rmtree(out, ignore_errors=True)
    found = _measure.median(figures)
    return {
        "method": recipe["method"],
        "threads": threads,
        "passes": plan["passes"],
        "predicted_peak": plan["peak"],
        "measured_peak": found["peak_anonymous"],
        "peak_ratio": round(plan["peak"] / found["peak_anonymous"], 2),
        "predicted_seconds": round(plan["seconds"], 1),
        "measured_seconds": round(found["wall"], 1),
        "measured_cpu": round(found["cpu"], 1),
    }


def main() -> None:
    """Measure, compare, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=_models.LAYERS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    work = _measure.WORK / f"plan-{given.layers}"
    os.environ["TASKVEC_CACHE"] = str(work / "cache")
    base = _models.make(work / "base", seed=None, layers=given.layers)
    tuned = [_models.make(work / f"tuned{i}", seed=i, layers=given.layers) for i in (1, 2)]
    rows = {}
    for name, fields in CASES.items():
        recipe = {**fields, "base": str(base), "inputs": [str(t) for t in tuned]}
        for threads in given.threads:
            rows[f"{name}-{threads}"] = compare(recipe, work / "out", threads, given.runs)
            print(name, rows[f"{name}-{threads}"], flush=True)
    _measure.write("plan_accuracy", {"layers": given.layers, "runs": given.runs, "tasks": 2, "rows": rows})


if __name__ == "__main__":
    main()
