"""The tangent space: the linearized model, its gradient, the regimes, and the disentanglement error."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskvec as tv
from plain_models import counts, seeded
from taskvec.errors import FormatError, NonFiniteError, ParameterError, SchemaError, TimeLimit, UnknownName
from taskvec.evaluate import Prepared, Scores, affine, disentanglement, prepare, resident, score
from taskvec.suites import LinearizedEncoder, ModuleEncoder, Suite, TextEncoder, class_name_head, heads_of
from taskvec.suites.linearize import along, first_order, linearize, weights_of
from taskvec.tune import Settings, regime_names, tune
from taskvec.tune.adapters import _products, _start
from tiny_text import open_tiny, tiny_suite, write_tiny_encoder

QUICK = Settings(steps=40, batch_size=16, learning_rate=2e-3)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(write_tiny_encoder(tmp_path_factory.mktemp("tangent") / "base"))


@pytest.fixture(scope="module")
def encoder(suite: Suite) -> TextEncoder:
    return open_tiny(Path(suite.base))


@pytest.fixture(scope="module")
def tuned(encoder: TextEncoder, suite: Suite) -> dict[str, tv.tune.Tuned]:
    settings = replace(QUICK, steps=70, batch_size=8, learning_rate=3e-3)
    return {task.name: tune(encoder, task, regime="tangent", settings=settings) for task in suite.tasks}


def noise(point: Mapping[str, Tensor], seed: int, size: float = 0.02) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for n, p in point.items()}


def in_double(encoder: TextEncoder) -> TextEncoder:
    copied = encoder.duplicate()
    copied.module.double()
    return copied


# --- the linearized model


def test_at_zero_it_is_the_model_and_it_is_affine(encoder: TextEncoder) -> None:
    model = linearize(encoder.module, output=lambda o: o.last_hidden_state)
    batch = encoder.batch(["the red dog", "one blue thing"])
    f0 = encoder.module(**batch).last_hidden_state
    assert torch.allclose(model(batch, {}), f0, atol=1e-6)
    one, two = (noise(weights_of(encoder.module), seed) for seed in (1, 2))
    moves = [model(batch, tau) - model(batch, {}) for tau in (one, two)]
    both = {n: 0.5 * one[n] - 2.0 * two[n] for n in one}
    assert torch.allclose(model(batch, both), f0 + 0.5 * moves[0] - 2.0 * moves[1], atol=1e-4)
    assert moves[0].norm() > 0.1


def test_missing_names_count_as_zero(encoder: TextEncoder) -> None:
    model = linearize(encoder.module, output=lambda o: o.last_hidden_state)
    batch = encoder.batch(["the red dog"])
    tau = noise(weights_of(encoder.module), 3)
    name = "encoder.layer.1.output.dense.weight"
    rest = {n: torch.zeros_like(t) for n, t in tau.items()}
    assert torch.allclose(model(batch, {name: tau[name]}), model(batch, {**rest, name: tau[name]}), atol=1e-6)


def test_the_derivative_is_that_of_central_differences(encoder: TextEncoder) -> None:
    model = in_double(encoder)
    batch, point = model.batch(["the red dog", "any mouse"]), weights_of(model.module)
    tau = noise(point, 4)
    _, exact = along(lambda w: model.features(batch, params=w), point, tau)
    _, central = along(lambda w: model.features(batch, params=w), point, tau, derivative="central")
    h = 1e-5
    fine = (
        model.features(batch, params={n: point[n] + h * tau[n] for n in tau})
        - model.features(batch, params={n: point[n] - h * tau[n] for n in tau})
    ) / (2 * h)
    assert torch.allclose(exact, fine, rtol=1e-7, atol=1e-9)
    assert torch.allclose(exact, central, rtol=1e-3, atol=1e-5)


def test_the_gradient_is_the_one_of_autograd_through_the_derivative(encoder: TextEncoder) -> None:
    model = in_double(encoder)
    batch, point = model.batch(["the red dog", "any mouse"]), weights_of(model.module)
    target = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def function(weights: Mapping[str, Tensor]) -> Tensor:
        return model.features(batch, params=weights)

    def loss(features: Tensor) -> Tensor:
        return ((nn.functional.normalize(features, dim=-1) - target) ** 2).sum()

    tau = {n: t.requires_grad_(True) for n, t in noise(point, 5).items()}
    ours = torch.autograd.grad(loss(first_order(function, point, tau)), list(tau.values()), allow_unused=True)

    def through(some: dict[str, Tensor]) -> Tensor:
        value, move = torch.func.jvp(function, (point,), (some,))
        return loss(value + move)

    from taskvec.suites.linearize import plain_attention

    with plain_attention():
        theirs = torch.func.grad(through)({n: t.detach() for n, t in tau.items()})
    for name, mine in zip(tau, ours, strict=True):
        assert torch.allclose(mine, theirs[name], rtol=1e-6, atol=1e-12), name


def test_a_model_that_is_linear_in_its_weights_is_its_own_linearization() -> None:
    module = nn.Linear(5, 3).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    tau = {"weight": torch.randn(3, 5, dtype=torch.float64), "bias": torch.randn(3, dtype=torch.float64)}
    moved = torch.func.functional_call(module, {n: p + tau[n] for n, p in module.named_parameters()}, (x,))
    assert torch.allclose(linearize(module)(x, tau), moved, atol=1e-12)
    assert torch.allclose(linearize(module)((x,), tau), moved, atol=1e-12)


def test_what_cannot_be_linearized_is_refused() -> None:
    noisy = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    with pytest.raises(ParameterError, match=r"the module '1' \(Dropout\) is in training mode"):
        linearize(noisy)
    linearize(noisy.eval())
    with pytest.raises(ParameterError, match="'1' \\(BatchNorm1d\\) is in training mode"):
        linearize(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    model = linearize(nn.Linear(3, 2))
    with pytest.raises(UnknownName, match="no floating-point parameter 'weigth'"):
        model(torch.ones(1, 3), {"weigth": torch.ones(2, 3)})
    with pytest.raises(SchemaError, match=r"τ of 'weight' has shape \(3, 2\), the parameter \(2, 3\)"):
        model(torch.ones(1, 3), {"weight": torch.ones(3, 2)})
    with pytest.raises(ParameterError, match="the module returns tuple, not a tensor"):
        linearize(_Pair())(torch.ones(1, 3), {})


class _Pair(nn.Linear):
    """A module that returns a tuple."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class _OnlyBackward(nn.Module):
    """A module whose operation has no forward-mode derivative."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 1.0, width))

    def forward(self, x: Tensor) -> Tensor:
        class Cube(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(w: Tensor) -> Tensor:
                return w**3

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                ctx.save_for_backward(*inputs)

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:
                return grad * 3 * ctx.saved_tensors[0] ** 2

        return x * Cube.apply(self.weight)


def test_a_module_without_forward_derivatives_names_the_way_out_and_central_differences_are_one() -> None:
    module, x, tau = _OnlyBackward(), torch.ones(4), {"weight": torch.full((4,), 0.5)}
    with pytest.raises(ParameterError, match=r'no forward-mode derivative[^$]*derivative="central"'):
        linearize(module)(x, tau)
    w = module.weight.detach()
    assert torch.allclose(linearize(module, derivative="central")(x, tau), w**3 + 3 * w**2 * 0.5, atol=1e-4)


# --- regimes


def test_tangent_tuning_learns_the_task_in_the_linearized_model(
    encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned]
) -> None:
    prepared = prepare(encoder, suite, split="test")
    for name, result in tuned.items():
        assert result.losses[-1] < result.losses[0]
        model = LinearizedEncoder(origin=encoder, tau=result.delta)
        assert score(model, prepared, regime="tangent")[name].value > 0.9
        tables = [n for n in weights_of(encoder.module) if "embeddings.weight" in n and "Layer" not in n]
        assert not set(tables) & set(result.delta)


def test_the_product_is_an_ordinary_model_at_base_plus_vector(
    encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned], tmp_path: Path
) -> None:
    result = tuned["color"]
    base = tv.Checkpoint.open(suite.base)
    vector = result.vector(base)
    assert set(vector.names()) == set(result.delta)
    result.save(tmp_path / "tuned")
    saved, summed = tv.Checkpoint.open(tmp_path / "tuned"), base + vector
    assert all(torch.equal(saved[n], summed[n]) for n in result.delta)
    LinearizedEncoder(origin=encoder, tau=result.delta).save(tmp_path / "same")
    assert tv.Checkpoint.open(tmp_path / "same").fingerprint() == saved.fingerprint()


def linear_encoder() -> ModuleEncoder:
    """Features that are linear in the weights: a matrix on counts of letters. Class phrases are texts, too."""
    encoder = ModuleEncoder(module=seeded(nn.Linear(8, 8)), read=counts())
    return replace(encoder, phrases=encoder.encode)


def test_on_a_linear_model_tangent_and_ordinary_tuning_are_the_same(suite: Suite) -> None:
    model = linear_encoder()
    settings = replace(QUICK, steps=12, weight_decay=0.0, autocast=False)
    found = [tune(model, suite.tasks[0], regime=r, settings=settings) for r in ("standard", "tangent")]
    assert found[0].losses == pytest.approx(found[1].losses, rel=1e-6)
    for name, delta in found[0].delta.items():
        assert torch.allclose(delta, found[1].delta[name], atol=1e-6)
        assert delta.norm() > 0.01


def test_attention_only_moves_the_matrices_of_attention(encoder: TextEncoder, suite: Suite) -> None:
    delta = tune(encoder, suite.tasks[0], regime="attention_only", settings=replace(QUICK, steps=2)).delta
    parts = {f"attention.{p}.weight" for p in ("self.query", "self.key", "self.value", "output.dense")}
    assert set(delta) == {f"encoder.layer.{i}.{part}" for i in (0, 1) for part in parts}
    assert all(each.norm() > 0 for each in delta.values())


def test_attention_only_needs_attention(suite: Suite) -> None:
    with pytest.raises(ParameterError, match="no module of Linear has 'Attention'"):
        tune(linear_encoder(), suite.tasks[0], regime="attention_only", settings=QUICK)


@pytest.mark.parametrize("regime", ["lora", "l_lora"])
def test_adapters_learn_the_task_with_deltas_of_their_rank(encoder: TextEncoder, suite: Suite, regime: str) -> None:
    result = tune(encoder, suite.tasks[0], regime=regime, settings=replace(QUICK, rank=4, learning_rate=1e-2))
    assert result.losses[-1] < result.losses[0]
    for name, delta in result.delta.items():
        assert torch.linalg.matrix_rank(delta) <= 4, name
    moved = prepare(encoder, suite, split="test", tasks=["color"])
    assert score(result.encoder, moved)["color"].value > 0.9


def test_linearized_adapters_at_their_start_are_adapters_with_frozen_a(encoder: TextEncoder) -> None:
    model = in_double(encoder)
    name = "encoder.layer.0.intermediate.dense.weight"
    point = weights_of(model.module)
    factors = {n: {r: x.double() for r, x in p.items()} for n, p in _start({name: point[name]}, QUICK).items()}
    assert not factors[name]["B"].any()
    step = {role: torch.randn_like(x) for role, x in factors[name].items()}
    w, move = torch.func.jvp(
        lambda pair: _products({name: pair})[name], (factors[name],), (step,)
    )  # the adapter module to first order around its start
    assert torch.equal(w + move, step["B"] @ factors[name]["A"])


def test_a_rank_above_the_smallest_matrix_is_refused(encoder: TextEncoder, suite: Suite) -> None:
    with pytest.raises(ParameterError, match="rank=64 is above 32, the rank of the smallest matrix"):
        tune(encoder, suite.tasks[0], regime="lora", settings=replace(QUICK, rank=64))


def test_the_regimes_are_these() -> None:
    assert {"standard", "tangent", "attention_only", "lora", "l_lora"} <= set(regime_names())


# --- linear evaluation


def vectors_of(tuned: dict[str, tv.tune.Tuned]) -> dict[str, tv.TaskVector]:
    return {name: each.vector() for name, each in tuned.items()}


def linear_scores(encoder: TextEncoder, delta: Mapping[str, Tensor], prepared: Prepared) -> Scores:
    return score(LinearizedEncoder(origin=encoder, tau=delta), prepared, regime="tangent")


def test_cached_features_score_like_the_model(
    encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned]
) -> None:
    prepared = prepare(encoder, suite, split="val")
    found = affine(encoder, prepared, vectors_of(tuned))
    assert found.scores({}) == replace(score(encoder, prepared), regime="tangent")
    for a, b in ((1.0, 0.0), (0.5, 0.5), (-1.0, 2.0)):
        both = {n: a * tuned["color"].delta[n] + b * tuned["animal"].delta[n] for n in tuned["color"].delta}
        assert found.scores({"color": a, "animal": b}) == linear_scores(encoder, both, prepared)


def test_the_linear_sum_of_two_tasks_keeps_both(
    encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned]
) -> None:
    scores = affine(encoder, prepare(encoder, suite, split="test"), vectors_of(tuned)).scores(
        {"color": 1.0, "animal": 1.0}
    )
    base = score(encoder, prepare(encoder, suite, split="test"))
    assert all(row.value > base[row.task].value + 0.1 for row in scores.rows)


@pytest.mark.parametrize("regime", ["standard", "linear"])
def test_the_disentanglement_error_has_its_identities(
    encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned], regime: Any, tmp_path: Path
) -> None:
    prepared, vectors, grid = prepare(encoder, suite, split="val"), vectors_of(tuned), (-1.0, 0.0, 1.0)
    before = weights_of(encoder.duplicate().module)
    found = disentanglement(encoder, vectors, prepared, grid, regime=regime)
    assert all(torch.equal(w, before[n]) for n, w in weights_of(encoder.module).items())
    assert found.error(0.0, 0.0) == 0.0
    for row in found.rows:
        assert 0.0 <= row.error <= 2.0
        assert row.error == row.first_term + row.second_term
        assert row.first_term == 0.0 or row.second != 0.0
        assert row.second_term == 0.0 or row.first != 0.0
    swapped = disentanglement(encoder, dict(reversed(vectors.items())), prepared, grid, regime=regime)
    assert all(swapped.error(row.second, row.first) == pytest.approx(row.error) for row in found.rows)
    found.save(tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text())["form"] == "sum, in [0, 2]"


def test_the_error_of_one_point_is_what_its_definition_says(
    encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned]
) -> None:
    prepared, vectors = prepare(encoder, suite, split="val"), vectors_of(tuned)
    found = disentanglement(encoder, vectors, prepared, (1.5,)).error(1.5, 1.5)
    expected = 0.0
    for task in suite.tasks:
        head = class_name_head(encoder, task, temperature=suite.temperature)
        own = {n: 1.5 * d for n, d in tuned[task.name].delta.items()}
        both = {n: 1.5 * (tuned["color"].delta[n] + tuned["animal"].delta[n]) for n in own}
        predictions = []
        for delta in (own, both):
            with resident(encoder.module, delta) as move, torch.no_grad():
                move(1.0)
                batch = encoder.batch(task.split("val").texts)
                predictions.append(head.logits(encoder.features(batch)).argmax(-1))
        expected += float((predictions[0] != predictions[1]).double().mean())
    assert found == pytest.approx(expected, abs=0.05)


def test_a_suite_gives_its_test_inputs(encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned]) -> None:
    vectors = vectors_of(tuned)
    found = tv.disentanglement(encoder, vectors, suite, (1.0,), regime="linear")
    assert found == disentanglement(encoder, vectors, prepare(encoder, suite, split="test"), (1.0,), regime="linear")
    with pytest.raises(ParameterError, match=r"the map has no point \(2, 1\)"):
        found.error(2.0, 1.0)


def test_bad_maps_are_refused(encoder: TextEncoder, suite: Suite, tuned: dict[str, tv.tune.Tuned]) -> None:
    prepared, vectors = prepare(encoder, suite, split="val"), vectors_of(tuned)
    with pytest.raises(ParameterError, match="the map is of two tasks; 1 vectors were given"):
        disentanglement(encoder, {"color": vectors["color"]}, prepared, (1.0,))
    with pytest.raises(ParameterError, match="the grid of coefficients is empty"):
        disentanglement(encoder, vectors, prepared, ())
    with pytest.raises(UnknownName, match="the task 'colour' was not prepared"):
        disentanglement(encoder, {"colour": vectors["color"], "animal": vectors["animal"]}, prepared, (1.0,))
    assert set(heads_of(suite, base=encoder)) == {"color", "animal"}


# --- interrupted and resumed


class _Stop(Exception):
    pass


@pytest.mark.parametrize("regime", ["standard", "tangent", "lora"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, _Stop])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    encoder: TextEncoder, suite: Suite, tmp_path: Path, regime: str, stop: type[BaseException]
) -> None:
    settings, task = replace(QUICK, steps=9, batch_size=4), suite.tasks[0]
    whole = tune(encoder, task, regime=regime, settings=settings)
    steps = []

    def until(step: tv.tune.Step) -> None:
        steps.append(step.step)
        if step.step == 5:
            raise stop

    options: dict[str, Any] = {"regime": regime, "settings": settings, "resume": tmp_path / "state.pt", "save_every": 3}
    with pytest.raises(stop):
        tune(encoder, task, progress=until, **options)
    again = tune(encoder, task, progress=lambda step: steps.append(step.step), **options)
    assert steps == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]
    assert again.losses == whole.losses
    assert all(torch.equal(d, again.delta[n]) for n, d in whole.delta.items())


def test_the_state_of_another_run_is_refused(encoder: TextEncoder, suite: Suite, tmp_path: Path) -> None:
    settings, state = replace(QUICK, steps=2, batch_size=4), tmp_path / "state.pt"
    tune(encoder, suite.tasks[0], settings=settings, resume=state, save_every=1)
    before = state.read_bytes()
    for task, changed in ((suite.tasks[1], settings), (suite.tasks[0], replace(settings, seed=1))):
        with pytest.raises(ParameterError, match="holds the state of another fine-tuning"):
            tune(encoder, task, settings=changed, resume=state)
    for regime in ("tangent", "lora"):  # what these train starts from zeros and the seed, whatever the base is
        other, mine = encoder.duplicate(), tmp_path / regime
        tune(encoder, suite.tasks[0], regime=regime, settings=settings, resume=mine, save_every=1)
        with torch.no_grad():
            next(p for n, p in other.module.named_parameters() if "word_embeddings" in n)[0, 0] += 1.0
        with pytest.raises(ParameterError, match="holds the state of another fine-tuning"):
            tune(other, suite.tasks[0], regime=regime, settings=settings, resume=mine, save_every=1)
    assert state.read_bytes() == before
    state.write_bytes(b"nothing of the kind")
    with pytest.raises(FormatError, match="is not the state of a fine-tuning"):
        tune(encoder, suite.tasks[0], settings=settings, resume=state)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    encoder: TextEncoder, suite: Suite, tmp_path: Path
) -> None:
    settings, state = replace(QUICK, steps=6, batch_size=4, learning_rate=1e30, warmup=1.0), tmp_path / "state.pt"
    with pytest.raises(NonFiniteError, match="at step"):
        tune(encoder, suite.tasks[0], settings=settings, resume=state, save_every=1)
    assert not state.exists()  # the first step's weights gave no finite loss


def test_the_state_that_is_kept_gave_a_finite_loss(encoder: TextEncoder, suite: Suite, tmp_path: Path) -> None:
    settings, state, task = replace(QUICK, steps=6, batch_size=4), tmp_path / "state.pt", suite.tasks[0]
    broken = encoder.duplicate()
    done = []

    def spoil(step: tv.tune.Step) -> None:
        done.append(step.step)
        if step.step == 4:  # the model reads texts through `batch`, which the run shares
            object.__setattr__(broken, "tokenizer", _Never())

    class _Never:
        def __call__(self, *args: Any, **options: Any) -> Any:
            found = dict(encoder.tokenizer(*args, **options))
            return {**found, "attention_mask": torch.zeros_like(found["attention_mask"])}  # a mean over no token: NaN

    with pytest.raises(NonFiniteError, match="at step 5 is nan"):
        tune(broken, task, settings=settings, resume=state, save_every=1, progress=spoil)
    kept = torch.load(state, weights_only=True)
    assert done == [1, 2, 3, 4]
    assert len(kept["losses"]) == 3
    again = tune(encoder, task, settings=settings, resume=state)
    whole = tune(encoder, task, settings=settings)
    assert again.losses == whole.losses
    assert again.losses[:3] == tuple(kept["losses"])


def test_a_finished_state_needs_no_step_and_a_time_limit_keeps_what_was_done(
    encoder: TextEncoder, suite: Suite, tmp_path: Path
) -> None:
    settings, state, task = replace(QUICK, steps=5, batch_size=4), tmp_path / "state.pt", suite.tasks[0]
    whole, steps = tune(encoder, task, settings=settings), []
    options: dict[str, Any] = {"settings": settings, "resume": state, "progress": lambda s: steps.append(s.step)}
    for done in (1, 2):
        with pytest.raises(TimeLimit, match=rf"was at step {done} of 5 when its 0 s were over\.\nFix: call again"):
            tune(encoder, task, seconds=0.0, **options)
    with pytest.raises(TimeLimit, match=r"Fix: give resume=FILE to keep what was done, or allow more seconds"):
        tune(encoder, task, settings=settings, seconds=0.0)
    again = tune(encoder, task, seconds=1000.0, **options)
    assert steps == [1, 2, 3, 4, 5]
    assert again.losses == whole.losses
    assert all(torch.equal(d, again.delta[n]) for n, d in whole.delta.items())
    assert tune(encoder, task, seconds=0.0, **options).losses == whole.losses
    assert steps == [1, 2, 3, 4, 5]


def test_tangent_tuning_takes_central_differences_where_it_is_told_to(suite: Suite, encoder: TextEncoder) -> None:
    settings = replace(QUICK, steps=4, batch_size=4)
    exact = tune(encoder, suite.tasks[0], regime="tangent", settings=settings)
    central = tune(encoder, suite.tasks[0], regime="tangent", settings=replace(settings, derivative="central"))
    assert exact.losses == pytest.approx(central.losses, rel=1e-3)
    assert exact.losses != central.losses
    only_backward = ModuleEncoder(module=_OnlyBackward(8), read=counts("x"), phrases=lambda p: torch.eye(8)[: len(p)])
    with pytest.raises(ParameterError, match=r'derivative="central"'):
        tune(only_backward, suite.tasks[0], regime="tangent", settings=settings)
    tune(only_backward, suite.tasks[0], regime="tangent", settings=replace(settings, derivative="central"))
