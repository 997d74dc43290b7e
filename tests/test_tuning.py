"""Fine-tuning: what moves, what stays, what is refused."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import taskvec.tune
from taskvec.errors import NonFiniteError, ParameterError, UnknownName
from taskvec.evaluate import evaluate
from taskvec.suites import Split, Suite, TextEncoder, class_name_head
from taskvec.tune import Settings, Step, regime_names, trainable_parameters, tune
from taskvec.tune.settings import learning_rate_at
from tiny_text import open_tiny, tiny_suite, write_tiny_encoder

QUICK = Settings(steps=30, batch_size=16, learning_rate=2e-3)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(write_tiny_encoder(tmp_path_factory.mktemp("tiny") / "base"))


@pytest.fixture
def encoder(suite: Suite) -> TextEncoder:
    return open_tiny(Path(suite.base))


def weights(encoder: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in encoder.module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_tuning_learns_the_task_and_leaves_the_given_model_alone(encoder: TextEncoder, suite: Suite) -> None:
    before = weights(encoder)
    tuned = tune(encoder, suite.tasks[0], settings=QUICK)
    assert same(before, weights(encoder))
    assert all(parameter.requires_grad for parameter in encoder.module.parameters())
    score = evaluate(tuned.encoder, suite, tasks=["color"])["color"].value
    assert score > evaluate(encoder, suite, tasks=["color"])["color"].value
    assert score > 0.95
    assert tuned.losses[-1] < tuned.losses[0]


def test_embedding_tables_stay_frozen_and_matrices_move(encoder: TextEncoder, suite: Suite) -> None:
    before = weights(encoder)
    after = weights(tune(encoder, suite.tasks[0], settings=replace(QUICK, steps=2)).encoder)
    tables = [f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    assert all(torch.equal(before[name], after[name]) for name in tables)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "encoder.layer.0.attention.self.query.weight" in moved
    assert "embeddings.LayerNorm.weight" in moved
    assert set(trainable_parameters(encoder.module)).isdisjoint(tables)


def test_a_module_of_embeddings_only_has_nothing_to_train() -> None:
    with pytest.raises(ParameterError, match="the model Sequential has no trainable parameter outside its embeddings"):
        trainable_parameters(torch.nn.Sequential(torch.nn.Embedding(2, 2)))


def test_equal_seeds_give_equal_weights_and_the_global_random_state_plays_no_part(
    encoder: TextEncoder, suite: Suite
) -> None:
    settings = replace(QUICK, steps=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = tune(encoder, suite.tasks[0], settings=settings)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = tune(encoder, suite.tasks[0], settings=settings)
    other = tune(encoder, suite.tasks[0], settings=replace(settings, seed=1))
    assert same(weights(first.encoder), weights(second.encoder))
    assert not same(weights(first.encoder), weights(other.encoder))


def test_bfloat16_and_float32_forwards_differ_a_little(encoder: TextEncoder, suite: Suite) -> None:
    runs = [
        tune(encoder, suite.tasks[0], settings=replace(QUICK, steps=3, autocast=autocast)) for autocast in (True, False)
    ]
    assert runs[0].losses != runs[1].losses
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=0.05)


def test_every_epoch_sees_every_example(encoder: TextEncoder, suite: Suite) -> None:
    from taskvec.tune.loop import _samples

    split = suite.tasks[0].split("train", limit=10)
    drawn = [position for batch in _samples(split, replace(QUICK, steps=5, batch_size=4)) for position in batch]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))


def test_the_callback_gets_every_step(encoder: TextEncoder, suite: Suite) -> None:
    steps: list[Step] = []
    tuned = tune(encoder, suite.tasks[0], settings=replace(QUICK, steps=4), progress=steps.append)
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert tuple(step.loss for step in steps) == tuned.losses
    assert all(0 <= step.accuracy <= 1 and step.steps == 4 for step in steps)


def test_the_learning_rate_warms_up_and_decays_as_half_a_cosine() -> None:
    settings = Settings(steps=20, learning_rate=1.0, warmup=0.2)
    rates = [learning_rate_at(step, settings) for step in range(1, 21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[3:]))
    assert 0 < rates[-1] < 0.02


def test_a_tuned_model_is_saved_under_the_names_of_the_base(encoder: TextEncoder, suite: Suite, tmp_path: Path) -> None:
    tuned = tune(encoder, suite.tasks[0], settings=replace(QUICK, steps=2))
    saved = load_file(tuned.save(tmp_path / "tuned") / "model.safetensors")
    base = load_file(Path(suite.base) / "model.safetensors")
    assert saved.keys() == base.keys()
    assert any(not torch.equal(saved[name], base[name]) for name in base)
    record = json.loads(tuned.to_json())
    assert record["task"] == "color"
    assert record["regime"] == "standard"
    assert record["settings"]["steps"] == 2
    assert record["losses"] == list(tuned.losses)


@pytest.mark.parametrize("table", ["encoder.layer.0.output.dense.bias", "embeddings.word_embeddings.weight"])
def test_a_base_with_nan_stops_at_step_1(encoder: TextEncoder, suite: Suite, table: str) -> None:
    head = class_name_head(encoder, suite.tasks[0], temperature=20.0)
    encoder.module.get_parameter(table).data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"the loss on task 'color' at step 1 is nan\.\nFix: lower the learning"):
        tune(encoder, suite.tasks[0], head=head, settings=QUICK)


def test_a_run_that_diverges_stops_and_names_the_step(encoder: TextEncoder, suite: Suite) -> None:
    steps: list[Step] = []
    with pytest.raises(NonFiniteError, match="the loss on task 'color' at step 2 is nan"):
        tune(
            encoder,
            suite.tasks[0],
            settings=replace(QUICK, learning_rate=1e30, warmup=0.0, autocast=False),
            progress=steps.append,
        )
    assert [step.step for step in steps] == [1]


def test_an_unknown_regime_suggests_the_nearest(encoder: TextEncoder, suite: Suite) -> None:
    assert "standard" in regime_names()
    with pytest.raises(UnknownName, match=r"no fine-tuning regime 'standart'\.\nFix: did you mean 'standard'\?"):
        tune(encoder, suite.tasks[0], regime="standart")


def test_an_empty_training_split_is_refused(encoder: TextEncoder, suite: Suite) -> None:
    task = suite.tasks[0]
    empty = replace(task, splits={**task.splits, "train": Split((), ())})
    with pytest.raises(ParameterError, match="the split 'train' of task 'color' is empty"):
        tune(encoder, empty)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("warmup", 1.1),
        ("clip", 0.0),
        ("derivative", "backward"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"{name}={value} is out of its range"):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_the_package_is_its_own_verb(encoder: TextEncoder, suite: Suite) -> None:
    tuned = taskvec.tune(encoder, suite.tasks[0], settings=replace(QUICK, steps=1))  # type: ignore[operator]
    assert len(tuned.losses) == 1
