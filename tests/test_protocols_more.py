"""Further protocols: linear rows, analogies, few shots, arrival, baselines of negation, pairs of tasks."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import taskvec as tv
from taskvec.errors import ParameterError, SchemaError, UnknownName
from taskvec.evaluate import (
    Prepared,
    Score,
    Scores,
    addition,
    analogies,
    arrival,
    deltas_of,
    disentanglement,
    disentanglement_pairs,
    few_shot,
    line,
    negation,
    negation_table,
    nonlinear_advantage,
    own_scores,
    prepare,
    random_like,
    resident,
    score,
)
from taskvec.evaluate.few_shot import few_shots
from taskvec.suites import Head, LinearizedEncoder, Suite, TextEncoder, docs8_subsets, heads_of
from taskvec.tune import Settings, tune
from tiny_text import ANIMALS, COLORS, open_tiny, word_task, write_tiny_encoder

SCALES = (0.0, 0.5, 1.0)
TASKS = {"color": COLORS[:2], "animal": ANIMALS[:2], "shade": COLORS[2:]}


@dataclass(frozen=True)
class Trained:
    """A tiny encoder, the vectors of three tasks by two regimes, and inputs."""

    encoder: TextEncoder
    suite: Suite
    heads: dict[str, Head]
    vectors: dict[str, tv.TaskVector]
    tangent: dict[str, tv.TaskVector]
    val: Prepared
    test: Prepared


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = write_tiny_encoder(tmp_path_factory.mktemp("more") / "base")
    tasks = tuple(word_task(name, words) for name, words in TASKS.items())
    suite = Suite(name="three", base=str(folder), tasks=tasks, temperature=20.0, versions={})
    encoder, base = open_tiny(folder), tv.Checkpoint.open(folder)
    heads = dict(heads_of(suite, base=encoder))
    made: dict[str, dict[str, tv.TaskVector]] = {}
    for regime, settings in (
        ("standard", Settings(steps=25, learning_rate=2e-3)),
        ("tangent", Settings(steps=60, batch_size=8, learning_rate=3e-3)),
    ):
        made[regime] = {
            t.name: tune(encoder, t, regime=regime, head=heads[t.name], settings=settings).vector(base) for t in tasks
        }
    val, test = (prepare(encoder, suite, split=s, heads=heads) for s in ("val", "test"))
    return Trained(encoder, suite, heads, made["standard"], made["tangent"], val, test)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in trained.encoder.module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(t, right[n]) for n, t in left.items())


# --- along a vector, and the linear rows of addition and negation


@pytest.mark.parametrize("linear", [False, True])
def test_scores_along_a_vector_are_those_of_the_moved_model(trained: Trained, linear: bool) -> None:
    before, delta = weights(trained), deltas_of(trained.encoder, trained.tangent["color"])
    with line(trained.encoder, trained.test, delta, linear=linear) as at:
        found = {scale: at(scale) for scale in (-1.0, 0.0, 2.0)}
    for scale, scores in found.items():
        if linear:
            tau = {n: scale * d for n, d in delta.items()}
            assert scores == score(LinearizedEncoder(origin=trained.encoder, tau=tau), trained.test)
        else:
            with resident(trained.encoder.module, delta) as move:
                move(scale)
                assert scores == score(trained.encoder, trained.test)
    assert same(before, weights(trained))


@pytest.mark.parametrize("kind", ["tangent", "posthoc"])
def test_addition_of_linear_vectors_scores_the_model_to_first_order(trained: Trained, kind: str) -> None:
    vectors = trained.tangent if kind == "tangent" else trained.vectors
    singles = [
        own_scores(trained.encoder, vectors, inputs, regime=kind, linear=True) for inputs in (trained.val, trained.test)
    ]
    for row in singles[1].rows:
        model = LinearizedEncoder(origin=trained.encoder, tau=deltas_of(trained.encoder, vectors[row.task]))
        assert score(model, trained.test)[row.task] == row
    merged = tv.merge("task_arithmetic", vectors)
    options: dict[str, Any] = {
        "validation": trained.val,
        "test": trained.test,
        "single_validation": singles[0],
        "single_test": singles[1],
        "scales": SCALES,
        "linear": True,
    }
    row = addition(trained.encoder, {"sum": merged}, **options)["sum"]
    delta = deltas_of(trained.encoder, merged)
    for scale, found in ((row.scale, row.scores), (1.0, row.at_one)):
        tau = {n: scale * d for n, d in delta.items()}
        assert found == score(LinearizedEncoder(origin=trained.encoder, tau=tau), trained.test, regime=kind)
    assert row.scale == max(row.curve, key=lambda point: (point[1], -point[0]))[0]


def test_negation_of_linear_vectors_scores_the_model_to_first_order(trained: Trained) -> None:
    options: dict[str, Any] = {
        "controls": {"color": "animal"},
        "validation": trained.val,
        "test": trained.test,
        "scales": SCALES,
    }
    (row,) = negation(
        trained.encoder, {"color": trained.tangent["color"]}, linear=True, regime="tangent", **options
    ).rows
    tau = {n: -row.scale * d for n, d in deltas_of(trained.encoder, trained.tangent["color"]).items()}
    scores = score(LinearizedEncoder(origin=trained.encoder, tau=tau), trained.test)
    assert (row.target_after, row.control_after) == (scores["color"], scores["animal"])


def test_the_advantage_is_scaled_by_the_room_above_chance() -> None:
    def table(regime: str, *values: float, split: str = "test") -> Scores:
        rows = tuple(Score(n, v, 0.03, 100) for n, v in zip("ab", values, strict=True))
        return Scores(rows=rows, suite="s", split=split, regime=regime)

    found = nonlinear_advantage(table("standard", 0.9, 0.5), table("tangent", 0.7, 0.6), {"a": 2, "b": 5})
    assert [row.value for row in found.rows] == pytest.approx([0.4, -0.125])
    assert found.rows[0].stderr == pytest.approx(2 * 0.03 * 2**0.5)
    assert found.mean == pytest.approx(0.1375)
    assert json.loads(found.to_json())["nonlinear_advantage"][1]["classes"] == 5
    perfect = nonlinear_advantage(table("standard", 1.0, 1.0), table("tangent", 0.5, 0.2), {"a": 2, "b": 5})
    assert [row.value for row in perfect.rows] == [1.0, 1.0]
    with pytest.raises(ParameterError, match="scores of the split 'test' and 'val' cannot be compared"):
        nonlinear_advantage(table("standard", 0.9, 0.5), table("tangent", 0.7, 0.6, split="val"), {"a": 2, "b": 5})
    with pytest.raises(UnknownName, match="the number of classes of 'b' is not known"):
        nonlinear_advantage(table("standard", 0.9, 0.5), table("tangent", 0.7, 0.6), {"a": 2})
    with pytest.raises(ParameterError, match="the task 'a' has 1 classes"):
        nonlinear_advantage(table("standard", 0.9, 0.5), table("tangent", 0.7, 0.6), {"a": 1, "b": 5})


def test_a_vector_of_another_model_is_refused_and_an_unused_tensor_is_not(trained: Trained) -> None:
    other = tv.TaskVector.from_tensors({"lm_head.weight": torch.ones(2)})
    with pytest.raises(
        SchemaError, match=r"none of the 1 tensors that the vector moves, e.g. 'lm_head.weight'\.\nFix: "
    ):
        deltas_of(trained.encoder, other)
    both = trained.vectors["color"] + other
    assert deltas_of(trained.encoder, both).keys() == deltas_of(trained.encoder, trained.vectors["color"]).keys()
    assert deltas_of(trained.encoder, 0.0 * trained.vectors["color"]) == {}


# --- analogies


def test_an_analogy_adds_the_difference_of_two_tasks_to_a_third(trained: Trained, tmp_path: Path) -> None:
    before = weights(trained)
    held = {n: v for n, v in trained.vectors.items() if n != "shade"}
    options: dict[str, Any] = {"validation": trained.val, "test": trained.test, "scales": SCALES}
    found = analogies(trained.encoder, held, [("animal", "animal", "color", "shade")], **options)
    (row,) = found.rows
    assert row.analogy == row.c_alone  # A = B: the analogy is C
    assert row.tuned is None
    (swapped,) = analogies(trained.encoder, held, [("color", "animal", "color", "shade")], **options).rows
    assert swapped.analogy == swapped.b_alone  # C = A: it is B
    (row,) = analogies(trained.encoder, trained.vectors, [("color", "animal", "color", "shade")], **options).rows
    assert row.tuned == own_scores(trained.encoder, trained.vectors, trained.test, regime="standard")["shade"]
    assert row.base == score(trained.encoder, trained.test)["shade"]
    delta = deltas_of(trained.encoder, trained.vectors["animal"])
    with line(trained.encoder, trained.val, delta) as at:
        curve = {scale: at(scale)["shade"].value for scale in SCALES}
    assert curve[row.b_alone.scale] == max(curve.values())
    assert same(before, weights(trained))
    found.save(tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["analogy"][0]["target"] == "shade"
    with pytest.raises(ParameterError, match="the analogy's target 'color' is one of its parts"):
        analogies(trained.encoder, held, [("animal", "color", "shade", "color")], **options)
    with pytest.raises(UnknownName, match="there is no vector of the task 'shade'"):
        analogies(trained.encoder, held, [("animal", "shade", "animal", "color")], **options)


def test_the_subsets_of_docs8_have_shared_classes_and_texts_of_their_own() -> None:
    suite = docs8_subsets()
    quadruples = [tuple(task.name for task in four) for four in suite.analogies]
    assert {name for four in quadruples for name in four} == set(suite.names())
    assert sorted(four[3] for four in quadruples) == sorted(suite.names())
    for a, b, c, d in quadruples:
        (la, ka), (lb, kb), (lc, kc), (ld, kd) = (name.split("_") for name in (a, b, c, d))
        assert (la, lc, ka, kb) == (lb, ld, kc, kd)
    assert len({task.classes for task in suite.tasks}) == 1
    assert len(suite.tasks[0].classes) == 24
    homes = [{t: name for name, split in task.splits.items() for t in split.texts} for task in suite.tasks]
    shared = [(a[t], b[t]) for a, b in itertools.combinations(homes, 2) for t in a if t in b]
    assert len(shared) < 10  # a function that has the words of its class
    assert all(left == right for left, right in shared)
    for task in suite.tasks:
        library = task.name.split("_")[0]
        for split in task.splits.values():
            assert {task.classes[label].split(".")[0] for label in split.labels} == {library}
        assert len(task.split("train")) > 100
        assert min(len(task.split(s)) for s in ("val", "test")) > 30


# --- few shots


def test_few_shots_are_so_many_of_each_class(trained: Trained) -> None:
    task = trained.suite.task("color")
    found = few_shots(task, 5, seed=1)
    assert [found.labels.count(c) for c in (0, 1)] == [5, 5]
    pairs = set(zip(task.split("train").texts, task.split("train").labels, strict=True))
    assert set(zip(found.texts, found.labels, strict=True)) <= pairs
    assert few_shots(task, 5, seed=1) == found != few_shots(task, 5, seed=2)
    assert len(few_shots(task, 1000)) == len(task.split("train"))
    with pytest.raises(ParameterError, match="shots=0 is below 1"):
        few_shots(task, 0)


def test_coefficients_are_found_on_few_shots_of_a_held_out_task(trained: Trained, tmp_path: Path) -> None:
    before = weights(trained)
    library = {"same": trained.vectors["shade"], "other": trained.vectors["animal"]}
    options: dict[str, Any] = {"heads": trained.heads, "shots": 4, "grid": (-0.5, 0.0, 0.5, 1.0)}
    found = few_shot(trained.encoder, library, trained.suite, "shade", **options)
    assert found.coefficients["same"] > 0
    assert found.loss_after < found.loss_before
    assert found.after.value > found.before.value
    assert found.before == score(trained.encoder, trained.test)["shade"]
    assert same(before, weights(trained))
    # no point of the grid one coordinate away is better
    examples = few_shots(trained.suite.task("shade"), 4)
    labels = torch.tensor(examples.labels)

    def loss(coefficients: dict[str, float]) -> float:
        parts = {n: deltas_of(trained.encoder, v) for n, v in library.items()}
        total = {t: sum(c * parts[n][t] for n, c in coefficients.items()) for t in parts["same"]}
        with resident(trained.encoder.module, total) as move, torch.no_grad():  # type: ignore[arg-type]
            move(1.0)
            features = trained.encoder.features(trained.encoder.batch(examples.texts))
            return float(torch.nn.functional.cross_entropy(trained.heads["shade"].logits(features), labels))

    assert loss(dict(found.coefficients)) == pytest.approx(found.loss_after, rel=1e-3)
    settled = few_shot(trained.encoder, library, trained.suite, "shade", sweeps=20, **options)
    for name in library:
        for value in options["grid"]:
            assert loss({**settled.coefficients, name: value}) >= settled.loss_after - 1e-4
    found.save(tmp_path / "few.json")
    assert json.loads((tmp_path / "few.json").read_text())["target"] == "shade"
    for vectors in (trained.vectors, {}):
        with pytest.raises(ParameterError, match="is not one that 'shade' could be held out from"):
            few_shot(trained.encoder, vectors, trained.suite, "shade", **options)


# --- arrival


def test_after_each_arrival_the_tasks_so_far_are_merged_and_scored(trained: Trained, tmp_path: Path) -> None:
    singles = [own_scores(trained.encoder, trained.vectors, p, regime="standard") for p in (trained.val, trained.test)]
    options: dict[str, Any] = {
        "validation": trained.val,
        "test": trained.test,
        "single_validation": singles[0],
        "single_test": singles[1],
        "scales": SCALES,
    }
    seen: list[list[str]] = []

    def merge(some: Any) -> tv.TaskVector:
        seen.append(list(some))
        return tv.merge("average", some)

    found = arrival(trained.encoder, trained.vectors, merge, **options)
    assert seen == [["color"], ["color", "animal"], ["color", "animal", "shade"]]
    assert [row.scores.names() for row in found.rows] == [tuple(names) for names in seen]
    whole = addition(trained.encoder, {"all": tv.merge("average", trained.vectors)}, **options)["all"]
    assert (found.rows[-1].scale, found.rows[-1].scores) == (whole.scale, whole.scores)
    assert found.rows[-1].normalized == whole.normalized
    found.save(tmp_path / "arrival.json")
    rows = json.loads((tmp_path / "arrival.json").read_text())["arrival"]
    assert [(row["arrived"], row["count"]) for row in rows] == [("color", 1), ("animal", 2), ("shade", 3)]


# --- baselines of negation


def test_a_random_vector_has_the_norms_of_the_given_one_and_no_direction_of_it(trained: Trained) -> None:
    vector = trained.vectors["color"]
    drawn = random_like(vector, seed=3)
    for name in drawn.names():
        assert float(drawn[name].norm()) == pytest.approx(float(vector[name].norm()), rel=1e-5, abs=1e-12)
    assert abs(drawn.dot(vector)) < 0.1 * vector.norm() ** 2
    again, other = random_like(vector, seed=3), random_like(vector, seed=4)
    assert all(torch.equal(again[n], drawn[n]) for n in drawn.names())
    assert (other - drawn).norm() > vector.norm()
    zero = random_like({"w": torch.zeros(3), "s": torch.tensor(2.0), "e": torch.zeros(0)})
    assert float(zero["w"].norm()) == 0.0
    assert abs(float(zero["s"])) == pytest.approx(2.0)


def test_negation_beside_a_random_vector_and_gradient_ascent(trained: Trained) -> None:
    task = trained.suite.task("color")
    climbed = tune(
        trained.encoder,
        task,
        head=trained.heads["color"],
        settings=Settings(steps=15, learning_rate=2e-3, ascend=True),
    )
    assert climbed.losses[-1] > climbed.losses[0]
    options: dict[str, Any] = {
        "controls": {"color": "animal"},
        "validation": trained.val,
        "test": trained.test,
        "scales": SCALES,
    }
    vectors = {"color": trained.vectors["color"]}
    table = negation_table(trained.encoder, vectors, ascent={"color": climbed.vector()}, **options)
    assert list(table) == ["task vector", "random vector", "gradient ascent"]
    assert table["task vector"] == negation(trained.encoder, vectors, **options)
    (row,) = table["gradient ascent"].rows
    assert row.scale == -1.0
    assert row.target_after == score(climbed.encoder, trained.test)["color"]
    assert row.target_after.value < row.target_before.value
    noise = random_like(deltas_of(trained.encoder, vectors["color"]), seed=0)
    assert table["random vector"] == negation(trained.encoder, {"color": noise}, **options)
    assert list(negation_table(trained.encoder, vectors, **options)) == ["task vector", "random vector"]


# --- pairs


@pytest.mark.parametrize("regime", ["standard", "linear"])
def test_the_summary_of_pairs_is_that_of_their_maps(trained: Trained, regime: Any, tmp_path: Path) -> None:
    before, grid = weights(trained), (0.5, 1.0)
    found = disentanglement_pairs(trained.encoder, trained.tangent, trained.test, grid, regime=regime)
    assert [each.tasks for each in found.maps] == list(itertools.combinations(TASKS, 2))
    for each in found.maps:
        pair = {name: trained.tangent[name] for name in each.tasks}
        assert each == disentanglement(trained.encoder, pair, trained.test, grid, regime=regime)
    assert found.mean == pytest.approx(sum(each.mean for each in found.maps) / 3)
    found.save(tmp_path / "pairs.json")
    row = json.loads((tmp_path / "pairs.json").read_text())["pairs"][0]
    assert (row["first"], row["second"]) == ("color", "animal")
    assert row["at_one"] == found.maps[0].error(1.0, 1.0) <= row["largest"]
    assert same(before, weights(trained))
    half = disentanglement_pairs(trained.encoder, trained.tangent, trained.test, (0.5,), regime=regime)
    assert half.plain()["pairs"][0]["at_one"] is None


def test_bad_pairs_are_refused(trained: Trained) -> None:
    with pytest.raises(ParameterError, match="pairs are of two tasks; 1 vectors were given"):
        disentanglement_pairs(trained.encoder, {"color": trained.vectors["color"]}, trained.test)
    with pytest.raises(ParameterError, match="the grid of coefficients is empty"):
        disentanglement_pairs(trained.encoder, trained.vectors, trained.test, ())
    zero = {**trained.vectors, "color": 0.0 * trained.vectors["color"]}
    with pytest.raises(SchemaError, match="the vector 'color' moves no tensor"):
        disentanglement_pairs(trained.encoder, zero, trained.test)
