"""What the methods that followed TSV promise: the identities of their formulas, and their degenerate inputs."""

import numpy as np
import pytest
import torch

import taskvec as tv
from cli_cases import call, refused
from merge_cases import save_model
from taskvec.errors import ParameterError, UnknownName
from taskvec.ops.alignment import common_basis, coordinates
from taskvec.ops.isotropic import isotropic_subspaces, isotropic_sum, shares
from taskvec.ops.layerwise import descended, least_squares

FAMILY = ("iso_c", "iso_cts", "wudi", "knots", "subspace_boosting", "star", "cart")


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape)).float()


def low_rank(tasks, m, n, rank, seed=0):
    return normal(tasks, m, rank, seed=seed) @ normal(tasks, rank, n, seed=seed + 1)


def merged(method, stacked, /, *, name="w", **parameters):
    vectors = [tv.TaskVector.from_tensors({name: row}) for row in stacked]
    return tv.merge(method, vectors, **parameters)[name].double()


def values(matrix):
    return torch.linalg.svdvals(matrix.double())


def close(a, b, tolerance=1e-6):
    return float((a.double() - b.double()).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize("shape", [(4, 12, 20), (3, 20, 12), (2, 9, 9)])
def test_iso_c_has_one_singular_value_and_the_directions_and_nuclear_norm_of_the_sum(shape):
    x = normal(*shape)
    found = merged("iso_c", x)
    s = values(x.sum(0))
    assert torch.allclose(values(found), s.mean().expand(len(s)), rtol=1e-6)
    polar = found / s.mean()
    stretch = polar.T @ x.double().sum(0) if shape[1] >= shape[2] else x.double().sum(0) @ polar.T
    assert torch.allclose(stretch, stretch.T, atol=1e-5)  # the polar decomposition: symmetric, and ...
    assert torch.linalg.eigvalsh(stretch).min() > 0  # ... positive


def test_iso_c_gives_no_strength_to_directions_in_which_the_sum_cancelled():
    x = normal(1, 12, 20)[0]
    assert merged("iso_c", torch.stack([x, -x])).abs().max() == 0
    almost = isotropic_sum(torch.stack([x, -x * (1 + 2.0**-23)]), tolerance=1e-6)
    assert almost.dropped == 12, "what is left is rounding of the inputs, though the sum itself has full rank"
    assert almost.matrix.abs().max() == 0
    assert isotropic_sum(torch.stack([x, -x * 0.99]), tolerance=1e-6).dropped == 0


def test_iso_c_of_low_rank_deltas_does_not_depend_on_the_order_and_keeps_their_range():
    x = low_rank(3, 40, 30, 2)
    forth, back = merged("iso_c", x), merged("iso_c", x.flip(0))
    assert close(forth, back, 1e-6)
    assert isotropic_sum(x, tolerance=1e-6).dropped == 30 - 6
    assert np.linalg.matrix_rank(forth.numpy(), tol=1e-6) == 6
    assert torch.allclose(values(forth)[:6], values(x.sum(0)).sum() / 30, rtol=1e-5)


@pytest.mark.parametrize("rank", [2, 5, 50, 64])
@pytest.mark.parametrize("tasks", [1, 3, 8, 20, 70])
@pytest.mark.parametrize("common", [0.0, 0.3, 0.8, 1.0])
def test_the_directions_of_iso_cts_add_up_to_the_rank(rank, tasks, common):
    c, own = shares(rank, tasks, common)
    assert c + tasks * own == rank
    assert c >= 0
    if tasks * round((rank - int(common * rank)) / tasks) <= rank:
        assert own == round((rank - int(common * rank)) / tasks)


def test_iso_cts_has_one_singular_value():
    x = normal(4, 20, 30)
    found = merged("iso_cts", x)
    s = values(found)
    assert shares(20, 4, 0.8) == (16, 1)
    assert torch.allclose(s, s[0].expand(20), rtol=1e-5)
    assert not close(found, merged("iso_c", x), 1e-2)


@pytest.mark.parametrize(("x", "common"), [(normal(3, 20, 30), 1.0), (normal(20, 50, 60), 0.8)])
def test_iso_cts_without_room_for_the_tasks_is_iso_c(x, common):
    assert shares(x.shape[1], len(x), common)[1] == 0
    assert close(merged("iso_cts", x, common=common), merged("iso_c", x))


def test_iso_cts_counts_directions_that_tasks_share_once():
    x = normal(1, 20, 30).expand(3, 20, 30)
    found = isotropic_subspaces(x, common=0.8, tolerance=1e-6)
    assert shares(20, 3, 0.8) == (17, 1)
    assert found.dropped == 2
    assert torch.allclose(values(found.matrix)[:18], torch.tensor(found.level).double())


def loss_gradient(m, x):
    x = x.double()
    weights = [d.T @ d / (d * d).sum() for d in x]
    return 2 * sum((m - d) @ k for d, k in zip(x, weights, strict=True))


@pytest.mark.parametrize("x", [normal(3, 8, 12), normal(3, 30, 10), low_rank(3, 12, 20, 2)])
def test_the_gradient_of_wudi_is_zero_at_the_closed_form(x):
    found = least_squares(x)
    assert loss_gradient(found, x).abs().max() < 1e-6 * x.abs().max()
    assert loss_gradient(x.double().mean(0), x).abs().max() > 1e-2 * x.abs().max()


@pytest.mark.parametrize("x", [normal(3, 30, 10), normal(3, 8, 40), low_rank(3, 12, 20, 2)])
def test_the_ridge_of_wudi_leads_from_the_minimum_to_the_mean(x):
    exact, mean = least_squares(x), x.double().mean(0)
    far = [float((least_squares(x, ridge=r) - exact).norm()) for r in (1.0, 1e-1, 1e-3, 1e-9)]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-6 * exact.norm()
    assert close(least_squares(x, ridge=1e9), mean)
    damped = least_squares(x, ridge=0.3)
    gradient = loss_gradient(damped, x) + 2 * 0.3 * len(x) / x.shape[2] * (damped - mean)
    assert gradient.abs().max() < 1e-12 * x.abs().max()


def test_the_ridge_of_wudi_has_two_routes_to_one_result():
    """One task of 4 x 9 is solved by the Gram matrix of its rows; padded by zeros to 9 x 9, by that of its columns."""
    x = normal(1, 4, 9)
    padded = torch.cat([x, torch.zeros(1, 5, 9)], 1)
    assert torch.allclose(least_squares(padded, ridge=0.3)[:4], least_squares(x, ridge=0.3), rtol=1e-12)


def test_wudi_of_one_task_is_that_task_whatever_the_solver():
    x = normal(1, 8, 12)
    for ridge in (0.0, 0.1, 10.0):
        assert close(merged("wudi", x, ridge=ridge), x[0])
        assert close(merged("wudi", x.expand(3, 8, 12), ridge=ridge), x[0])
    assert torch.equal(descended(x, steps=300, rate=1e-5), x[0].double())


def test_adam_walks_from_the_sum_towards_the_closed_form():
    x = 0.01 * normal(3, 30, 10)
    exact = least_squares(x)
    start, short, long = (float((descended(x, steps=n, rate=1e-4) - exact).norm()) for n in (0, 100, 3000))
    assert torch.equal(descended(x, steps=0, rate=1e-4), x.double().sum(0))
    assert start > short > long
    assert long < 1e-2 * exact.norm()


def test_adam_is_the_published_one():
    """Against torch's own optimizer on the loss as it is written."""
    x = 0.01 * normal(3, 8, 6).double()
    m = x.sum(0).clone().requires_grad_()
    optimizer = torch.optim.Adam([m], lr=1e-5)
    for _ in range(300):
        optimizer.zero_grad()
        sum((((m - d) @ d.T) ** 2).sum() / (d * d).sum() for d in x).backward()
        optimizer.step()
    assert torch.allclose(descended(x, steps=300, rate=1e-5), m.detach(), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("given", "other"), [({"solver": "adam", "ridge": 1.0}, "closed"), ({"steps": 5}, "adam")])
def test_a_parameter_of_the_other_solver_is_refused(given, other):
    with pytest.raises(ParameterError, match=f"is of the solver '{other}'"):
        merged("wudi", normal(2, 4, 4), **given)


def test_transposed_weights_are_merged_by_their_inputs():
    x = normal(3, 8, 6)
    for method in ("wudi", "knots"):
        turned = merged(method, x.transpose(1, 2).contiguous(), transpose=True)
        assert torch.allclose(turned, merged(method, x).T, atol=1e-6)
        assert not torch.allclose(merged(method, x, transpose=True), merged(method, x), atol=1e-2)


@pytest.mark.parametrize("x", [normal(3, 8, 12), normal(2, 30, 7), low_rank(4, 20, 30, 2)])
@pytest.mark.parametrize("transpose", [False, True])
def test_knots_changes_nothing_for_linear_methods(x, transpose):
    for method in ("task_arithmetic", "average"):
        aligned = merged("knots", x, method=method, transpose=transpose)
        assert close(aligned, merged(method, x))
    weights = [0.5, -1.0, 2.0, 0.25][: len(x)]
    aligned = merged("knots", x, method="task_arithmetic", coefficients=weights, transpose=transpose)
    assert close(aligned, merged("task_arithmetic", x, coefficients=weights))


def test_knots_with_all_kept_and_one_task_is_that_task():
    x = low_rank(1, 20, 30, 3)
    assert close(merged("knots", x, density=1.0), x[0])


def test_knots_prunes_coordinates_and_not_entries():
    x = low_rank(3, 20, 30, 2)
    aligned, plain = merged("knots", x, density=0.2), merged("ties", x, density=0.2)
    assert (plain == 0).double().mean() > 0.4
    assert (aligned == 0).double().mean() < 0.3
    assert np.linalg.matrix_rank(aligned.numpy(), tol=1e-5) <= 6


def test_the_coordinates_of_knots_rebuild_the_deltas():
    x = low_rank(3, 40, 30, 2)
    basis = common_basis(x, tolerance=1e-6)
    assert basis.shape == (40, 6)
    assert torch.allclose(basis.T @ basis, torch.eye(6).double(), atol=1e-12)
    assert torch.allclose(basis @ coordinates(x, basis).double(), x.double(), atol=1e-5)


def test_knots_draws_by_the_seed_and_the_name_of_the_tensor():
    x = normal(3, 20, 30)
    options = {"method": "dare_linear", "density": 0.5}
    first = merged("knots", x, seed=1, **options)
    assert torch.equal(first, merged("knots", x, seed=1, **options))
    assert not torch.equal(first, merged("knots", x, seed=2, **options))
    assert not torch.equal(first, merged("knots", x, seed=1, name="v", **options))


@pytest.mark.parametrize(
    ("outer", "inner", "error", "message"),
    [
        ("knots", "iso_c", ParameterError, "does not act on each entry by itself"),
        ("knots", "tis", UnknownName, "did you mean 'ties'"),
        ("knots", "slerp", ParameterError, "merges points"),
        ("knots", "knots", ParameterError, "needs a method itself"),
        ("subspace_boosting", "subspace_boosting", ParameterError, "needs a method itself"),
        ("subspace_boosting", 3, ParameterError, "is not a word"),
    ],
)
def test_a_method_that_does_not_fit_inside_another_is_refused(outer, inner, error, message):
    with pytest.raises(error, match=message):
        merged(outer, normal(2, 4, 4), method=inner)


def test_parameters_of_the_inner_method_are_checked_as_its_own():
    with pytest.raises(ParameterError, match="no parameter 'densty'"):
        merged("knots", normal(2, 4, 4), densty=0.5)
    with pytest.raises(ParameterError, match=r"outside \(0, 1\]"):
        merged("knots", normal(2, 4, 4), density=5)
    with pytest.raises(ParameterError, match="no parameter 'density'"):
        merged("knots", normal(2, 4, 4), method="task_arithmetic", density=0.5)
    with pytest.raises(ParameterError, match="aggregate"):
        merged("subspace_boosting", normal(2, 4, 4), method="ties", dialect="peft", aggregate="max")


@pytest.mark.parametrize("method", ["task_arithmetic", "average", "ties", "dare_ties", "magmax", "star"])
def test_boosting_by_one_is_the_method_itself_for_every_tensor(method):
    vectors = [
        tv.TaskVector.from_tensors({"w": normal(8, 6, seed=i), "b": normal(9, seed=i), "s": normal(1, seed=i)[0]})
        for i in range(3)
    ]
    boosted, plain = tv.merge("subspace_boosting", vectors, method=method, beta=1.0), tv.merge(method, vectors)
    for name in plain.names():
        assert torch.equal(boosted[name], plain[name])


def test_boosting_raises_small_singular_values_and_keeps_the_directions():
    x = normal(3, 12, 20)
    s = values(x.sum(0))
    assert torch.allclose(values(merged("subspace_boosting", x, beta=0.0)), s[0].expand(12), rtol=1e-6)
    half = merged("subspace_boosting", x, beta=0.5)
    c = int((s.cumsum(0) < 0.5 * s.sum()).sum())
    assert 0 < c < 11
    assert torch.allclose(values(half), s.clamp(min=s[c]), rtol=1e-5)
    again = merged("subspace_boosting", half[None].float(), beta=0.0)
    assert close(again / s[0], merged("iso_c", x) / s.mean(), 1e-5)


def test_boosting_does_not_raise_directions_in_which_the_merge_is_zero():
    x = low_rank(2, 20, 30, 2)
    found = merged("subspace_boosting", x, beta=0.0)
    assert np.linalg.matrix_rank(found.numpy(), tol=1e-4) == 4
    a = normal(1, 6, 5)[0]
    assert merged("subspace_boosting", torch.stack([a, -a])).abs().max() == 0


def test_boosting_uses_the_methods_thresholds_of_the_whole_model():
    """TIES trims over the model: a tensor of small entries has nothing left, and nothing to boost."""
    vectors = [
        tv.TaskVector.from_tensors({"large": normal(20, 20, seed=i), "small": 1e-3 * normal(4, 4, seed=i)})
        for i in range(2)
    ]
    found = tv.merge("subspace_boosting", vectors, method="ties", density=0.2)
    assert found["small"].abs().max() == 0
    assert found["large"].abs().max() > 0
    alone = [tv.TaskVector.from_tensors({"small": v["small"]}) for v in vectors]
    assert tv.merge("subspace_boosting", alone, method="ties", density=0.2)["small"].abs().max() > 0


def test_star_keeps_the_nuclear_norm_of_each_task():
    x = normal(1, 12, 20)
    for density in (0.01, 0.4, 0.9):
        found = merged("star", x, density=density)
        assert values(found).sum() == pytest.approx(float(values(x[0]).sum()), rel=1e-6)
        s = values(x[0])
        kept = int((values(found) > 1e-5).sum())
        assert s[:kept].sum() >= density * s.sum() > s[: kept - 1].sum()
    assert close(merged("star", normal(3, 12, 20), density=1.0), normal(3, 12, 20).mean(0))


def test_cart_of_one_or_two_tasks_and_of_full_rank_is_the_average():
    for x in (normal(1, 12, 20), normal(2, 12, 20)):
        assert close(merged("cart", x), x.mean(0), 1e-5)
    x = normal(4, 12, 20)
    assert close(merged("cart", x, density=1.0), x.mean(0), 1e-5)
    moved, twice = merged("cart", x) - x.mean(0), merged("cart", x, scale=2.0) - x.mean(0)
    assert moved.norm() > 0.1
    assert torch.allclose(twice, 2 * moved, atol=1e-5)


def test_the_scale_of_cart_leaves_other_tensors_alone():
    vectors = [tv.TaskVector.from_tensors({"w": normal(6, 5, seed=i), "b": normal(4, seed=i)}) for i in range(3)]
    once, twice = tv.merge("cart", vectors), tv.merge("cart", vectors, scale=2.0)
    assert torch.equal(once["b"], twice["b"])
    assert not torch.equal(once["w"], twice["w"])


@pytest.mark.parametrize("method", FAMILY)
def test_matrices_smaller_than_the_number_of_tasks_do_not_vanish(method):
    assert merged(method, normal(9, 3, 5)).abs().max() > 0


@pytest.mark.parametrize("method", FAMILY)
def test_a_layout_may_keep_a_matrix_from_them(method, tmp_path):
    """Then it gets the mean, or what the inner method makes of it."""
    file = tmp_path / "layout.yml"
    file.write_text('roles:\n  "w": other\n')
    vectors = [tv.TaskVector.from_tensors({"w": normal(6, 5, seed=i), "v": normal(6, 5, seed=i)}) for i in range(3)]
    layout = tv.Checkpoint.from_tensors({"w": torch.zeros(6, 5), "v": torch.zeros(6, 5)}).layout(file)
    found = tv.merge(method, vectors, layout=layout)
    plain = tv.merge("task_arithmetic" if method == "subspace_boosting" else "average", vectors)
    assert torch.equal(found["w"], plain["w"])
    assert not torch.allclose(found["v"], plain["v"], atol=1e-3)


@pytest.fixture
def models(tmp_path, monkeypatch):
    for i, name in enumerate(("base", "math", "code")):
        save_model(tmp_path / name, {"layer.w": normal(12, 20, seed=i), "layer.b": normal(12, seed=i)})
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("outer", ["knots", "subspace_boosting"])
def test_recipes_and_flags_give_both_methods_their_parameters(outer):
    parameters = {"method": "dare_ties", "density": {"math": 0.5, "code": 0.25}, "tolerance": 1e-4}
    recipe = tv.Recipe.of(outer, ["math", "code"], base="base", parameters=parameters, seed=3)
    by_name = {t.name: t for t in recipe.plan().tensors}
    assert by_name["layer.w"].method == outer
    assert by_name["layer.w"].parameters["density"] == {"math": 0.5, "code": 0.25}
    assert by_name["layer.b"].method == {"knots": "average", "subspace_boosting": "dare_ties"}[outer]
    recipe.run("by-recipe")
    settings = ["--set", "method=dare_ties", "--set", "density={math: 0.5, code: 0.25}", "--set", "tolerance=1e-4"]
    call("merge", "--method", outer, "--base", "base", "math", "code", *settings, "--seed", "3", "-o", "by-flags")
    base = tv.Checkpoint.open("base")
    vectors = {n: tv.Checkpoint.open(n) - base for n in ("math", "code")}
    expected = base + tv.merge(outer, vectors, seed=3, **parameters)
    for folder in ("by-recipe", "by-flags"):
        for name in ("layer.w", "layer.b"):
            assert torch.equal(tv.Checkpoint.open(folder)[name], expected[name])


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("method=tis", "no merge method named 'tis'"),
        ("method=iso_c", "does not act on each entry by itself"),
        ("method=[{filter: '*', value: ties}, {value: ties}]", "is not a word"),
        ("densty=0.5", "knots has no parameter 'densty'"),
    ],
)
def test_recipes_refuse_a_method_inside_another_that_does_not_fit(setting, cause):
    assert cause in refused("plan", "--method", "knots", "--base", "base", "math", "code", "--set", setting)
