"""Curvature of losses: quadratics with a known Hessian, logistic regression, a network, against explicit Hessians."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import taskvec as tv
from plain_models import WORDS, counts, flat, mlp, seeded
from taskvec.errors import NonFiniteError, ParameterError, SchemaError, UnknownName
from taskvec.evaluate import along_segment, largest_curvature, objective_of, prepare, smoothness
from taskvec.evaluate.objective import Objective
from taskvec.suites import ModuleEncoder, Suite, bucketed, heads_of
from taskvec.tune import Settings, tune
from tiny_text import open_tiny, tiny_suite, write_tiny_encoder

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise(encoder: ModuleEncoder, seed: int) -> dict[str, Tensor]:
    return {n: random(*p.shape, seed=seed) for n, p in encoder.module.named_parameters()}


TARGETS, DIRECTIONS = random(len(WORDS), 3, seed=3), nn.functional.normalize(random(3, 3, seed=4), dim=-1)


def quadratic(features: Tensor, positions: Tensor) -> Tensor:
    return 0.5 * (features - TARGETS[positions]).square().sum()


def logistic(features: Tensor, positions: Tensor) -> Tensor:
    return nn.functional.cross_entropy(features, LABELS[positions], reduction="sum")


def headed(features: Tensor, positions: Tensor) -> Tensor:
    logits = 5.0 * nn.functional.normalize(features, dim=-1) @ DIRECTIONS.T
    return nn.functional.cross_entropy(logits, LABELS[positions], reduction="sum")


def linear() -> ModuleEncoder:
    return ModuleEncoder(module=seeded(nn.Linear(8, 3)), read=counts())


CASES: dict[str, tuple[Callable[[], ModuleEncoder], Callable[[Tensor, Tensor], Tensor]]] = {
    "quadratic": (linear, quadratic),
    "logistic regression": (linear, logistic),
    "network": (mlp, quadratic),
    "network with a head": (mlp, headed),
}


def objective(name: str, *, batch_size: int = 3) -> Objective:
    make, loss = CASES[name]
    encoder = make()
    inputs = bucketed(encoder, WORDS, batch_size=batch_size)
    return Objective(encoder=encoder, inputs=inputs, loss=loss, names=tuple(dict(encoder.module.named_parameters())))


def dense(o: Objective, offset: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Hessian of the mean loss by torch.func, in one vector of all parameters."""
    point = {n: p.detach() + offset.get(n, 0.0) for n, p in o.encoder.module.named_parameters()}
    batch, positions = o.encoder.batch(WORDS), torch.arange(len(WORDS))

    def value(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in point.values()])
        weights = {n: part.view(p.shape) for (n, p), part in zip(point.items(), parts, strict=True)}
        return o.loss(o.encoder.features(batch, params=weights), positions) / len(WORDS)

    whole = flat(point)
    return value(whole), torch.func.grad(value)(whole), torch.func.hessian(value)(whole)


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_products_are_those_of_the_explicit_hessian(name: str) -> None:
    o = objective(name)
    for offset in ({}, noise(o.encoder, 5)):  # type: ignore[arg-type]
        value, gradient, hessian = dense(o, offset)
        assert o.value(offset) == pytest.approx(float(value))
        torch.testing.assert_close(flat(o.gradient(offset)), gradient)
        v = noise(o.encoder, 6)  # type: ignore[arg-type]
        torch.testing.assert_close(flat(o.hessian_product(offset, v)), hessian @ flat(v))


@pytest.mark.parametrize("name", CASES)
def test_power_iteration_finds_the_eigenvalue_of_largest_size(name: str) -> None:
    o = objective(name)
    values = torch.linalg.eigvalsh(dense(o, {})[2])
    expected = float(values[values.abs().argmax()])
    found = largest_curvature(o, {}, products=3000, tolerance=1e-7)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.residual <= 1e-7 * abs(found.value)
    rough = largest_curvature(o, {}, products=3)
    assert rough.products == 3
    assert float((values - rough.value).abs().min()) <= rough.residual + 1e-9


def test_a_quadratic_has_the_same_curvature_everywhere_along_a_way() -> None:
    o = objective("quadratic")
    start, way = noise(o.encoder, 7), noise(o.encoder, 8)  # type: ignore[arg-type]
    _, gradient, hessian = dense(o, start)
    d = flat(way)
    row = along_segment(o, "t", start, way)
    curved = float(d @ hessian @ d / (d @ d))
    assert row.distance == pytest.approx(float(d.norm()))
    assert row.first_order == pytest.approx(float(gradient @ d))
    assert row.mean_curvature == pytest.approx(curved)
    assert row.tight == pytest.approx(curved)
    assert row.secant == pytest.approx(float((hessian @ d).norm() / d.norm()))
    assert row.bound(row.tight) == pytest.approx(row.merged_loss)
    top = largest_curvature(o, start, products=500, tolerance=1e-6)
    assert row.mean_curvature <= row.secant <= top.value + top.residual
    assert row.bound(top.value) >= row.merged_loss


@pytest.mark.parametrize("name", ["logistic regression", "network with a head"])
def test_the_mean_curvature_is_that_of_the_hessians_along_the_way(name: str) -> None:
    o = objective(name)
    start, way = noise(o.encoder, 9), noise(o.encoder, 10)  # type: ignore[arg-type]
    way = {n: 0.2 * x for n, x in way.items()}
    d, (nodes, weights) = flat(way), np.polynomial.legendre.leggauss(40)
    curved = [
        weight / 2 * float(d @ dense(o, {n: start[n] + (node + 1) / 2 * way[n] for n in way})[2] @ d / (d @ d))
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
    ]
    row = along_segment(o, "t", start, way)
    assert row.mean_curvature == pytest.approx(sum(curved), rel=1e-6)
    assert abs(row.mean_curvature) <= row.secant + 1e-12


def test_a_loss_that_is_linear_has_no_curvature_and_bad_calls_are_refused() -> None:
    o = replace(objective("quadratic"), loss=lambda features, positions: features.sum())
    assert largest_curvature(o, {}, products=5).value == 0.0
    row = along_segment(o, "t", {}, noise(o.encoder, 1))  # type: ignore[arg-type]
    assert row.mean_curvature == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ParameterError, match="the weights of 't' are the merged ones"):
        along_segment(o, "t", {}, {})
    with pytest.raises(ParameterError, match="products=0 is below 1"):
        largest_curvature(o, {}, products=0)
    with pytest.raises(UnknownName, match="no floating-point parameter 'wieght'"):
        o.value({"wieght": torch.zeros(1)})
    broken = replace(o, loss=lambda features, positions: features.sum() * torch.nan)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        broken.value({})
    with pytest.raises(NonFiniteError, match="the inner product is nan"):
        largest_curvature(replace(o, loss=lambda f, p: (f**2).sum() * torch.nan), {})


# --- on tuned models


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(write_tiny_encoder(tmp_path_factory.mktemp("smooth") / "base"))


def test_every_task_gets_its_constants_between_its_weights_and_the_merged_ones(suite: Suite, tmp_path: Path) -> None:
    encoder = open_tiny(Path(suite.base))
    settings = Settings(steps=15, learning_rate=2e-3)
    heads = heads_of(suite, base=encoder)
    vectors = {
        t.name: tune(encoder, t, head=heads[t.name], settings=settings).vector(tv.Checkpoint.open(suite.base))
        for t in suite.tasks
    }
    prepared = prepare(encoder, suite, split="val", heads=heads)
    found = smoothness(encoder, vectors, prepared, {"color": 0.5, "animal": 0.5}, products=4)
    gram = {(a, b): vectors[a].dot(vectors[b]) for a in vectors for b in vectors}
    for row in found.rows:
        other = "animal" if row.name == "color" else "color"
        square = 0.25 * (gram[row.name, row.name] + gram[other, other] - 2 * gram[row.name, other])
        assert row.distance**2 == pytest.approx(square, rel=1e-5)  # q_i(a) of the certificate
        assert row.bound(row.tight) == pytest.approx(row.merged_loss, rel=1e-6)
        assert row.curvature is not None
        assert row.curvature.products <= 4
    moved = tune(encoder, suite.tasks[0], head=heads["color"], settings=settings).encoder
    features = moved.features(moved.batch(suite.tasks[0].split("val").texts)).detach()
    labels = torch.tensor(suite.tasks[0].split("val").labels)
    expected = float(nn.functional.cross_entropy(heads["color"].logits(features), labels))
    assert found.rows[0].loss == pytest.approx(expected, rel=1e-3)
    found.save(tmp_path / "smoothness.json")
    assert json.loads((tmp_path / "smoothness.json").read_text())["smoothness"][1]["name"] == "animal"
    alone = smoothness(encoder, vectors, prepared, {"color": 2.0})
    assert alone.rows[0].distance == pytest.approx(gram["color", "color"] ** 0.5, rel=1e-5)
    assert alone.rows[0].curvature is None
    with pytest.raises(ParameterError, match="no vector for the coefficient of 'colour'"):
        smoothness(encoder, vectors, prepared, {"colour": 1.0})
    with pytest.raises(ParameterError, match="the weights of 'color' are the merged ones"):
        smoothness(encoder, vectors, prepared, {"color": 1.0})
    with pytest.raises(SchemaError, match="the vector 'color' moves no tensor"):
        smoothness(encoder, {"color": 0.0 * vectors["color"]}, prepared, {})
    with pytest.raises(ParameterError, match="a loss as a function of no parameter"):
        objective_of(encoder, prepared.tasks[0], names=())
