"""The protocols in pieces: one merge, one codec, one negation, one map; each is remembered when it is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

from taskvec import __version__, analyze, methods
from taskvec.bench.settings import pairs_of
from taskvec.bench.tuned import Tuned
from taskvec.bench.work import Work, scores_from
from taskvec.engine.merge import merge
from taskvec.errors import ParameterError, SpaceError, TaskVecError
from taskvec.evaluate import Score, Scores, addition, compression, disentanglement, line, negation, own_scores
from taskvec.vector import TaskVector

Plain = dict[str, Any]
ANALYSES = ("gram", "sti", "energy")  # those whose tables are short
Skipped = dict[str, str]
"""What was not computed, and why."""


def zero_shot(work: Work) -> Plain:
    """Scores of the base on the test inputs."""
    tasks = work.suite.names()

    def compute() -> Plain:
        regime, linear = work.settings.regime, work.linear
        with line(work.encoder, work.test(tasks), {}, regime=regime, linear=linear, autocast=not linear) as at:
            return at(0.0).plain()

    parts = {**work.about(tasks), "limit": work.settings.limit}
    found: Plain = work.piece("the base on test", parts, compute)
    return found


def single(work: Work, tuned: Tuned, split: str) -> Scores:
    """Each task from its own vector."""
    limit = work.settings.chosen_on if split == "val" else work.settings.limit
    rows: list[Score] = []
    for name in work.suite.names():
        inputs = work.inputs(split, [name], limit)

        def compute(name: str = name, inputs: Any = inputs) -> Plain:
            vectors, regime = {name: tuned.vectors[name]}, work.settings.regime
            return own_scores(
                work.encoder, vectors, inputs, regime=regime, linear=work.linear, autocast=not work.linear
            ).plain()

        parts = {**work.about([name]), "vector": tuned.keys[name], "limit": limit}
        rows += scores_from(work.piece(f"{name}, fine-tuned, on {split}", parts, compute)).rows
    return Scores(rows=tuple(rows), suite=work.suite.name, split=split, regime=work.settings.regime)


def added(work: Work, tuned: Tuned, *, val: Scores, test: Scores) -> tuple[Plain, Skipped]:
    """The addition protocol: every method that merges these vectors, at its best scale and at 1."""
    rows, skipped = [], {}
    for name in work.settings.methods or merging_vectors():
        try:
            rows.append(_added(work, tuned, name, val=val, test=test))
        except TaskVecError as error:
            skipped[name] = error.fact
            work.say(f"  {name} is left out: {error.fact}")
    return {"addition": rows}, skipped


def merging_vectors() -> list[str]:
    """The registered methods that merge task vectors."""
    return [name for name in methods.names() if methods.get(name).space != "point"]


def _added(work: Work, tuned: Tuned, name: str, *, val: Scores, test: Scores) -> Any:
    settings, tasks = work.settings, work.suite.names()
    merged, parameters = _merged(tuned, name)
    own = settings.scales_of.get(name)
    scales, refine = (settings.scales, settings.refine) if own is None else (own, 0)

    def compute() -> Any:
        return addition(
            work.encoder,
            {name: merged},
            validation=work.val(tasks),
            test=work.test(tasks),
            single_validation=val,
            single_test=test,
            scales=scales,
            refine=refine,
            linear=work.linear,
            autocast=not work.linear,
        ).plain()["addition"][0]

    parts = {
        **work.about(tasks),
        "vectors": tuned.keys,
        "parameters": parameters,
        "scales": scales,
        "refine": refine,
        "limit": settings.limit,
        "validation": settings.chosen_on,
    }
    return work.piece(f"merged by {name}", parts, compute)


def _merged(tuned: Tuned, name: str) -> tuple[TaskVector, Mapping[str, Any]]:
    method = methods.get(name)
    if method.space == "point":
        raise SpaceError("it merges points, not task vectors.")
    parameters = {"seed": tuned.seed} if "seed" in method.parameters else {}
    return merge(name, tuned.vectors, **parameters), parameters


def compressed(work: Work, tuned: Tuned, *, test: Scores) -> Plain:
    """The compression protocol: every codec."""
    tasks, rows = work.suite.names(), []
    scratch = work.folder / "cache" / "stored"
    for label, codec in work.settings.codecs.items():

        def compute(label: str = label, codec: Any = codec) -> Any:
            shutil.rmtree(scratch, ignore_errors=True)
            found = compression(
                work.encoder,
                tuned.vectors,
                {label: codec},
                scratch,
                test=work.test(tasks),
                single=test,
                linear=work.linear,
                autocast=not work.linear,
            )
            shutil.rmtree(scratch)
            return found.plain()["compression"][0]

        parts = {**work.about(tasks), "vectors": tuned.keys, "codec": codec, "limit": work.settings.limit}
        rows.append(work.piece(f"stored as {label}", parts, compute))
    return {"compression": rows}


def negated(work: Work, tuned: Tuned) -> Plain:
    """The negation protocol: every target, each with its control.

    Raises:
        ParameterError: a suite of one task without a control. UnknownName: no such target.
    """
    rows = []
    for target in work.settings.targets or work.suite.names():
        rows.append(_negated(work, tuned, target, control_of(work, target)))
    means = {side: sum(row[f"{side}_after"]["value"] for row in rows) / len(rows) for side in ("target", "control")}
    return {**means, "negation": rows}


def control_of(work: Work, target: str) -> str:
    """The task that must stay when `target` is negated.

    Raises:
        ParameterError: there is none. UnknownName: no such target.
    """
    work.suite.task(target)
    control = work.suite.control_of(target)
    if control is None:
        raise ParameterError(f"there is no control for the negation of '{target}'.", "give the suite another task.")
    return control.name


def _negated(work: Work, tuned: Tuned, target: str, control: str) -> Any:
    settings, two = work.settings, (target, control)

    def compute() -> Any:
        return negation(
            work.encoder,
            {target: tuned.vectors[target]},
            controls={target: control},
            validation=work.val(two),
            test=work.test(two),
            scales=settings.negation_scales,
            regime=settings.regime,
            linear=work.linear,
            autocast=not work.linear,
        ).plain()["negation"][0]

    parts = {
        **work.about(two),
        "vector": tuned.keys[target],
        "scales": settings.negation_scales,
        "limit": settings.limit,
        "validation": settings.chosen_on,
    }
    return work.piece(f"without {target}, keeping {control}", parts, compute)


def disentangled(work: Work, tuned: Tuned) -> list[Plain]:
    """Maps of the disentanglement error, for the first pairs of tasks."""
    settings, found = work.settings, []
    for two in pairs_of(work.suite, settings.pairs):

        def compute(two: tuple[str, str] = two) -> Plain:
            return disentanglement(
                work.encoder,
                {name: tuned.vectors[name] for name in two},
                work.inputs("test", two, settings.map_limit),
                settings.grid,
                regime="linear" if work.linear else "standard",
                autocast=not work.linear,
            ).plain()

        parts = {
            **work.about(two),
            "vectors": {name: tuned.keys[name] for name in two},
            "grid": settings.grid,
            "limit": settings.map_limit,
        }
        found.append(work.piece(f"disentanglement of {two[0]} and {two[1]}", parts, compute))
    return found


def analyzed(work: Work, tuned: Tuned) -> Plain:
    """What can be said of the vectors without data: cosines, interference, energy of the singular values."""
    chosen = [name for name in ANALYSES if analyze.get(name).least <= len(tuned.vectors)]

    def compute() -> Plain:
        found = analyze.analyze(tuned.vectors, chosen)
        return {**json.loads(found.to_json()), "meanings": dict(found.meanings)}

    parts = {"taskvec": __version__, "vectors": tuned.keys, "analyses": chosen}
    plain: Plain = work.piece("analyses of the vectors", parts, compute)
    return plain
