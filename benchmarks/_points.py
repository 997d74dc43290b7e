"""Models base + Σ c_a δ_a, scored on few texts: losses and accuracies that are remembered point by point."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import taskvec as tv
from _suite import Tuned
from taskvec.bench.memo import Memo
from taskvec.evaluate import Prepared, along_segment, deltas_of, largest_curvature, resident
from taskvec.evaluate.objective import Objective, dot, objective_of
from taskvec.evaluate.patch import combined
from taskvec.evaluate.scoring import PreparedTask
from taskvec.suites import logits_of

Point = Mapping[str, float]
"""Coefficient by the name of an atom: a task, or a vector that is no combination of tasks."""
Found = Mapping[str, Mapping[str, float]]
"""Task → accuracy, loss in nats, number of texts."""


class Points:
    """The tuned vectors of a suite and whatever is made of them, by coefficients; no model is scored twice."""

    def __init__(self, tuned: Tuned, memo: Memo, limits: Mapping[str, int]) -> None:
        self.tuned, self.memo, self.limits = tuned, memo, dict(limits)
        self.tasks = tuned.suite.names()
        self._leaves: dict[int, tuple[str, Any]] = {}
        self._deltas: dict[str, dict[str, Tensor]] = {}
        self._products: dict[tuple[str, str], float] = {}
        self._inputs: dict[str, Prepared] = {}
        for name, vector in tuned.vectors.items():
            self._adopt(name, vector)

    def _adopt(self, name: str, vector: tv.TaskVector) -> None:
        ((_, leaf),) = vector.terms
        self._leaves[id(leaf)] = (name, leaf)
        self._deltas[name] = deltas_of(self.tuned.encoder, vector)

    @property
    def atoms(self) -> tuple[str, ...]:
        """The tasks and what was found beside them."""
        return tuple(self._deltas)

    def of(self, vector: tv.TaskVector, label: str) -> dict[str, float]:
        """The coefficients of a vector; a leaf that is new is an atom from now on, named by `label`."""
        point: dict[str, float] = {}
        for coefficient, leaf in vector.terms:
            if id(leaf) not in self._leaves:
                count = sum(name.startswith(f"{label} #") for name in self._deltas)
                self._adopt(f"{label} #{count}", tv.TaskVector(((1.0, leaf),)))
            name = self._leaves[id(leaf)][0]
            point[name] = point.get(name, 0.0) + coefficient
        return point

    def gram(self) -> tv.Gram:
        """The inner products of all atoms."""
        names = self.atoms
        rows = [[self._product(a, b) for b in names[: i + 1]] for i, a in enumerate(names)]
        lower = torch.tensor([row + [0.0] * (len(names) - len(row)) for row in rows], dtype=torch.float64)
        return tv.Gram(names, lower + lower.tril(-1).T)

    def _product(self, first: str, second: str) -> float:
        if (first, second) not in self._products:
            self._products[first, second] = dot(self._deltas[first], self._deltas[second])
        return self._products[first, second]

    def length(self, point: Point) -> float:
        """‖Σ c_a δ_a‖."""
        known = self.gram()
        c = torch.tensor([point.get(a, 0.0) for a in known.names], dtype=torch.float64)
        return float(c @ known.matrix @ c) ** 0.5

    def moved_bytes(self) -> int:
        """The bytes in float32 of the tensors that some task moves."""
        moved = {name: x.numel() for task in self.tasks for name, x in self._deltas[task].items()}
        return 4 * sum(moved.values())

    def inputs(self, split: str) -> Prepared:
        """The texts of a split, as many as the limit says; "negation val" is a split "val" with a limit of its own."""
        if split not in self._inputs:
            self._inputs[split] = self.tuned.inputs(split.rsplit(maxsplit=1)[-1], limit=self.limits[split])
        return self._inputs[split]

    def key(self, **parts: Any) -> dict[str, Any]:
        """What a number depends on."""
        return {**self.tuned.about(), **parts}

    def at(self, point: Point, split: str, tasks: Iterable[str] | None = None) -> Found:
        """Accuracy and loss of base + Σ c_a δ_a on the tasks' texts."""
        rounded = {name: round(c, 9) for name, c in sorted(point.items()) if abs(c) > 5e-10}
        return self.scored({"point": rounded}, split, tasks, lambda: combined(self._deltas, rounded))

    def scored(
        self,
        what: Mapping[str, Any],
        split: str,
        tasks: Iterable[str] | None,
        delta: Callable[[], Mapping[str, Tensor]],
    ) -> Found:
        """The same of base + delta, which `what` names."""
        by_name = {each.task.name: each for each in self.inputs(split).tasks}
        with contextlib.ExitStack() as stack:
            move: Callable[[float], None] | None = None

            def compute(name: str) -> dict[str, float]:
                nonlocal move
                if move is None:
                    move = stack.enter_context(resident(self.tuned.encoder.module, delta()))
                    move(1.0)
                return _outcome(by_name[name], self.tuned.encoder.features)

            found = {}
            for name in self.tasks if tasks is None else tasks:
                parts = self.key(task=name, split=split.rsplit(maxsplit=1)[-1], limit=self.limits[split], **what)
                found[name] = self.memo(parts, partial(compute, name))
        return found

    def _general(self) -> dict[str, int]:
        return {split: limit for split, limit in self.limits.items() if " " not in split}

    def _objective(self, task: str) -> Objective:
        (each,) = (t for t in self.inputs("val").tasks if t.task.name == task)
        names = tuple(sorted(set().union(*self._deltas.values())))
        return objective_of(self.tuned.encoder, each, names=names)

    def slopes(self, task: str) -> dict[str, float]:
        """⟨∇L(θ_task), δ_a⟩ for every atom, on the validation texts: first-order terms of all points at once."""

        def compute() -> dict[str, float]:
            slope = self._objective(task).gradient(self._deltas[task])
            return {atom: dot(slope, delta) for atom, delta in self._deltas.items()}

        found: dict[str, float] = self.memo(self.key(slopes=task, atoms=self.atoms, limits=self._general()), compute)
        return found

    def curvature(self, task: str, point: Point, products: int) -> dict[str, Any]:
        """The task's loss between its own weights and base + point, and the largest curvature at its weights."""

        def compute() -> dict[str, Any]:
            objective, own = self._objective(task), self._deltas[task]
            top = largest_curvature(objective, own, products=products)
            way = combined(self._deltas, plus(point, {task: -1.0}))
            return asdict(along_segment(objective, task, own, way, curvature=top))

        found: dict[str, Any] = self.memo(
            self.key(curvature=task, point=dict(point), products=products, limits=self._general()), compute
        )
        return found


def _outcome(each: PreparedTask, features: Any) -> dict[str, float]:
    logits = logits_of(each.head, each.inputs, features)
    right = (logits.argmax(-1) == each.labels).float().mean()
    loss = nn.functional.cross_entropy(logits, each.labels)
    return {"accuracy": float(right), "loss": float(loss), "n": len(each.labels)}


def times(point: Point, factor: float) -> dict[str, float]:
    """factor × point."""
    return {name: factor * c for name, c in point.items()}


def plus(*points: Point) -> dict[str, float]:
    """The sum of points."""
    out: dict[str, float] = {}
    for point in points:
        for name, c in point.items():
            out[name] = out.get(name, 0.0) + c
    return out


def mean_accuracy(found: Found) -> float:
    """Every task counting the same."""
    return sum(row["accuracy"] for row in found.values()) / len(found)


def stderr(found: Found) -> float:
    """Of the mean accuracy: sqrt(Σ p (1 − p) / n) / T."""
    return sum(r["accuracy"] * (1 - r["accuracy"]) / r["n"] for r in found.values()) ** 0.5 / len(found)
