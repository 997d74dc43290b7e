"""Real task vectors of a suite: interference before and after whitening, by depth; energy and interference as T grows.

Fine-tunes the suite once (kept in `work/`). T vectors keep r // T singular triplets each. For every T from 2 to all of
them, numbers are means over the windows of T neighboring tasks (cyclic, in the suite's order), and their extremes.
Interference is entrywise STI, summed over all matrices.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import _measure
import _suite
import taskvec as tv
from taskvec.analyze import Analysis

ANALYSES = ("energy", "overlap", "sar", "sti")
Numbers = dict[str, float]


def main() -> None:
    """Tune, analyze, write `interference-<suite>.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="docs8", choices=sorted(_suite.SUITES))
    parser.add_argument("--regime", default="standard")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.process_time()
    tuned = _suite.fine_tuned(options.suite, steps=options.steps, seed=options.seed, regime=options.regime)
    everything = tv.analyze(tuned.vectors, ANALYSES, whiten=True)
    result = {
        "suite": options.suite,
        "regime": options.regime,
        "settings": asdict(tuned.settings),
        "tasks": list(tuned.vectors),
        "whole": numbers(everything),
        "by_depth": profiles(everything, "depth"),
        "by_kind": profiles(everything, "kind"),
        "by_number_of_tasks": [of_size(tuned.vectors, size, everything) for size in range(2, len(tuned.vectors) + 1)],
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    suffix = "" if options.regime == "standard" else f"-{options.regime}"
    path = _measure.write(f"interference-{options.suite}{suffix}", result)
    for row in result["by_depth"]:
        print(f"layer {row['depth']}: STI {row['sti']:8.1f}, whitened {row['whitened']:.1e}, kept {row['kept']:.1%}")
    for row in result["by_number_of_tasks"]:
        print(f"T = {row['tasks']}: STI {row['mean']['sti']:8.1f}, kept {row['mean']['kept']:.1%} of the energy")
    print(path)


def numbers(found: Analysis) -> Numbers:
    """Sums and means over all matrices that move."""
    moving = [row for row in found["sti"] if row["rank"]]
    return {
        "sti": math.fsum(row["value"] for row in moving),
        "whitened": math.fsum(row["whitened"] for row in moving),
        "dropped": sum(row["dropped"] for row in moving),
        "kept": mean(found, "energy", "kept"),
        "left_overlap": mean(found, "overlap", "left"),
        "right_overlap": mean(found, "overlap", "right"),
        "aligned": mean(found, "sar", "value"),
    }


def mean(found: Analysis, table: str, column: str) -> float:
    """The mean of a column."""
    return math.fsum(row[column] for row in found[table]) / len(found[table])


def profiles(found: Analysis, by: str) -> list[dict[str, Any]]:
    """The same by layer, or by kind of matrix; sums of interference, means of the rest."""
    columns: Mapping[str, tuple[str, str, bool]] = {
        "sti": ("sti", "value", True),
        "whitened": ("sti", "whitened", True),
        "kept": ("energy", "kept", False),
        "effective_rank": ("energy", "effective_rank", False),
        "left_overlap": ("overlap", "left", False),
        "right_overlap": ("overlap", "right", False),
        "aligned": ("sar", "value", False),
    }
    each = {name: found.profile(table, column, by, total=total) for name, (table, column, total) in columns.items()}
    return [{by: at, **{name: values[at] for name, values in each.items()}} for at in sorted(each["kept"])]


def of_size(vectors: Mapping[str, tv.TaskVector], size: int, everything: Analysis) -> dict[str, Any]:
    """Mean, least and greatest over the windows of so many tasks."""
    names = list(vectors)
    starts = range(len(names) if size < len(names) else 1)
    windows = [[names[(start + i) % len(names)] for i in range(size)] for start in starts]

    def found(window: Sequence[str]) -> Numbers:
        some = {name: vectors[name] for name in window}
        return numbers(everything if size == len(names) else tv.analyze(some, ANALYSES, whiten=True))

    each = [found(window) for window in windows]
    print(f"{len(windows)} windows of {size} tasks", flush=True)
    return {
        "tasks": size,
        "windows": len(windows),
        "mean": over(each, lambda values: math.fsum(values) / len(values)),
        "least": over(each, min),
        "greatest": over(each, max),
    }


def over(found: Sequence[Numbers], how: Callable[[list[float]], float]) -> Numbers:
    """One number of each kind."""
    return {name: how([each[name] for each in found]) for name in found[0]}


if __name__ == "__main__":
    main()
