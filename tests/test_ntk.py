"""The tangent kernel by products, against the explicit Jacobian of a small network in float64."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import taskvec as tv
from plain_models import WORDS, counts, flat, jacobian, mlp, seeded
from taskvec.errors import ParameterError, SchemaError, UnknownName
from taskvec.evaluate import (
    kernel_of,
    kernel_reference,
    kernel_regression,
    local_energy,
    localization,
    prepare,
    representing,
    score,
)
from taskvec.suites import Head, ModuleEncoder, Split, Suite, Task, bucketed, heads_of
from taskvec.suites.linearize import first_order, weights_of
from taskvec.tune import Settings, tune
from tiny_text import open_tiny, tiny_suite, write_tiny_encoder


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PROJECTIONS = {"features": None, "one output": random(3, 1, seed=5), "five outputs": random(3, 5, seed=6)}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_products_are_those_of_the_explicit_jacobian(name: str) -> None:
    encoder, projection = mlp(), PROJECTIONS[name]
    j = jacobian(encoder, WORDS, projection)
    kernel = kernel_of(encoder, WORDS, projection=projection)
    v = random(*kernel.start.shape, seed=1)
    assert kernel.size == len(j) == v.numel()
    torch.testing.assert_close(flat(kernel.pull(v)), j.T @ v.flatten(), rtol=1e-12, atol=1e-12)
    tau = {n: random(*p.shape, seed=2) for n, p in encoder.module.named_parameters()}
    torch.testing.assert_close(kernel.push(tau).flatten(), j @ flat(tau), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.product(v).flatten(), j @ (j.T @ v.flatten()), rtol=1e-12, atol=1e-11)
    features = encoder.features(encoder.batch(WORDS)).detach()
    torch.testing.assert_close(kernel.start, features if projection is None else features @ projection)


def test_the_order_and_size_of_batches_play_no_part() -> None:
    encoder, v = mlp(), random(len(WORDS), 3)
    whole, cut = (kernel_of(encoder, bucketed(encoder, WORDS, batch_size=size)) for size in (100, 3))
    torch.testing.assert_close(whole.product(v), cut.product(v), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.start, cut.start, rtol=1e-12, atol=1e-12)


def test_named_parameters_alone_count() -> None:
    encoder, v = mlp(), random(len(WORDS), 3)
    j = jacobian(encoder, WORDS)[:, :40]  # 0.weight is the first
    torch.testing.assert_close(
        kernel_of(encoder, WORDS, names=["0.weight"]).product(v).flatten(), j @ j.T @ v.flatten()
    )


def test_the_trace_kernel_sums_over_outputs() -> None:
    encoder, v = mlp(), random(len(WORDS), seed=3)
    j = jacobian(encoder, WORDS).view(len(WORDS), 3, -1)
    kernel = torch.einsum("akp,bkp->ab", j, j)
    torch.testing.assert_close(kernel_of(encoder, WORDS).trace_product(v), kernel @ v)
    pairs = kernel_of(encoder, WORDS).eigenpairs(3, trace=True, tolerance=1e-10)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(kernel).flip(0)[:3])


@pytest.mark.parametrize("count", [1, 4, 24])
def test_eigenpairs_are_those_of_the_explicit_kernel(count: int) -> None:
    encoder = mlp()
    j = jacobian(encoder, WORDS)
    values, vectors = torch.linalg.eigh(j @ j.T)
    found = kernel_of(encoder, WORDS).eigenpairs(count, tolerance=1e-9)
    torch.testing.assert_close(found.values, values.flip(0)[:count], rtol=1e-8, atol=1e-8)
    assert found.residuals.max() <= 1e-8 * values.max()
    for i in range(min(count, 4)):
        assert abs(found.vectors[:, i] @ vectors[:, -1 - i]) == pytest.approx(1.0, abs=1e-8)


# --- local energy (oracle 6)


def test_energy_over_a_complete_basis_is_the_number_of_outputs_everywhere() -> None:
    encoder = mlp()
    pairs = kernel_of(encoder, WORDS).eigenpairs(24, tolerance=1e-9)
    functions = pairs.vectors.T.view(24, len(WORDS), 3)
    everything = torch.ones(24, dtype=torch.bool)
    torch.testing.assert_close(local_energy(functions, everything), torch.full((8,), 3.0, dtype=torch.float64))
    some = torch.arange(24) < 5
    expected = torch.stack([(functions[:5, i] ** 2).sum() for i in range(8)])
    torch.testing.assert_close(local_energy(functions, some), expected)
    assert float(local_energy(functions, some).sum()) == pytest.approx(5.0)


def test_the_fewest_eigenvectors_that_hold_the_function_are_chosen() -> None:
    pairs = kernel_of(mlp(), WORDS).eigenpairs(6, tolerance=1e-9)
    target = pairs.vectors @ torch.tensor([0.1, 3.0, 0.0, -4.0, 0.2, 0.0], dtype=torch.float64)
    chosen, share = representing(pairs, target, threshold=0.99)
    assert chosen.tolist() == [False, True, False, True, False, False]
    assert share == pytest.approx(25.0 / 25.05)
    assert representing(pairs, target, threshold=0.5)[0].tolist() == [False, False, False, True, False, False]
    both = torch.stack([pairs.vectors[:, 0], 2.0 * pairs.vectors[:, 4]], dim=1)
    assert representing(pairs, both, threshold=0.99)[0].tolist() == [True, False, False, False, True, False]
    outside = random(24, seed=9)
    chosen, share = representing(pairs, outside, threshold=1.0)
    assert chosen.all()
    assert share == pytest.approx(float((pairs.vectors.T @ outside).square().sum() / outside.square().sum()))
    for threshold in (0.0, 1.5):
        with pytest.raises(ParameterError, match=rf"threshold={threshold} is outside \(0, 1\]"):
            representing(pairs, target, threshold=threshold)
    with pytest.raises(ParameterError, match="should represent is zero everywhere"):
        representing(pairs, 0.0 * target, threshold=0.9)


def letters(name: str, words: tuple[str, ...]) -> Task:
    split = Split(words, tuple(i % 2 for i in range(len(words))))
    return Task(
        name=name, classes=("x", "y"), phrases=("x", "y"), splits=dict.fromkeys(("train", "val", "test"), split)
    )


def block_suite() -> tuple[ModuleEncoder, Suite]:
    """A linear model of letters, one task on a and b alone, one on g and h alone: perfectly local."""
    encoder = ModuleEncoder(module=seeded(nn.Linear(8, 2, bias=False)), read=counts())
    tasks = (letters("left", ("a", "bb", "ab", "aab")), letters("right", ("ggg", "h", "ggh", "hhh")))
    return encoder, Suite(name="blocks", base="none", tasks=tasks, temperature=1.0, versions={})


@pytest.mark.parametrize("trace", [False, True])
def test_tasks_on_inputs_of_their_own_are_local(trace: bool, tmp_path: Path) -> None:
    encoder, suite = block_suite()
    head = Head(torch.eye(2), 1.0)
    prepared = prepare(encoder, suite, split="test", heads={"left": head, "right": head})
    vectors = {n: tv.TaskVector.from_tensors({"weight": random(2, 8, seed=4)}) for n in ("left", "right")}
    found = localization(encoder, vectors, prepared, trace=trace, threshold=0.999, tolerance=1e-9)
    for row in found.rows:
        assert row.on_task > 0.1
        assert row.on_control < 1e-12
        assert row.share > 0.999
        assert row.on_task + row.on_control == pytest.approx(2 * row.uniform)
    assert [(row.task, row.control) for row in found.rows] == [("left", "right"), ("right", "left")]
    assert found.residual < 1e-8
    assert json.loads(found.to_json())["local_energy"][0]["ratio"] == found.rows[0].ratio > 1e9
    found.save(tmp_path / "found.json")
    same = replace(suite, tasks=(suite.tasks[0], replace(suite.tasks[0], name="right")))
    prepared = prepare(encoder, same, split="test", heads={"left": head, "right": head})
    twice = localization(encoder, vectors, prepared, trace=trace, tolerance=1e-9)
    assert [row.ratio for row in twice.rows] == pytest.approx([1.0, 1.0], rel=0.5)


def test_local_energy_is_of_two_vectors_that_move_the_model() -> None:
    encoder, suite = block_suite()
    prepared = prepare(encoder, suite, split="test", heads=dict.fromkeys(suite.names(), Head(torch.eye(2), 1.0)))
    vector = tv.TaskVector.from_tensors({"weight": random(2, 8, seed=4)})
    with pytest.raises(SchemaError, match="the vector 'right' moves no tensor of the model"):
        localization(encoder, {"left": vector, "right": 0.0 * vector}, prepared)
    with pytest.raises(ParameterError, match="local energy is of two tasks; 1 vectors were given"):
        localization(encoder, {"left": vector}, prepared)


# --- kernel regression


def test_regression_is_the_formula_with_the_explicit_kernel() -> None:
    encoder = mlp()
    train, test = WORDS[:5], WORDS[5:]
    j, other = jacobian(encoder, train), jacobian(encoder, test)
    y, f0 = random(5, 3, seed=7), encoder.features(encoder.batch(train)).detach()
    for ridge in (0.0, 0.3):
        k = j @ j.T + ridge * torch.eye(15, dtype=torch.float64)
        expected = other @ j.T @ torch.linalg.solve(k, (y - f0).flatten())
        found = kernel_regression(kernel_of(encoder, train), y, ridge=ridge, tolerance=1e-12)
        moved = kernel_of(encoder, test).push(found.tau).flatten()
        torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-8)
        assert found.gradient <= 1e-12
        rest = y - f0 - kernel_of(encoder, train).push(found.tau)
        assert found.unfitted == pytest.approx(float(rest.norm() / (y - f0).norm()), abs=1e-9)


def test_targets_out_of_reach_are_fitted_in_least_squares_with_the_least_norm() -> None:
    encoder, inputs = mlp(), ("a", "aa", "a", "b")  # twice the same input, with two targets
    j, y = jacobian(encoder, inputs), random(4, 3, seed=12)
    f0 = encoder.features(encoder.batch(inputs)).detach()
    found = kernel_regression(kernel_of(encoder, inputs), y, tolerance=1e-12)
    torch.testing.assert_close(flat(found.tau), torch.linalg.pinv(j) @ (y - f0).flatten(), rtol=1e-6, atol=1e-8)
    assert found.unfitted > 0.01
    nothing = kernel_regression(kernel_of(encoder, inputs), f0)
    assert (nothing.unfitted, nothing.gradient, nothing.iterations) == (0.0, 0.0, 0)


def test_regression_is_the_limit_of_tangent_tuning_with_the_square_loss() -> None:
    encoder = mlp()
    train, y = WORDS[:4], random(4, 3, seed=8)
    j = jacobian(encoder, train)
    rate = 1.0 / float(torch.linalg.eigvalsh(j @ j.T).max())
    batch, point = encoder.batch(train), weights_of(encoder.module)
    tau = {n: torch.zeros_like(p, requires_grad=True) for n, p in point.items()}
    for _ in range(4000):
        outputs = first_order(lambda w: encoder.features(batch, params=w), point, tau)
        found = torch.autograd.grad(0.5 * (outputs - y).square().sum(), list(tau.values()))
        with torch.no_grad():
            for each, gradient in zip(tau.values(), found, strict=True):
                each.sub_(rate * gradient)
    limit = kernel_regression(kernel_of(encoder, train), y, tolerance=1e-12).tau
    for name, each in tau.items():
        torch.testing.assert_close(each.detach(), limit[name], rtol=1e-4, atol=1e-5)
    assert flat(limit).norm() > 0.1


def test_the_reference_fits_a_task_that_is_linear_in_the_kernel() -> None:
    encoder, suite = block_suite()
    head = Head(torch.eye(2), 1.0)
    heads = {"left": head, "right": head}
    words = Split(("a", "bb", "aa", "b"), (0, 1, 0, 1))
    tasks = tuple(replace(t, splits=dict.fromkeys(t.splits, words)) for t in suite.tasks[:1])
    suite = replace(suite, tasks=tasks)
    train, test = (prepare(encoder, suite, split=s, heads=heads) for s in ("train", "test"))
    scores = kernel_reference(encoder, train, test)
    assert (scores.regime, scores["left"].value) == ("kernel", 1.0)


def test_what_cannot_be_a_kernel_or_a_fit_is_refused() -> None:
    encoder = mlp()
    with pytest.raises(UnknownName, match=r"no floating-point parameter '0.weigth'(.|\s)*did you mean '0.weight'"):
        kernel_of(encoder, WORDS, names=["0.weigth"])
    with pytest.raises(ParameterError, match="a kernel of 0 batches and 4 parameters is empty"):
        kernel_of(encoder, [])
    with pytest.raises(ParameterError, match="a kernel of 1 batches and 0 parameters is empty"):
        kernel_of(encoder, WORDS, names=[])
    noisy = replace(encoder, module=nn.Sequential(nn.Linear(8, 2), nn.Dropout(0.5)).double())
    with pytest.raises(ParameterError, match="is in training mode"):
        kernel_of(noisy, WORDS)
    kernel = kernel_of(encoder, WORDS)
    with pytest.raises(ParameterError, match=r"the targets have shape \(2, 3\), the outputs \(8, 3\)"):
        kernel_regression(kernel, random(2, 3))
    with pytest.raises(ParameterError, match="ridge=-1 is not a number from 0"):
        kernel_regression(kernel, random(8, 3), ridge=-1)


# --- a transformer


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(write_tiny_encoder(tmp_path_factory.mktemp("ntk") / "base"))


def test_products_of_a_transformer_are_symmetric_and_those_of_its_jacobian(suite: Suite) -> None:
    encoder = open_tiny(Path(suite.base)).duplicate()
    encoder.module.double()
    texts = suite.tasks[0].split("val").texts[:3]
    names = ["encoder.layer.0.attention.self.query.bias", "encoder.layer.1.output.LayerNorm.weight"]
    kernel = kernel_of(encoder, texts, names=names, projection=random(32, 2))
    rows = [flat(kernel.pull(e.view(3, 2))) for e in torch.eye(6, dtype=torch.float64)]
    j, v = torch.stack(rows), random(6, seed=11)
    torch.testing.assert_close(kernel.product(v.view(3, 2)).flatten(), j @ (j.T @ v), rtol=1e-9, atol=1e-12)
    assert j.norm() > 0.01


def test_local_energy_and_the_reference_run_on_a_tuned_transformer(suite: Suite) -> None:
    encoder = open_tiny(Path(suite.base))
    settings = Settings(steps=40, batch_size=8, learning_rate=3e-3)
    heads = heads_of(suite, base=encoder)
    tuned = {t.name: tune(encoder, t, regime="tangent", head=heads[t.name], settings=settings) for t in suite.tasks}
    vectors = {name: each.vector() for name, each in tuned.items()}
    found = localization(encoder, vectors, suite, limit=12, count=8, projection=torch.randn(32, 1))
    for row in found.rows:
        assert 0.0 < row.share <= 1.0
        assert row.on_task + row.on_control == pytest.approx(2 * row.uniform, rel=1e-6)
    assert found.eigenvalues == tuple(sorted(found.eigenvalues, reverse=True))
    assert found.products <= 24
    train = prepare(encoder, suite, split="train", limit=40, tasks=["color"], heads=heads)
    both = prepare(encoder, suite, split="test", tasks=["color"], heads=heads)
    reference = kernel_reference(encoder, train, both, names=tuned["color"].delta, iterations=20)
    assert reference["color"].value > score(encoder, both)["color"].value
