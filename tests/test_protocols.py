"""The protocols: addition, compression, negation, on a tiny encoder that learns two word tasks."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import taskvec as tv
from taskvec.errors import ParameterError, UnknownName
from taskvec.evaluate import (
    Prepared,
    Scores,
    addition,
    compression,
    deltas_of,
    evaluate,
    line,
    negation,
    normalized,
    own_scores,
    prepare,
    score,
)
from taskvec.evaluate.selection import around
from taskvec.suites import LinearizedEncoder, TextEncoder, heads_of
from taskvec.tune import Settings, tune
from tiny_text import open_tiny, tiny_suite, write_tiny_encoder

SCALES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Trained:
    """A tiny encoder, the vectors of two tasks, and inputs."""

    encoder: TextEncoder
    base: tv.Checkpoint
    vectors: dict[str, tv.TaskVector]
    val: Prepared
    test: Prepared
    single_val: Scores
    single_test: Scores


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("protocols")
    suite = tiny_suite(write_tiny_encoder(root / "base"))
    encoder, base = open_tiny(root / "base"), tv.Checkpoint.open(root / "base")
    heads = heads_of(suite, base=encoder)
    vectors = {}
    for task in suite.tasks:
        tune(encoder, task, head=heads[task.name], settings=Settings(steps=25, learning_rate=2e-3)).save(
            root / task.name
        )
        vectors[task.name] = tv.Checkpoint.open(root / task.name) - base
    val, test = (prepare(encoder, suite, split=s, heads=heads) for s in ("val", "test"))
    single = [own_scores(encoder, vectors, inputs, regime="standard") for inputs in (val, test)]
    return Trained(encoder, base, vectors, val, test, single[0], single[1])


def test_own_scores_are_those_of_the_tuned_models(trained: Trained, tmp_path: Path) -> None:
    for row in trained.single_test.rows:
        target = (trained.base + trained.vectors[row.task]).save(tmp_path / row.task)
        suite = tiny_suite(Path(trained.encoder.folder))
        assert evaluate(target, suite, tasks=[row.task]).rows == (row,)
        assert row.value > 0.9


def added(trained: Trained, merged: dict[str, tv.TaskVector], scales: tuple[float, ...] = SCALES) -> object:
    return addition(
        trained.encoder,
        merged,
        validation=trained.val,
        test=trained.test,
        single_validation=trained.single_val,
        single_test=trained.single_test,
        scales=scales,
    )


def test_addition_reports_each_merge_at_its_best_scale_and_at_one(trained: Trained, tmp_path: Path) -> None:
    before = {n: t.clone() for n, t in trained.encoder.module.state_dict().items()}
    merged = {m: tv.merge(m, trained.vectors) for m in ("average", "task_arithmetic")}
    table = added(trained, merged)
    for name, vector in merged.items():
        row = table[name]  # type: ignore[index]
        assert row.scale == max(row.curve, key=lambda point: (point[1], -point[0]))[0]
        moved = trained.encoder.with_weights(trained.base + row.scale * vector)
        suite = tiny_suite(Path(trained.encoder.folder))
        assert evaluate(moved, suite) == row.scores
        assert row.normalized == normalized(row.scores, trained.single_test)
        assert evaluate(trained.encoder.with_weights(trained.base + vector), suite) == row.at_one
    assert all(torch.equal(t, before[n]) for n, t in trained.encoder.module.state_dict().items())
    table.save(tmp_path / "addition.json")  # type: ignore[attr-defined]
    rows = json.loads((tmp_path / "addition.json").read_text())["addition"]
    assert [r["name"] for r in rows] == list(merged)
    assert rows[0]["mean"] == table["average"].scores.mean  # type: ignore[index]
    with pytest.raises(UnknownName, match=r"there is no row 'averag'(.|\s)*average"):
        table["averag"]  # type: ignore[index]


def test_addition_of_nothing_is_the_base_whatever_the_scale(trained: Trained) -> None:
    zero = 0.0 * trained.vectors["color"]
    row = added(trained, {"zero": zero})["zero"]  # type: ignore[index]
    assert row.scale == 0.0
    assert row.scores == row.at_one


def test_addition_refuses_an_empty_grid(trained: Trained) -> None:
    with pytest.raises(ParameterError, match="the grid of scales is empty"):
        added(trained, {"average": tv.merge("average", trained.vectors)}, ())


def test_compression_counts_the_bytes_on_the_disk_and_scores_from_them(trained: Trained, tmp_path: Path) -> None:
    codecs = {"exact": ("dense", {}), "bf16": ("dense", {"dtype": "bfloat16"}), "int4": ("int4", {})}
    table = compression(
        trained.encoder, trained.vectors, codecs, tmp_path, test=trained.test, single=trained.single_test
    )
    assert table["exact"].scores.rows == trained.single_test.rows
    assert table["exact"].normalized.mean == 1.0
    assert table["exact"].error < 1e-6 < table["bf16"].error < 2**-8 < table["int4"].error < 0.3
    for label, row in ((r.name, r) for r in table.rows):
        assert row.bytes == sum(f.stat().st_size for f in (tmp_path / label).iterdir())
    assert table["int4"].bytes < table["bf16"].bytes < table["exact"].bytes
    table.save(tmp_path / "table.json")
    assert [r["name"] for r in json.loads((tmp_path / "table.json").read_text())["compression"]] == list(codecs)


def test_negation_forgets_the_target_and_keeps_the_control(trained: Trained, tmp_path: Path) -> None:
    found = negation(
        trained.encoder,
        {"color": trained.vectors["color"]},
        controls={"color": "animal"},
        validation=trained.val,
        test=trained.test,
        scales=SCALES,
    )
    (row,) = found.rows
    assert row.scale in SCALES
    assert found.target == row.target_after.value <= row.target_before.value
    delta = deltas_of(trained.encoder, trained.vectors["color"])
    assert set(delta) <= set(trained.encoder.module.state_dict())
    found.save(tmp_path / "negation.json")
    assert json.loads((tmp_path / "negation.json").read_text())["negation"][0]["target"] == "color"


def test_negation_needs_zero_in_its_grid_and_a_prepared_control(trained: Trained) -> None:
    options = {"validation": trained.val, "test": trained.test}
    with pytest.raises(ParameterError, match="lacks 0"):
        negation(
            trained.encoder, trained.vectors, controls={"color": "animal", "animal": "color"}, scales=(0.5,), **options
        )
    with pytest.raises(UnknownName, match="'colour' was not prepared"):
        negation(
            trained.encoder,
            {"color": trained.vectors["color"]},
            controls={"color": "colour"},
            scales=SCALES,
            **options,
        )


def test_refining_tries_more_scales_around_the_best_and_keeps_the_order(trained: Trained) -> None:
    (row,) = added(trained, {"sum": tv.merge("task_arithmetic", trained.vectors)}).rows  # type: ignore[attr-defined]
    found = addition(
        trained.encoder,
        {"sum": tv.merge("task_arithmetic", trained.vectors)},
        validation=trained.val,
        test=trained.test,
        single_validation=trained.single_val,
        single_test=trained.single_test,
        scales=SCALES,
        refine=4,
    )["sum"]
    tried = [scale for scale, _ in found.curve]
    assert tried == sorted({*SCALES, *around(SCALES, row.scale, 4)})
    assert max(value for _, value in found.curve) >= max(value for _, value in row.curve)
    assert dict(row.curve).items() <= dict(found.curve).items()


@pytest.mark.parametrize(
    ("scales", "best", "count", "expected"),
    [
        ((0.0, 1.0, 2.0), 1.0, 4, [1 / 3, 2 / 3, 4 / 3, 5 / 3]),
        ((1.0, 2.0), 2.0, 2, [1.5, 2.5]),  # beyond the largest, as far as the one before it is
        ((1.0, 2.0), 1.0, 2, [0.5, 1.5]),  # below the smallest is 0
        ((0.0, 1.0), 0.0, 2, [0.5]),
        ((1.0,), 1.0, 1, [1.5]),
        ((1.0,), 1.0, 0, []),
    ],
)
def test_around_is_between_the_neighbors(
    scales: tuple[float, ...], best: float, count: int, expected: list[float]
) -> None:
    assert around(scales, best, count) == pytest.approx(expected, abs=1e-6)


def test_around_refuses_a_negative_count() -> None:
    with pytest.raises(ParameterError, match="refine=-1 is negative"):
        around((1.0,), 1.0, -1)


def test_a_linear_line_is_the_model_to_first_order(trained: Trained) -> None:
    delta = deltas_of(trained.encoder, trained.vectors["color"])
    with line(trained.encoder, trained.test, delta, regime="posthoc", linear=True) as at:
        for scale in (0.0, 0.7):
            moved = {name: scale * change for name, change in delta.items()}
            model = LinearizedEncoder(origin=trained.encoder, tau=moved)
            assert at(scale) == score(model, trained.test, regime="posthoc")  # type: ignore[arg-type]
