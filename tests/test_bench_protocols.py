"""The protocols beyond a taste: each entry of the record says what the protocol says, and is kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import taskvec as tv
from cli_cases import call
from taskvec.bench import PROTOCOLS, QUICK, Bench, BenchSettings, bench
from taskvec.bench.protocols import chosen
from taskvec.bench.settings import basis_sizes
from taskvec.bench.steps import reaching
from taskvec.bench.work import with_controls
from taskvec.errors import UnknownName
from taskvec.evaluate import (
    Prepared,
    Record,
    addition,
    affine,
    analogies,
    arrival,
    deltas_of,
    disentanglement_pairs,
    few_shot,
    negated_at,
    negation,
    nonlinear_advantage,
    objective_of,
    own_scores,
    prepare,
    random_like,
    score,
)
from taskvec.suites import Head, Suite, TextEncoder, heads_of
from tiny_text import ANIMALS, COLORS, open_tiny, tiny_suite, word_task, write_tiny_encoder

SETTINGS = BenchSettings(
    steps=20,
    learning_rate=2e-3,
    protocols=tuple(name for name in PROTOCOLS if name not in QUICK),
    scales=(0.3, 1.0),
    refine=2,
    negation_scales=(0.0, 0.5, 1.0),
    beyond=(),
    map_limit=30,
    energy_limit=4,
    shots=2,
    pairs=1,
    arrivals=("task_arithmetic",),
)
CONTROL = {"color": "animal", "animal": "color", "shade": "color"}


@dataclass(frozen=True)
class Ran:
    """A run of a suite of three tasks and one analogy, and what is needed to say the same again."""

    suite: Suite
    bench: Bench
    encoder: TextEncoder
    heads: dict[str, Head]

    @property
    def record(self) -> Any:
        return self.bench.runs[0]

    def vectors(self, kind: str = "standard-20-seed0") -> dict[str, tv.TaskVector]:
        home = self.bench.folder / "vectors" / kind
        return {t: tv.TaskVector.open(home / f"{t}.tv.safetensors") for t in CONTROL}

    def inputs(self, split: str, limit: int | None = None) -> Prepared:
        return prepare(self.encoder, self.suite, split=split, heads=self.heads, limit=limit)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    two = tiny_suite(write_tiny_encoder(tmp_path_factory.mktemp("tiny") / "base"))
    color, animal = two.tasks
    shade, beast = word_task("shade", COLORS[2:]), word_task("beast", ANIMALS[2:])
    return replace(two, tasks=(color, animal, shade), analogies=((color, animal, shade, beast),))


@pytest.fixture(scope="module")
def ran(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    found = bench(suite, tmp_path_factory.mktemp("bench") / "out", SETTINGS, say=[].append)
    return Ran(suite, found, open_tiny(Path(suite.base)), dict(heads_of(with_controls(suite))))


def as_read(result: Record) -> Any:
    return json.loads(result.to_json())


def test_every_protocol_has_its_own_entry_and_nothing_is_left_out(ran: Ran) -> None:
    assert set(SETTINGS.protocols or ()) <= ran.record.keys()
    assert not set(QUICK) & ran.record.keys()
    assert ran.record["skipped"] == {}
    assert ran.bench.summary[0]["protocol"] == "single"


def test_a_second_run_computes_nothing(ran: Ran) -> None:
    said: list[str] = []
    again = bench(ran.suite, ran.bench.folder, SETTINGS, say=said.append)
    assert [line for line in said if line.startswith("  ")] == []
    assert again.to_json() == ran.bench.to_json()


def test_the_rows_beside_a_negation(ran: Ran) -> None:
    rows = {(row["target"], row["name"]): row for row in ran.record["negation_baselines"]}
    assert len(rows) == 4 * 3
    val, test, vector = ran.inputs("val"), ran.inputs("test"), ran.vectors()["animal"]
    (one,) = negated_at(ran.encoder, vector, "animal", "color", test=test, scales=[1.0], autocast=True)
    assert rows["animal", "at scale 1"]["target_after"] == one.target_after.value
    assert rows["animal", "at scale 1"]["control_before"] == one.control_before.value
    options: dict[str, Any] = {"controls": CONTROL, "validation": val, "test": test, "scales": (0.0, 0.5, 1.0)}
    drawn = random_like(deltas_of(ran.encoder, vector), seed=0)
    (noise,) = negation(ran.encoder, {"animal": drawn}, **options, autocast=True).rows
    assert rows["animal", "random vector"]["scale"] == noise.scale
    assert rows["animal", "random vector"]["target_after"] == noise.target_after.value
    (first,) = negation(ran.encoder, {"animal": vector}, **options, linear=True).rows
    assert rows["animal", "to first order"]["scale"] == first.scale
    assert rows["animal", "to first order"]["control_after"] == first.control_after.value
    line = affine(ran.encoder, test, {"animal": vector})
    at_one = rows["animal", "to first order, at scale 1"]
    assert at_one["scale"] == 1.0
    assert at_one["target_after"] == line.scores({"animal": -1.0})["animal"].value


def test_gradient_ascent_has_vectors_of_its_own_that_raise_the_loss(ran: Ran) -> None:
    climbed, vectors = ran.vectors("standard-20-seed0-ascent"), ran.vectors()
    assert (climbed["color"] - vectors["color"]).norm() > vectors["color"].norm()
    test = ran.inputs("test")
    for row in ran.record["gradient_ascent"]:
        assert row["name"] == "gradient ascent"
        assert row["scale"] == -1.0
        own = own_scores(ran.encoder, climbed, test, regime="standard", autocast=True)
        assert row["target_after"] == own[row["target"]].value
    train = {task.task.name: task for task in ran.inputs("train").tasks}
    for name, vector in climbed.items():
        delta = deltas_of(ran.encoder, vector)
        loss = objective_of(ran.encoder, train[name], names=list(delta))
        assert loss.value(delta) > loss.value({})


def test_the_model_to_first_order_and_the_advantage_over_it(ran: Ran) -> None:
    own, added = ran.record["to_first_order"]
    vectors, test = ran.vectors(), ran.inputs("test")
    line = affine(ran.encoder, test, {**vectors, "sum": tv.merge("task_arithmetic", vectors)})
    assert own["mean"] == sum(line.scores({task: 1.0})[task].value for task in vectors) / 3
    assert added["mean"] == line.scores({"sum": added["scale"]}).mean
    linear = own_scores(ran.encoder, vectors, test, regime="posthoc", linear=True)
    nonlinear = own_scores(ran.encoder, vectors, test, regime="standard", autocast=True)
    expected = nonlinear_advantage(nonlinear, linear, dict.fromkeys(vectors, 2))
    assert ran.record["nonlinear_advantage"] == as_read(expected)


def test_all_pairs_and_local_energy(ran: Ran) -> None:
    vectors = ran.vectors()
    expected = disentanglement_pairs(ran.encoder, vectors, ran.inputs("test", 30), autocast=True)
    found = ran.record["disentanglement_pairs"]
    assert found["disentanglement_pairs"] == as_read(expected)["pairs"]
    assert len(found["disentanglement_pairs"]) == 3
    assert found["mean"] == expected.mean
    energy = ran.record["local_energy"]
    assert energy["texts"] == 4
    rows = energy["local_energy"]
    assert [(row["task"], row["control"]) for row in rows] == [("color", "animal"), ("animal", "color")]
    for row in rows:
        assert row["share"] >= 0.9, "all eigenfunctions are known"
        assert (row["on_task"] + row["on_control"]) / 2 == pytest.approx(row["uniform"])


def test_bases_keep_the_sum_and_lose_the_tasks(ran: Ran) -> None:
    (row,) = ran.record["bases"]["bases"]  # half and a quarter of three are one
    assert (row["name"], row["size"]) == ("addition_exact", 1)
    vectors, val, test = ran.vectors(), ran.inputs("val"), ran.inputs("test")
    basis = tv.Basis.fit(vectors, 1)
    single = [own_scores(ran.encoder, vectors, inputs, regime="standard", autocast=True) for inputs in (val, test)]
    (expected,) = addition(
        ran.encoder,
        {"sum": basis.combine(1.0)},
        validation=val,
        test=test,
        single_validation=single[0],
        single_test=single[1],
        scales=SETTINGS.scales,
        refine=2,
        autocast=True,
    ).rows
    assert (row["scale"], row["mean"]) == (expected.scale, expected.scores.mean)
    recovered = {name: basis.recover(name) for name in vectors}
    scores = own_scores(ran.encoder, recovered, test, regime="standard", autocast=True)
    assert row["single_mean"] == scores.mean < single[1].mean
    assert row["largest_error"] == pytest.approx(max(basis.error(name) for name in vectors))
    assert [each["target"] for each in row["negation"]] == list(CONTROL)
    options: dict[str, Any] = {"controls": CONTROL, "validation": val, "test": test, "scales": (0.0, 0.5, 1.0)}
    (forgotten,) = negation(ran.encoder, {"shade": recovered["shade"]}, **options, autocast=True).rows
    assert row["negation"][2]["target_after"] == as_read(forgotten.target_after)


def test_few_shots_of_a_held_out_task_from_all_vectors_and_from_one(ran: Ran) -> None:
    rows = ran.record["few_shot"]["few_shot"]
    assert [(row["target"], row["vectors"]) for row in rows] == [(t, n) for t in CONTROL for n in (2, 1)]
    library = {name: vector for name, vector in ran.vectors().items() if name != "shade"}
    options: dict[str, Any] = {"heads": ran.heads, "shots": 2, "sweeps": 1, "limit": 30, "autocast": True}
    expected = few_shot(ran.encoder, library, ran.suite, "shade", **options)
    assert rows[4] == {"vectors": 2, **as_read(expected)}
    assert len(rows[5]["coefficients"]) == 1
    assert all(row["loss_after"] <= row["loss_before"] for row in rows)


def test_arrivals_and_analogies(ran: Ran) -> None:
    vectors, test = ran.vectors(), ran.inputs("test", 30)
    single = [own_scores(ran.encoder, vectors, p, regime="standard", autocast=True) for p in (ran.inputs("val"), test)]
    expected = arrival(
        ran.encoder,
        vectors,
        lambda some: tv.merge("task_arithmetic", some),
        validation=ran.inputs("val"),
        test=test,
        single_validation=single[0],
        single_test=single[1],
        scales=SETTINGS.scales,
        autocast=True,
    )
    rows = ran.record["arrival"]["arrival"]
    assert [row["arrived"] for row in rows] == list(CONTROL)
    assert rows == [{"name": "task_arithmetic", **row} for row in as_read(expected)["arrival"]]
    (row,) = ran.record["analogy"]["analogy"]
    home = ran.bench.folder / "vectors" / "standard-20-seed0"
    four = {**vectors, "beast": tv.TaskVector.open(home / "beast.tv.safetensors")}
    whole = with_controls(ran.suite)
    assert whole.names() == ("color", "animal", "shade", "beast")
    inputs = {
        "validation": prepare(ran.encoder, whole, split="val", tasks=["beast"], heads=ran.heads),
        "test": prepare(ran.encoder, whole, split="test", tasks=["beast"], heads=ran.heads),
    }
    quadruple = ("color", "animal", "shade", "beast")
    found = analogies(ran.encoder, four, [quadruple], **inputs, scales=SETTINGS.scales, autocast=True)
    assert row == as_read(found)["analogy"][0]
    assert row["tuned"]["value"] > 0.9


def test_the_encoder_has_its_weights_back(ran: Ran) -> None:
    again = score(open_tiny(Path(ran.suite.base)), ran.inputs("test"), autocast=True)
    assert ran.record["zero_shot"]["rows"] == as_read(again)["rows"]


def test_linear_regimes_leave_out_what_they_are_themselves(suite: Suite, tmp_path: Path) -> None:
    settings = replace(SETTINGS, regime="tangent", learning_rate=1e-2, targets=("color",))
    (record,) = bench(suite, tmp_path, settings, say=[].append).runs
    assert record["skipped"].keys() == {"to first order", "nonlinear advantage", "gradient ascent"}
    assert [row["name"] for row in record["negation_baselines"]] == ["at scale 1", "random vector"]
    encoder, vector = (
        open_tiny(Path(suite.base)),
        tv.TaskVector.open(tmp_path / "vectors" / "tangent-20-seed0" / "color.tv.safetensors"),
    )
    line = affine(encoder, prepare(encoder, suite, split="test"), {"color": vector})
    assert record["negation_baselines"][0]["target_after"] == line.scores({"color": -1.0})["color"].value


def test_one_task_alone_allows_few_protocols(suite: Suite, tmp_path: Path) -> None:
    alone = replace(suite, tasks=suite.tasks[:1], analogies=())
    (record,) = bench(alone, tmp_path, replace(SETTINGS, pairs=0), say=[].append).runs
    assert record["skipped"] == {
        "negation baselines": "there is no control for the negation of 'color'.",
        "disentanglement pairs": "pairs are of two tasks; 1 vectors were given.",
        "bases": "a basis of fewer vectors needs two tasks at least.",
        "few shot": "a task can be held out from others only.",
        "analogy": "the suite 'tiny' knows of no analogies between its tasks.",
        "gradient ascent": "there is no control for the negation of 'color'.",
    }


# --- scales that reach past the best


def peaked(best: float, calls: list[Sequence[float]], *, refine: Sequence[float] = ()) -> Any:
    """A search whose values fall with the distance from `best`."""

    def search(scales: Sequence[float]) -> dict[str, Any]:
        calls.append(list(scales))
        points = [[scale, -abs(scale - best)] for scale in sorted({*scales, *refine})]
        return {"scale": max(points, key=lambda point: point[1])[0], "curve": points}

    return search


def test_a_best_inside_the_scales_is_found_once() -> None:
    calls: list[Sequence[float]] = []
    row = reaching(peaked(1.0, calls), (0.5, 1.0, 2.0), (4.0, 8.0))
    assert (row["scale"], row["at_edge"], calls) == (1.0, False, [[0.5, 1.0, 2.0]])


def test_a_best_at_the_top_goes_on_from_its_neighbor_and_keeps_the_whole_curve() -> None:
    calls: list[Sequence[float]] = []
    row = reaching(peaked(4.5, calls), (0.5, 1.0, 2.0), (4.0, 8.0))
    assert calls == [[0.5, 1.0, 2.0], [1.0, 2.0, 4.0, 8.0]]
    assert (row["scale"], row["at_edge"]) == (4.0, False)
    assert [scale for scale, _ in row["curve"]] == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_a_best_between_the_top_and_a_refinement_above_it_is_at_the_top() -> None:
    calls: list[Sequence[float]] = []
    row = reaching(peaked(2.4, calls, refine=(2.4, 2.8)), (1.0, 2.0), (4.0,))
    assert calls[1] == [2.0, 2.4, 2.8, 4.0]
    assert (row["scale"], row["at_edge"]) == (2.4, False)


@pytest.mark.parametrize(("best", "found"), [(99.0, 8.0), (0.0, 0.5)])
def test_an_edge_that_stays_one_is_said(best: float, found: float) -> None:
    row = reaching(peaked(best, []), (0.5, 1.0, 2.0), (4.0, 8.0))
    assert (row["scale"], row["at_edge"]) == (found, True)


def test_scales_of_ones_own_are_all_that_is_tried() -> None:
    calls: list[Sequence[float]] = []
    assert reaching(peaked(9.0, calls), (1.0, 2.0), ())["at_edge"]
    assert not reaching(peaked(9.0, calls), (1.0,), ())["at_edge"], "one scale has no edge"
    assert len(calls) == 2


def test_a_negation_that_went_to_the_top_still_knows_the_base_and_0_is_no_edge() -> None:
    calls: list[Sequence[float]] = []

    def search(scales: Sequence[float]) -> dict[str, Any]:
        calls.append(list(scales))
        return {"scale": max(scales) if len(calls) == 1 else 3.0}

    row = reaching(search, (0.0, 1.0, 2.0), (3.0, 5.0), always=(0.0,))
    assert calls[1] == [0.0, 1.0, 2.0, 3.0, 5.0]
    assert row == {"scale": 3.0, "at_edge": False}
    assert reaching(lambda _: {"scale": 0.0}, (0.0, 1.0), (3.0,), always=(0.0,)) == {"scale": 0.0, "at_edge": False}


def test_the_largest_scale_of_a_run_is_extended_and_the_record_says_so(suite: Suite, tmp_path: Path) -> None:
    settings = replace(
        SETTINGS, protocols=("addition",), methods=("average",), scales=(0.05, 0.1), refine=0, beyond=(1.0, 9.0, 30.0)
    )
    found = bench(suite, tmp_path, settings, say=[].append)
    (row,) = found.runs[0]["addition"]["addition"]
    assert [scale for scale, _ in row["curve"]] == [0.05, 0.1, 1.0, 9.0, 30.0]
    assert row["scale"] in (1.0, 9.0)
    assert row["at_edge"] is False
    assert found.suite["beyond"] == [1.0, 9.0, 30.0]


# --- names


def test_half_and_a_quarter() -> None:
    assert [basis_sizes(n) for n in (8, 7, 3, 2, 1)] == [(4, 2), (3, 1), (1,), (1,), ()]


def test_protocols_are_chosen_by_name_in_their_own_order() -> None:
    assert list(chosen(("negation", "addition"))) == ["addition", "negation"]
    assert list(chosen(None)) == list(PROTOCOLS)
    with pytest.raises(UnknownName, match="there is no protocol 'bases2'"):
        chosen(("bases2",))


def test_the_help_names_every_protocol_and_what_it_costs() -> None:
    shown = call("bench", "--help").stdout
    lines = [line.split() for line in shown.splitlines()]
    names = [line[0] for line in lines if line and line[0] in PROTOCOLS]
    assert names == list(PROTOCOLS)
    assert all(line[1].isdigit() for line in lines if line and line[0] in PROTOCOLS)
