"""Scores, normalized accuracy, and the choice of scales."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import taskvec as tv
import taskvec.evaluate
from taskvec.errors import NonFiniteError, ParameterError, SchemaError, UnknownName
from taskvec.evaluate import (
    Prepared,
    Score,
    Scores,
    choose_best,
    choose_negation,
    evaluate,
    normalized,
    prepare,
    resident,
    score,
    search_negation,
    search_scale,
)
from taskvec.evaluate.scores import score_of
from taskvec.suites import Suite, TextEncoder, heads_of
from taskvec.tune import Settings, tune
from tiny_text import open_tiny, tiny_suite, word_task, write_tiny_encoder

SCALES = (0.0, 0.25, 0.5, 1.0)


def table(regime: str = "standard", split: str = "val", **values: float) -> Scores:
    rows = tuple(Score(task, value, 0.1, 100) for task, value in values.items())
    return Scores(rows=rows, suite="tiny", split=split, regime=regime)


# --- scores


def test_the_standard_error_is_that_of_a_mean_of_zeros_and_ones() -> None:
    outcomes = torch.tensor([True] * 30 + [False] * 10)
    row = score_of("t", outcomes)
    assert row == Score("t", 0.75, math.sqrt(0.75 * 0.25 / 40), 40)
    assert row.stderr == pytest.approx((outcomes.double().std(correction=0) / math.sqrt(40)).item())


def test_a_mean_of_no_outcomes_is_refused() -> None:
    with pytest.raises(ParameterError, match="task 't' has no outcomes to average"):
        score_of("t", torch.tensor([], dtype=torch.bool))


def test_a_table_has_mean_rows_by_name_and_json(tmp_path: Path) -> None:
    scores = table(a=0.5, b=1.0)
    assert scores.mean == 0.75
    assert scores.mean_stderr == pytest.approx(math.sqrt(0.02) / 2)
    assert scores["b"].value == 1.0
    scores.save(tmp_path / "scores.json")
    record = json.loads((tmp_path / "scores.json").read_text())
    assert record == json.loads(scores.to_json())
    assert record["rows"][0] == {"task": "a", "value": 0.5, "stderr": 0.1, "n": 100}
    scores["a"].save(tmp_path / "row.json")
    assert json.loads((tmp_path / "row.json").read_text()) == record["rows"][0]


def test_an_unknown_row_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"there is no score of a task 'colour'\.\nFix: did you mean 'color'\?"):
        table(color=0.5)["colour"]


# --- normalized accuracy (oracle 6)


def test_normalized_accuracy_is_1_where_merged_equals_single() -> None:
    single = table(a=0.3, b=0.9)
    assert [row.value for row in normalized(single, single).rows] == [1.0, 1.0]
    assert normalized(single, single).mean == 1.0


def test_normalized_accuracy_is_the_mean_of_the_ratios_and_scales_the_errors() -> None:
    result = normalized(table(a=0.3, b=0.9), table(b=0.9, a=0.6))
    assert [row.value for row in result.rows] == [0.5, 1.0]
    assert result["a"].stderr == pytest.approx(0.1 / 0.6)
    assert result.mean == 0.75


@pytest.mark.parametrize(
    ("field", "single"), [("regime", table("tangent", a=0.9)), ("split", table(split="test", a=0.9))]
)
def test_scores_of_another_regime_or_split_cannot_normalize(field: str, single: Scores) -> None:
    with pytest.raises(ParameterError, match=rf"scores of the {field} '\w+' cannot be normalized by single"):
        normalized(table(a=0.5), single)


def test_a_single_task_score_of_zero_or_none_cannot_normalize() -> None:
    with pytest.raises(ParameterError, match="the single-task score of 'a' is 0"):
        normalized(table(a=0.5), table(a=0.0))
    with pytest.raises(UnknownName, match="there is no score of a task 'a'"):
        normalized(table(a=0.5), table(b=0.5))


# --- the rules (oracle 5)


def test_the_best_scale_has_the_largest_value_and_of_equals_is_nearest_to_zero() -> None:
    assert choose_best([0.0, 0.5, 1.0], [0.1, 0.9, 0.3]) == 0.5
    assert choose_best([1.0, 0.5, -0.25, 0.0], [0.9, 0.9, 0.9, 0.3]) == -0.25


def test_negation_takes_the_lowest_target_among_the_scales_that_keep_the_control() -> None:
    assert choose_negation([0, 0.5, 1, 2], [0.9, 0.5, 0.2, 0.0], [0.8, 0.79, 0.77, 0.5]) == 1
    assert choose_negation([0, 0.5, 1, 2], [0.9, 0.5, 0.2, 0.0], [0.8, 0.79, 0.77, 0.5], threshold=0.5) == 2
    assert choose_negation([1, 0.5, 0], [0.2, 0.2, 0.9], [0.8, 0.8, 0.8]) == 0.5


def test_negation_returns_0_when_every_other_scale_violates_the_control() -> None:
    assert choose_negation([0, 0.5, 1], [0.9, 0.1, 0.0], [0.8, 0.75, 0.7]) == 0


def test_a_control_at_exactly_the_threshold_is_kept() -> None:
    assert choose_negation([0, 1], [0.9, 0.1], [0.8, 0.95 * 0.8]) == 1


def test_a_negation_grid_without_zero_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"the grid of scales \[0.5, 1\] lacks 0, .*\nFix: add 0 to it"):
        choose_negation([0.5, 1], [0.1, 0.0], [0.8, 0.8])


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_outside_0_1_is_refused(threshold: float) -> None:
    with pytest.raises(ParameterError, match=rf"threshold={threshold} is outside \[0, 1\]"):
        choose_negation([0], [0.5], [0.5], threshold=threshold)


def test_a_grid_without_scales_or_with_too_few_values_is_refused() -> None:
    with pytest.raises(ParameterError, match="the grid of scales is empty"):
        choose_best([], [])
    with pytest.raises(ParameterError, match="2 scales have 1 values"):
        choose_best([0.0, 1.0], [0.5])


# --- with a model


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(write_tiny_encoder(tmp_path_factory.mktemp("tiny") / "base"))


@pytest.fixture(scope="module")
def encoder(suite: Suite) -> TextEncoder:
    return open_tiny(Path(suite.base))


@pytest.fixture(scope="module")
def validation(suite: Suite, encoder: TextEncoder) -> Prepared:
    return prepare(encoder, suite, split="val", heads=heads_of(suite, base=encoder))


@pytest.fixture(scope="module")
def deltas(suite: Suite, encoder: TextEncoder) -> dict[str, dict[str, Tensor]]:
    base = dict(encoder.module.named_parameters())
    settings = Settings(steps=30, batch_size=16, learning_rate=2e-3)
    tuned = {task.name: tune(encoder, task, settings=settings).encoder.module for task in suite.tasks}
    return {
        name: {key: (value - base[key]).detach() for key, value in module.named_parameters() if value.requires_grad}
        for name, module in tuned.items()
    }


@pytest.fixture(scope="module")
def single(encoder: TextEncoder, validation: Prepared, deltas: dict[str, dict[str, Tensor]]) -> Scores:
    rows = []
    for task, delta in deltas.items():
        with resident(encoder.module, delta) as move:
            move(1.0)
            rows.append(score(encoder, validation)[task])
    return Scores(rows=tuple(rows), suite="tiny", split="val", regime="standard")


def test_a_folder_an_encoder_and_given_heads_score_the_same(suite: Suite, encoder: TextEncoder) -> None:
    scores = evaluate(suite.base, suite)
    assert scores == evaluate(encoder, suite, heads=heads_of(suite))
    assert scores.names() == ("color", "animal")
    assert [row.n for row in scores.rows] == [50, 50]
    assert scores == taskvec.evaluate(encoder, suite)  # type: ignore[operator]


def test_limit_split_and_tasks_choose_what_is_scored(suite: Suite, encoder: TextEncoder) -> None:
    scores = evaluate(encoder, suite, split="val", limit=7, tasks=["animal"], regime="zero-shot")
    assert (scores.split, scores.regime) == ("val", "zero-shot")
    assert [(row.task, row.n) for row in scores.rows] == [("animal", 7)]


def test_an_accuracy_is_the_share_of_right_predictions(suite: Suite, encoder: TextEncoder) -> None:
    split, head = suite.task("color").split("test"), heads_of(suite, base=encoder)["color"]
    right = [
        int(head.logits(encoder.encode([text])).argmax()) == label
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    assert evaluate(encoder, suite)["color"].value == sum(right) / len(right)


def test_unknown_tasks_splits_metrics_and_missing_heads_are_refused(suite: Suite, encoder: TextEncoder) -> None:
    with pytest.raises(UnknownName, match=r"has no task 'colour'\.\nFix: did you mean 'color'\?"):
        evaluate(encoder, suite, tasks=["colour"])
    with pytest.raises(UnknownName, match="has no split 'valid'"):
        evaluate(encoder, suite, split="valid")
    with pytest.raises(UnknownName, match="there is no head for the task 'color'"):
        evaluate(encoder, suite, heads={})
    odd = replace(suite, tasks=(word_task("color", ("red", "green"), metric="acuracy"),))
    with pytest.raises(UnknownName, match=r"there is no metric 'acuracy'\.\nFix: did you mean 'accuracy'\?"):
        evaluate(encoder, odd)


def test_a_model_with_nan_is_refused(suite: Suite, encoder: TextEncoder) -> None:
    broken = encoder.duplicate()
    broken.module.get_parameter("encoder.layer.0.output.dense.bias").data[0] = torch.nan
    with pytest.raises(NonFiniteError, match="logits that are not finite on task 'color'"):
        evaluate(broken, suite)


def bits(encoder: TextEncoder) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in encoder.module.state_dict().items()}


def test_the_resident_model_moves_and_comes_back_bit_for_bit(
    encoder: TextEncoder, deltas: dict[str, dict[str, Tensor]]
) -> None:
    before = bits(encoder)
    weight = encoder.module.get_parameter("encoder.layer.0.output.dense.weight")
    start = weight.detach().clone()
    with resident(encoder.module, deltas["color"]) as move:
        move(0.0)
        assert bits(encoder) == before
        for scale in (0.5, -2.0):
            move(scale)
            change = deltas["color"]["encoder.layer.0.output.dense.weight"]
            torch.testing.assert_close(weight.detach(), start + scale * change)
    assert bits(encoder) == before


def test_the_resident_model_comes_back_after_an_error(
    encoder: TextEncoder, deltas: dict[str, dict[str, Tensor]]
) -> None:
    before = bits(encoder)
    refused = pytest.raises(ParameterError, match="scale=nan is not a finite number")
    with refused, resident(encoder.module, deltas["color"]) as move:
        move(1.0)
        move(float("nan"))
    assert bits(encoder) == before


@pytest.mark.parametrize(
    ("delta", "error", "message"),
    [
        (
            {"embeddings.LayerNorm.wait": torch.zeros(32)},
            UnknownName,
            r"no tensor 'embeddings.LayerNorm.wait' .*\nFix: did",
        ),
        ({"embeddings.LayerNorm.weight": torch.zeros(31)}, SchemaError, r"has shape \(31,\), the model \(32,\)"),
        (
            {"embeddings.LayerNorm.weight": torch.full((32,), torch.inf)},
            NonFiniteError,
            "the delta of .* is not finite",
        ),
    ],
)
def test_a_delta_that_does_not_fit_the_model_is_refused(
    encoder: TextEncoder, delta: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message), resident(encoder.module, delta):
        pass


def test_an_integer_tensor_cannot_be_moved() -> None:
    module = torch.nn.Module()
    module.register_buffer("ids", torch.arange(3))
    refused = pytest.raises(SchemaError, match=r"the tensor 'ids' is torch\.int64 and cannot be moved")
    with refused, resident(module, {"ids": torch.zeros(3)}):
        pass


def summed(deltas: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    first, second = deltas.values()
    return {name: first[name] + second[name] for name in first}


def test_the_scale_search_finds_the_best_mean_normalized_score_on_the_grid(
    encoder: TextEncoder, validation: Prepared, deltas: dict[str, dict[str, Tensor]], single: Scores
) -> None:
    before = bits(encoder)
    found = search_scale(encoder, validation, summed(deltas), scales=iter(SCALES), single=single)
    assert bits(encoder) == before
    assert [row.scale for row in found.rows] == list(SCALES)
    assert found.rows[0].scores == score(encoder, validation)
    assert all(row.objective == normalized(row.scores, single).mean for row in found.rows)
    assert max(row.objective for row in found.rows) == next(r.objective for r in found.rows if r.scale == found.scale)
    assert found.scale > 0
    record = json.loads(found.to_json())
    assert record["scale"] == found.scale
    assert record["rule"].startswith("largest mean normalized validation accuracy")
    assert len(record["rows"]) == len(SCALES)


def test_a_sum_at_scale_a_scores_as_the_mean_at_scale_a_times_t(
    encoder: TextEncoder, validation: Prepared, deltas: dict[str, dict[str, Tensor]], single: Scores
) -> None:
    total = summed(deltas)
    mean = {name: change / 2 for name, change in total.items()}
    by_sum = search_scale(encoder, validation, total, scales=SCALES, single=single)
    by_mean = search_scale(encoder, validation, mean, scales=[2 * scale for scale in SCALES], single=single)
    assert [row.scores for row in by_sum.rows] == [row.scores for row in by_mean.rows]
    assert by_mean.scale == 2 * by_sum.scale


def test_a_single_task_vector_at_scale_1_has_normalized_accuracy_1_on_its_task(
    encoder: TextEncoder, validation: Prepared, deltas: dict[str, dict[str, Tensor]], single: Scores
) -> None:
    found = search_scale(encoder, validation, deltas["color"], scales=[1.0], single=single)
    assert normalized(found.rows[0].scores, single)["color"].value == 1.0


def test_negation_forgets_the_target_and_keeps_the_control(
    encoder: TextEncoder, validation: Prepared, deltas: dict[str, dict[str, Tensor]]
) -> None:
    found = search_negation(
        encoder, validation, deltas["color"], target="color", control="animal", scales=SCALES, threshold=0.5
    )
    base = score(encoder, validation)
    assert found.rows[0].scores["color"] == base["color"]
    chosen = next(row for row in found.rows if row.scale == found.scale)
    assert chosen.scores["animal"].value >= 0.5 * base["animal"].value
    assert chosen.objective == min(
        r.objective for r in found.rows if r.scores["animal"].value >= 0.5 * base["animal"].value
    )
    with resident(encoder.module, deltas["color"]) as move:
        move(-1.0)
        assert score(encoder, validation)["color"] == found.rows[-1].scores["color"]


def test_searches_refuse_test_data_empty_grids_and_grids_without_zero(
    suite: Suite, encoder: TextEncoder, validation: Prepared, deltas: dict[str, dict[str, Tensor]], single: Scores
) -> None:
    delta = deltas["color"]
    on_test = prepare(encoder, suite, split="test", limit=2)
    with pytest.raises(ParameterError, match=r"a scale may not be chosen on the split 'test'"):
        search_scale(encoder, on_test, delta, scales=[0.0], single=single)
    with pytest.raises(ParameterError, match="the grid of scales is empty"):
        search_scale(encoder, validation, delta, scales=[], single=single)
    with pytest.raises(ParameterError, match=r"the grid of scales \[0.5\] lacks 0"):
        search_negation(encoder, validation, delta, target="color", control="animal", scales=[0.5])
    with pytest.raises(ParameterError, match="the task 'color' cannot be its own control"):
        search_negation(encoder, validation, delta, target="color", control="color", scales=[0.0])
    with pytest.raises(UnknownName, match="the task 'colors' was not prepared"):
        search_negation(encoder, validation, delta, target="colors", control="animal", scales=[0.0])


# --- checkpoints


def test_a_lazy_edit_is_scored_as_the_encoder_that_holds_its_weights(tmp_path: Path) -> None:
    suite = tiny_suite(write_tiny_encoder(tmp_path / "base"))
    tuned = tune(open_tiny(tmp_path / "base"), suite.task("color"), settings=Settings(steps=20, learning_rate=5e-3))
    base = tv.Checkpoint.open(tmp_path / "base")
    vector = tv.Checkpoint.open(tuned.save(tmp_path / "tuned")) - base
    assert tv.evaluate(base + vector, suite) == evaluate(tuned.encoder, suite)
    assert tv.evaluate(base + 0 * vector, suite) == evaluate(tmp_path / "base", suite)


def test_a_checkpoint_that_does_not_fit_the_encoder_is_refused(tmp_path: Path) -> None:
    suite = tiny_suite(write_tiny_encoder(tmp_path / "base"))
    tensors = dict(open_tiny(tmp_path / "base").module.state_dict())
    name = "encoder.layer.0.output.dense.bias"
    for change, what in (
        (tensors | {name: torch.zeros(3)}, "F32"),
        ({n: t for n, t in tensors.items() if n != name}, "missing"),
    ):
        with pytest.raises(SchemaError, match=f"the encoder needs '{name}' with shape .* it is {what}"):
            evaluate(tv.Checkpoint.from_tensors(change), suite)
    with pytest.raises(SchemaError, match="has the tensor 'more', which the encoder does not have"):
        evaluate(tv.Checkpoint.from_tensors(tensors | {"more": torch.zeros(1)}), suite)
