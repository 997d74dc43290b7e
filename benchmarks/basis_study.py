"""Bases on a suite's real task vectors: what addition, negation, few shots and arrivals lose, and which bounds hold.

Every solver at half and a quarter of the tasks beside all vectors and beside codecs, on few texts (`--val`, `--test`,
`--few`): differences below about two standard errors are noise. Nothing that was scored once is scored again, so an
interrupted run goes on. Writes `basis_study-SUITE.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

import _measure
import taskvec as tv
from _points import Point, Points, mean_accuracy, plus, stderr, times
from _suite import SUITES, fine_tuned
from taskvec.basis import certificate, transfer
from taskvec.basis import negation as certified_negation
from taskvec.bench.memo import Memo
from taskvec.bench.settings import CODECS
from taskvec.evaluate import choose_best, choose_negation, deltas_of, few_shot

SOLVERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "addition_exact": ("addition_exact", {}),
    "pca": ("pca", {}),
    "autoencoder": ("autoencoder", {}),
    "cluster, mean": ("cluster", {"inner": "mean"}),
    "cluster, ties": ("cluster", {"inner": "ties"}),
    "select, medoids": ("select", {"by": "medoids"}),
    "select, leverage": ("select", {"by": "leverage"}),
    "random sample": ("random", {}),
}
SUM_SCALES = (0.1, 0.2, 0.3, 0.45)  # in lengths of the sum of all tasks
NEGATION_SCALES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
FEW_SHOT_GRID = (-0.5, 0.0, 0.25, 0.5, 1.0)
BESIDE = ("bfloat16", "int8", "int4", "tsv 1/4", "tsv 1/8 int8")
PARTS = ("arrival", "few_shot", "compression", "certificates")
CONSTANTS = ("tight", "secant", "curvature")
ROUNDING = 1e-4  # nats, of losses in float32


class Study:
    """What is shared: points, inner products, scores of the single models, constants of the losses."""

    def __init__(self, points: Points, targets: int, few: Mapping[str, int]) -> None:
        self.points, self.few = points, few
        self.tuned, self.tasks = points.tuned, points.tasks
        self.vectors = dict(self.tuned.vectors)
        self.gram = tv.Gram.of(self.vectors)
        self.single = {s: {t: points.at({t: 1.0}, s, [t])[t] for t in self.tasks} for s in ("val", "test")}
        self.targets = self.tasks[:: max(1, len(self.tasks) // targets)][:targets]
        self.length = float(self.gram.matrix.sum()) ** 0.5
        self.whole = dict.fromkeys(self.tasks, 1.0)
        self.certified: list[tuple[dict[str, Any], Point]] = []

    def _control(self, task: str) -> str | None:
        suite = self.tuned.suite
        return next((t.name for t in (*suite.controls, *suite.tasks) if t.name in self.tasks and t.name != task), None)

    def fit(self, label: str, size: int, tasks: Iterable[str]) -> tv.Basis:
        """A basis of some of the tasks."""
        method, options = SOLVERS[label]
        return tv.Basis.fit({t: self.vectors[t] for t in tasks}, size, method, **options)

    def total(self, basis: tv.Basis, label: str) -> dict[str, float]:
        """The sum of the basis vectors; for PCA, whose vectors have no meaning one by one, that of the tasks."""
        if basis.asked.method == "pca":
            return self.points.of(basis.combine(1.0), label)
        return plus(*(self.points.of(v, label) for v in basis.vectors()))

    # --- protocols --------------------------------------------------------------------------------------------------

    def addition(self, direction: Point, where: Mapping[str, Any]) -> dict[str, Any]:
        """base + scale × direction on all tasks, at the scale that validation chooses."""
        unit = self.length / self.points.length(direction)
        scales = [round(x * unit, 9) for x in SUM_SCALES]
        val = [self.points.at(times(direction, s), "val") for s in scales]
        own = self.single["val"]
        norms = [sum(v[t]["accuracy"] / own[t]["accuracy"] for t in self.tasks) / len(self.tasks) for v in val]
        scale = choose_best(scales, norms)
        self.certified.append(({"kind": "addition", **where}, times(direction, scale)))
        return {"scale": scale, "lengths": scale / unit, **self._tested(times(direction, scale))}

    def _tested(self, point: Point) -> dict[str, Any]:
        found, own = self.points.at(point, "test"), self.single["test"]
        norm = sum(found[t]["accuracy"] / own[t]["accuracy"] for t in self.tasks) / len(self.tasks)
        tasks = {t: row["accuracy"] for t, row in found.items()}
        return {"mean": mean_accuracy(found), "stderr": stderr(found), "normalized": norm, "tasks": tasks}

    def negation(self, target: str, direction: Point, where: Mapping[str, Any]) -> dict[str, Any]:
        """base − scale × direction: the target forgotten as far as the control allows."""
        control = self._control(target) or ""
        two = (target, control)
        val = [self.points.at(times(direction, -s), "negation val", two) for s in NEGATION_SCALES]
        targets, controls = ([v[t]["accuracy"] for v in val] for t in two)
        scale = choose_negation(NEGATION_SCALES, targets, controls)
        after = self.points.at(times(direction, -scale), "negation test", two)
        before = self.points.at({}, "negation test", two)
        seen = [control] if where["basis"] != "all" else [t for t in self.tasks if t != target]
        about = {"kind": "negation", "target": target, "scale": scale or 1.0, "seen": seen, **where}
        self.certified.append((about, times(direction, -(scale or 1.0))))
        rows = {"before": before, "after": after}
        told = {
            f"{who}_{when}": rows[when][t]["accuracy"]
            for when in rows
            for who, t in zip(("target", "control"), two, strict=True)
        }
        grid = [
            {"scale": s, "target": v[target], "control": v[control]} for s, v in zip(NEGATION_SCALES, val, strict=True)
        ]
        return {"target": target, "control": control, "scale": scale, **told, "texts": after[target]["n"], "grid": grid}

    def singles(self, basis: tv.Basis, label: str) -> dict[str, Any]:
        """Each task from the basis."""
        found = {t: self.points.at(self.points.of(basis.recover(t), label), "test", [t])[t] for t in self.tasks}
        own = self.single["test"]
        norm = sum(found[t]["accuracy"] / own[t]["accuracy"] for t in self.tasks) / len(self.tasks)
        return {"mean": mean_accuracy(found), "normalized": norm, "tasks": {t: r["accuracy"] for t, r in found.items()}}

    def few_shots(self, label: str, size: int, target: str) -> dict[str, Any]:
        """Coefficients for a task that is left out, from vectors of the mean length of a task's."""
        library = [t for t in self.tasks if t != target]

        def compute() -> dict[str, Any]:
            vectors = {t: self.vectors[t] for t in library}
            if label:
                basis = self.fit(label, size, library)
                middle = float(basis.state.norms.mean())
                lengths = basis.state.members.diagonal().clamp(min=1e-30).sqrt().tolist()
                vectors = {n: (middle / x) * v for (n, v), x in zip(basis.named().items(), lengths, strict=True)}
            options: dict[str, Any] = {"heads": self.tuned.heads, "shots": self.few["shots"], "grid": FEW_SHOT_GRID}
            limit, sweeps = self.points.limits["test"], self.few["sweeps"]
            encoder, suite = self.tuned.encoder, self.tuned.suite
            found = few_shot(encoder, vectors, suite, target, limit=limit, sweeps=sweeps, **options).plain()
            return {**found, "vectors": len(vectors)}

        parts = self.points.key(few_shot=target, label=label, size=size, grid=FEW_SHOT_GRID, **self.few)
        found = self.points.memo({**parts, "limit": self.points.limits["test"]}, compute)
        losses = {"loss_before": found["loss_before"], "loss_after": found["loss_after"]}
        before, after = found["before"]["value"], found["after"]["value"]
        return {"target": target, "vectors": found["vectors"], **losses, "before": before, "after": after}

    def arrival(self, label: str, size: int, refit: Mapping[str, Any]) -> dict[str, Any]:
        """The last two tasks join a basis of the others; scored at the length of sum that the refit chose."""
        basis = self.fit(label, size, self.tasks[:-2])
        for task in self.tasks[-2:]:
            basis.add(task, self.vectors[task])
        direction = self.total(basis, f"{label} {size} arrival")
        scale = refit["lengths"] * self.length / self.points.length(direction)
        true = {}
        for i, t in enumerate(self.tasks):
            gap = plus(self.points.of(basis.recover(t), f"{label} {size} arrival"), {t: -1.0})
            true[t] = self.points.length(gap) / float(self.gram.matrix[i, i]) ** 0.5
        tracked = {t: basis.error(t) for t in self.tasks}
        return {"tracked": tracked, "true": true, "scale": scale, **self._tested(times(direction, scale))}

    def compressed(self, label: str) -> dict[str, Any]:
        """Each task as a codec stored it."""
        codec, parameters = CODECS[label]
        size, found = 0, {}
        for task, vector in self.vectors.items():
            path = self.tuned.folder / "stored" / label / f"{task}.tv.safetensors"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                vector.save(path, codec=codec, **parameters)
            size += path.stat().st_size
            stored = tv.TaskVector.open(path)

            def delta(stored: tv.TaskVector = stored) -> Mapping[str, torch.Tensor]:
                return deltas_of(self.tuned.encoder, stored)

            found[task] = self.points.scored({"codec": label, "vector": task}, "test", [task], delta)[task]
        own = self.single["test"]
        norm = sum(found[t]["accuracy"] / own[t]["accuracy"] for t in self.tasks) / len(self.tasks)
        return {"name": label, "bytes": size, "mean": mean_accuracy(found), "normalized": norm}

    # --- certificates -----------------------------------------------------------------------------------------------

    def constants(self, products: int) -> dict[str, dict[str, Any]]:
        """Of every task: `tight` and `secant` towards the plain average, and the largest curvature at its weights."""
        average, out = times(self.whole, 1.0 / len(self.tasks)), {}
        for task in self.tasks:
            row = self.points.curvature(task, average, products)
            out[task] = {**row, "curvature": abs(row["curvature"]["value"]), "residual": row["curvature"]["residual"]}
        return out

    def certificates(self, constants: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each bound beside the measured gap of the losses, on validation texts."""
        slopes = {t: self.points.slopes(t) for t in self.tasks}
        known, rows = self.points.gram(), []
        self.certified.append(({"kind": "addition", "basis": "plain average"}, times(self.whole, 1 / len(self.tasks))))
        for about, point in self.certified:
            if about["kind"] == "addition":
                rows += self._added(about, point, known, constants, slopes)
            else:
                rows += self._negated(about, point, known, constants)
        return rows + self._transferred(constants, slopes)

    def _added(self, about: Any, point: Point, known: tv.Gram, constants: Any, slopes: Any) -> list[dict[str, Any]]:
        losses, rows = self.points.at(point, "val"), []
        table = {row["name"]: row for row in certificate(known, dict(point)).tasks}
        for t in self.tasks:
            first = sum(c * slopes[t][a] for a, c in plus(point, {t: -1.0}).items())
            gap = losses[t]["loss"] - self.single["val"][t]["loss"]
            rows.append(_row({**about, "task": t}, table[t]["q"], gap, first, constants[t]))
        return rows

    def _negated(self, about: Any, point: Point, known: tv.Gram, constants: Any) -> list[dict[str, Any]]:
        others, rows = about["seen"], []
        before, after = self.points.at({}, "val", others), self.points.at(point, "val", others)
        recovered = times(point, -1.0)
        names = [*self.tasks, "recovered"]
        c = torch.eye(len(known.names), dtype=torch.float64)[: len(self.tasks)]
        c = torch.cat([c, torch.tensor([[recovered.get(a, 0.0) for a in known.names]], dtype=torch.float64)])
        table = certified_negation(tv.Gram(tuple(names), c @ known.matrix @ c.T), "recovered").tasks
        for row in table:
            t = row["name"]
            if t in others:
                gap = after[t]["loss"] - before[t]["loss"]
                rows.append(_row({**about, "task": t}, row["q"], gap, None, constants[t]))
        return rows

    def _transferred(self, constants: Any, slopes: Any) -> list[dict[str, Any]]:
        rows = []
        for i, t in enumerate(self.tasks):
            rest = [j for j in range(len(self.tasks)) if j != i]
            names, matrix = tuple(self.tasks[j] for j in rest), self.gram.matrix
            small = tv.Gram(names, matrix[rest][:, rest].clone())
            found = transfer(small, matrix[i, rest].tolist(), float(matrix[i, i]))
            for kind, q, point in (
                ("span", found.best["q"], found.coefficients),
                ("nearest", found.single["q"], {found.single["name"]: 1.0}),
            ):
                gap = self.points.at(point, "val", [t])[t]["loss"] - self.single["val"][t]["loss"]
                first = sum(c * slopes[t][a] for a, c in plus(point, {t: -1.0}).items())
                rows.append(_row({"kind": "transfer", "basis": kind, "task": t}, q, gap, first, constants[t]))
        return rows


def _row(
    about: Mapping[str, Any], q: float, gap: float, first: float | None, constants: Mapping[str, Any]
) -> dict[str, Any]:
    """One certificate: the bounds by constant, without and (where there is one) with the first-order term."""
    bounds = {name: 0.5 * max(constants[name], 0.0) * q for name in CONSTANTS}
    if first is not None:
        bounds |= {f"{name} + first order": first + bounds[name] for name in CONSTANTS}
    holds = {name: gap <= bound + ROUNDING for name, bound in bounds.items()}
    told = {k: v for k, v in about.items() if k != "seen"}
    return {**told, "q": q, "gap": gap, "first_order": first, "bounds": bounds, "holds": holds}


def held(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By kind and constant: in how many of how many rows the bound holds, and the median of bound and gap.

    The plain average is left out: it is where "tight" is measured, so that its bound holds by construction.
    """
    out: dict[str, dict[str, Any]] = {}
    grouped: dict[tuple[str, str], list[tuple[bool, float, float]]] = {}
    for row in (r for r in rows if r["basis"] != "plain average"):
        for name, bound in row["bounds"].items():
            grouped.setdefault((row["kind"], name), []).append((row["holds"][name], bound, row["gap"]))
    for (kind, name), found in grouped.items():
        bounds, gaps = (sorted(each[i] for each in found)[len(found) // 2] for i in (1, 2))
        held_in = sum(each[0] for each in found)
        out.setdefault(kind, {})[name] = {
            "holds": held_in,
            "of": len(found),
            "median_bound": bounds,
            "median_gap": gaps,
        }
    return out


def study(
    points: Points, few: Mapping[str, int], targets: int, products: int, parts: Collection[str] = PARTS
) -> dict[str, Any]:
    """Addition, negation and single tasks, and the parts beside them."""
    s = Study(points, targets, few)
    count, out = len(s.tasks), dict[str, Any]()
    exact = {"basis": "all"}
    out["all"] = {"addition": s.addition(s.whole, exact)}
    out["all"]["negation"] = [s.negation(t, {t: 1.0}, exact) for t in s.targets]
    if "few_shot" in parts:
        out["all"]["few_shot"] = s.few_shots("", count - 1, s.targets[0])
    out["bases"] = [_base(s, label, size, parts) for size in (count // 2, max(1, count // 4)) for label in SOLVERS]
    out["compression"] = [s.compressed(label) for label in BESIDE if "compression" in parts]
    if "certificates" in parts:
        constants = s.constants(products)
        rows = s.certificates(constants)
        out |= {"constants": constants, "certificates": rows, "held": held(rows)}
    zero, own = points.at({}, "test"), s.single["test"]
    about = {"largest_cosine": certificate(s.gram).largest_cosine, "gram": s.gram.matrix.tolist()}
    fp32 = {"vector_bytes": points.moved_bytes()}
    means = {"zero_shot": mean_accuracy(zero), "tuned": mean_accuracy(own), "tuned_stderr": stderr(own)}
    return {**points.tuned.about(), **about, **fp32, **means, "limits": points.limits, "few": dict(few), **out}


def _base(s: Study, label: str, size: int, parts: Collection[str]) -> dict[str, Any]:
    """One solver at one size."""
    basis, told = s.fit(label, size, s.tasks), f"{label} {size}"
    print(told, flush=True)
    row: dict[str, Any] = {"solver": label, "size": size, "errors": {t: basis.error(t) for t in s.tasks}}
    row["addition"] = s.addition(s.total(basis, told), {"basis": told})
    row["negation"] = [s.negation(t, s.points.of(basis.recover(t), told), {"basis": told}) for t in s.targets]
    row["single"] = s.singles(basis, told)
    if "arrival" in parts:
        row["arrival"] = s.arrival(label, size, row["addition"])
    if "few_shot" in parts:
        row["few_shot"] = s.few_shots(label, size, s.targets[0])
    return row


def _percent(row: Mapping[str, Any], part: str, name: str, of: float = 1.0) -> str:
    return f"{row[part][name] / of:.0%}" if part in row else ""


def table(found: Mapping[str, Any]) -> str:
    """The protocols as a Markdown table, accuracies relative to all vectors (addition) and to the tuned (single)."""
    whole, megabytes = found["all"]["addition"]["mean"], found["vector_bytes"] / 1e6
    heads = ("kept", "MB", "ρ", "single", "addition", "arrival", "target left", "few shots")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]

    def left(rows: Iterable[Mapping[str, Any]]) -> str:
        return " / ".join(f"{row['target_after']:.0%}" for row in rows)

    count, exact = len(found["gram"]), found["all"]
    few = _percent(exact, "few_shot", "after")
    cells = [
        f"all {count}",
        f"{count * megabytes:.0f}",
        "0",
        "100%",
        f"100% ({whole:.1%})",
        "",
        left(exact["negation"]),
        few,
    ]
    lines.append("| " + " | ".join(cells) + " |")
    for row in found["bases"]:
        errors = row["errors"].values()
        spread = f"{min(errors):.2f} … {max(errors):.2f}"
        scores = [row["single"]["normalized"], row["addition"]["mean"] / whole]
        cells = [
            f"{row['size']} {row['solver']}",
            f"{row['size'] * megabytes:.0f}",
            spread,
            *(f"{x:.0%}" for x in scores),
            _percent(row, "arrival", "mean", whole),
        ]
        cells += [left(row["negation"]), _percent(row, "few_shot", "after")]
        lines.append("| " + " | ".join(cells) + " |")
    for row in found["compression"]:
        cells = [f"{count} {row['name']}", f"{row['bytes'] / 1e6:.0f}", "", f"{row['normalized']:.1%}", "", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="docs8", choices=SUITES)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--first", type=int, help="only so many tasks, to try the script")
    parser.add_argument("--val", type=int, default=32, help="validation texts a task")
    parser.add_argument("--test", type=int, default=64, help="test texts a task")
    parser.add_argument("--shots", type=int, default=2, help="examples a class of the task that is left out")
    parser.add_argument("--negation", type=int, default=80, help="texts of a split on which negations are scored")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure beside addition, negation and single")
    parser.add_argument("--targets", type=int, default=2, help="tasks that are negated")
    parser.add_argument("--products", type=int, default=5, help="Hessian products a task")
    given = parser.parse_args()
    tuned, name = fine_tuned(given.suite, steps=given.steps), f"basis_study-{given.suite}"
    if given.first is not None:
        suite = replace(tuned.suite, tasks=tuned.suite.tasks[: given.first])
        vectors = {t: tuned.vectors[t] for t in suite.names()}
        tuned, name = replace(tuned, suite=suite, vectors=vectors), f"{name}-first{given.first}"
    memo = Memo(_measure.WORK / name)
    wide = {"negation val": given.negation, "negation test": given.negation}
    points = Points(tuned, memo, {"val": given.val, "test": given.test, **wide})
    few = {"shots": given.shots, "sweeps": 1}
    found = study(points, few, given.targets, given.products, set(given.parts.split(",")))
    _measure.write(name, found)
    print(table(found))
    print(found.get("held", ""))


if __name__ == "__main__":
    main()
