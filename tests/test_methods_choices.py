"""Methods that choose among tasks, entry by entry: the exact cases of the method card."""

import importlib

import numpy as np
import pytest
import torch

import taskvec as tv
from oracles import agree_mean
from taskvec import methods
from taskvec.errors import NonFiniteError, ParameterError, SpaceError
from taskvec.testing import evaluate


def normal(tasks, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(tasks, *shape)).astype(np.float32)


def disjoint(tasks, n):
    return np.where(np.arange(n) % tasks == np.arange(tasks)[:, None], normal(tasks, n), 0.0)


def run(method, x, **options):
    return evaluate(method, {"w": np.asarray(x, np.float32)}, **options)["w"]


# --- magmax and emr ------------------------------------------------------------------------------------------


def test_magmax_has_the_largest_magnitude_everywhere():
    x = normal(5, 300)
    assert (np.abs(run("magmax", x)) == np.abs(x).max(0)).all()


def test_a_smaller_vector_changes_nothing_for_magmax():
    x = normal(3, 300)
    smaller = np.concatenate([x, 0.5 * x[:1]])
    assert (run("magmax", smaller) == run("magmax", x)).all()


@pytest.mark.parametrize(("entries", "expected"), [((3, -3), 0), ((3, 3, -3), 1), ((-2, 1), -2), ((0, 0), 0)])
def test_magmax_averages_ties(entries, expected):
    assert run("magmax", np.array(entries)) == expected


@pytest.mark.parametrize("method", ["magmax", "emr", "ram", "ramplus_tl"])
def test_disjoint_supports_add_up(method):
    x = disjoint(3, 60)
    assert run(method, x) == pytest.approx(x.sum(0), rel=1e-6)


def test_emr_is_at_least_the_mean_of_those_who_agree_and_has_their_sign():
    x = normal(4, 300)
    found, mean = run("emr", x), agree_mean(x.astype(np.float64))
    assert (np.sign(found) == np.sign(mean)).all()
    assert (np.abs(found) >= np.abs(mean) * (1 - 1e-6)).all()


# --- ram -----------------------------------------------------------------------------------------------------


def test_ram_of_dense_vectors_is_their_average():
    x = normal(3, 100) + 10.0
    assert run("ram", x) == pytest.approx(x.mean(0), rel=1e-6)


def test_rams_epsilon_is_absolute():
    x = np.array([[1e-5, 2.0], [3.0, 4.0]])
    assert run("ram", x).tolist() == pytest.approx([3.0, 3.0])
    assert run("ram", x, epsilon=0.0).tolist() == pytest.approx([1.500005, 3.0])


def test_ramplus_without_a_boost_is_ram():
    x = np.where(np.abs(normal(3, 200)) > 1, normal(3, 200), 0)
    assert (run("ramplus_tl", x, r=0.0) == run("ram", x)).all()


def test_ramplus_counts_over_the_model_and_mergekit_per_tensor():
    """Task 0: one unique and one shared entry in `a`, three unique ones in `b`."""
    stacks = {"a": np.array([[1.0, 2.0], [0.0, 2.0]]), "b": np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])}
    paper = evaluate("ramplus_tl", stacks, r=0.5, alpha=2.0)
    assert paper["a"].tolist() == pytest.approx([1 + 0.5 / 4, 2.0])
    theirs = evaluate("ramplus_tl", stacks, r=0.5, alpha=2.0, dialect="mergekit")
    assert theirs["a"].tolist() == pytest.approx([1.5, 2.0])
    assert theirs["b"].tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_a_dialect_brings_its_own_defaults():
    ours = methods.get("ramplus_tl").bind({}, ["0"]).values
    theirs = methods.get("ramplus_tl").bind({"dialect": "mergekit"}, ["0"]).values
    mixed = methods.get("ramplus_tl").bind({"dialect": "mergekit", "r": 0.3}, ["0"]).values
    assert (ours["r"], ours["alpha"]) == (0.2, 1.0)
    assert (theirs["r"], theirs["alpha"]) == (0.1, 0.2)
    assert (mixed["r"], mixed["alpha"]) == (0.3, 0.2)


@pytest.mark.parametrize("option", ["r", "alpha", "epsilon"])
def test_ramplus_refuses_negative_options(option):
    with pytest.raises(ParameterError, match=rf"ramplus_tl: {option}=-1 is outside \[0, "):
        run("ramplus_tl", normal(2, 3), **{option: -1})


# --- sce -----------------------------------------------------------------------------------------------------


def test_sce_of_equal_norms_and_signs_is_the_mean():
    x = np.abs(normal(3, 100))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert run("sce", x) == pytest.approx(x.mean(0), rel=1e-5)


def test_scaling_a_task_by_s_weighs_it_by_its_square():
    x = np.abs(np.repeat(normal(1, 50), 2, 0))
    found = run("sce", x * np.array([[1.0], [3.0]]))
    assert found == pytest.approx((1 * 1 + 9 * 3) / 10 * x[0], rel=1e-6)


def test_sce_lies_between_the_entries_that_agree():
    x = normal(4, 300)
    found = run("sce", x)
    assert (np.abs(found) <= np.abs(x).max(0) * (1 + 1e-6)).all()


def test_sce_selects_a_share_of_each_tensor_for_deltas_or_for_weights_only():
    x = normal(3, 600)
    assert np.count_nonzero(run("sce", x, density=0.1)) == 60
    assert np.count_nonzero(run("sce", x, density=0.1, select="weights")) == 600
    assert (run("sce", x, select="weights") == run("sce", x)).all()


@pytest.mark.parametrize("tasks", [1, 3])
def test_where_nothing_varies_sce_selects_everything_and_mergekit_nothing(tasks):
    x = np.repeat(normal(1, 20), tasks, 0)
    assert run("sce", x, density=0.1) == pytest.approx(x[0], rel=1e-6)
    assert not run("sce", x, density=0.1, dialect="mergekit").any()


def test_entries_on_which_all_agree_are_not_selected():
    x = normal(2, 10)
    x[1, :5] = x[0, :5]
    found = run("sce", x, density=0.999)
    assert not found[:5].any()
    assert found[5:].all()


def test_mergekits_sce_weighs_small_deltas_equally():
    x = np.array([[1.0, 1.0], [2.0, 3.0]])
    assert run("sce", 1e-4 * x, dialect="mergekit") == pytest.approx(1e-4 * x.mean(0), rel=1e-6)
    assert run("sce", x, dialect="mergekit") == pytest.approx((2 * x[0] + 13 * x[1]) / 15, rel=1e-6)
    assert run("sce", 1e-4 * x) == pytest.approx(1e-4 * (2 * x[0] + 13 * x[1]) / 15, rel=1e-6)


def test_the_weights_of_sce_sum_to_1_and_do_not_depend_on_scale():
    module = importlib.import_module("taskvec.methods.sce")
    squares = np.array([1.0, 2.0, 5.0])
    for factor in (1e-60, 1.0, 1e30):
        state = module._weights(factor * squares, None, 4, dialect="paper")
        assert state.weights.sum() == pytest.approx(1.0)
        assert state.weights == pytest.approx(squares / 8)


# --- pcb -----------------------------------------------------------------------------------------------------


def pcb_weights(x, **options):
    """w_t: what PCB makes of one task's coefficient, times the sum of the weights, over its clipped values."""
    state = pcb_state(x, **options)
    from taskvec.ops import competition

    low, high = torch.from_numpy(state.before.values.T.copy())
    quantile, top = torch.from_numpy(state.values.T.copy())
    return competition.weights(competition.scores(torch.from_numpy(x), low, high), quantile, top).numpy()


def pcb_state(x, **options):
    from taskvec.engine.merge import Merged

    vectors = {str(i): tv.TaskVector.from_tensors({"w": torch.from_numpy(row)}) for i, row in enumerate(x)}
    method = methods.get("pcb")
    merged = Merged(method, vectors, method.bind(options, list(vectors)), layout=None, threads=1)
    merged.merging.fold()
    return merged.merging._state("w")


def test_the_weights_of_pcb_are_shares_of_a_fixed_number_of_entries():
    x = normal(3, 1000)
    w = pcb_weights(x, density=0.2)
    assert w.min() == 0.0
    assert w.max(1).tolist() == [1.0, 1.0, 1.0]
    assert (w > 0).sum(1).tolist() == [199, 199, 199]  # D - int(0.8 D) - 1: the quantile itself has weight 0


@pytest.mark.parametrize("factor", [2.0**-20, 2.0, 1000.0])
def test_pcb_scales_with_its_inputs(factor):
    x = np.round(normal(3, 500) * 1024) / 1024  # products with 1000 are exact
    assert run("pcb", np.float32(factor) * x) == pytest.approx(factor * run("pcb", x), rel=1e-5)


def test_pcb_of_one_task_keeps_its_largest_entries_clipped():
    x = normal(1, 1000)
    found = run("pcb", x, density=0.05, clip=0.01)
    order = np.sort(np.abs(x[0]))
    cut, high = order[950], order[int(1000 * 0.99 - 1)]
    expected = np.where(np.abs(x[0]) > cut, np.sign(x[0]) * np.minimum(np.abs(x[0]), high), 0.0)
    assert found == pytest.approx(expected, rel=1e-6)
    assert run("pcb", np.repeat(x, 3, 0)) == pytest.approx(expected, rel=1e-6)


def test_a_task_that_all_others_oppose_gets_no_weight_where_it_is_outvoted():
    x = np.repeat(np.abs(normal(1, 400)) + 0.1, 4, 0)
    x[3, :200] *= -1
    w = pcb_weights(x, density=0.3)
    assert not w[3, :200].any()
    assert w[3, 200:].any()
    assert (run("pcb", x, density=0.3) >= 0).all()


def test_the_coefficients_of_pcb_do_not_divide():
    x = normal(2, 100)
    assert run("pcb", x, coefficients=3.0) == pytest.approx(3 * run("pcb", x), rel=1e-6)


@pytest.mark.parametrize("clip", [-0.1, 0.5, 0.7])
def test_pcb_refuses_to_clip_half_of_the_entries(clip):
    with pytest.raises(ParameterError, match=rf"pcb: clip={clip} is outside \[0, 0\.5"):
        run("pcb", normal(2, 3), clip=clip)


# --- nearswap and arcee_fusion ---------------------------------------------------------------------------------


def models(*rows):
    return [tv.Checkpoint.from_tensors({"w": torch.tensor(row)}) for row in rows]


def test_nearswap_moves_no_entry_of_the_base_further_than_t():
    base, other = normal(2, 500)
    found = run("nearswap", [base, other], points=True, t=0.3)
    assert np.abs(found - base).max() <= 0.3 + 1e-6
    near = np.abs(base - other) < 0.3
    assert (found[near] == other[near]).all()
    assert found[~near] == pytest.approx((base + 0.3 * np.sign(other - base))[~near], abs=1e-6)


def test_arcee_fusion_takes_what_stands_out_and_keeps_the_base():
    base, other = normal(2, 40, 30)
    other = base + 1e-3 * other
    other[3, 7] += 2.0
    found = run("arcee_fusion", [base, other], points=True)
    moved = found != base
    assert found[3, 7] == other[3, 7]
    assert 0 < moved.mean() < 0.25
    assert (found[moved] == other[moved]).all()


def test_equal_importances_keep_everything():
    base, other = normal(2, 9, 1)
    assert (run("arcee_fusion", [base, other], points=True) == other).all()


def test_a_method_that_needs_the_base_says_so():
    (model,) = models([1.0])
    with pytest.raises(ParameterError, match=r"nearswap needs the base\.\nFix: give base="):
        tv.merge("nearswap", [model], t=0.1)
    with pytest.raises(ParameterError, match=r"nearswap needs exactly 1 input; it got 2"):
        tv.merge("nearswap", [model, model], t=0.1, base=model)
    with pytest.raises(ParameterError, match=r"slerp takes no base"):
        tv.merge("slerp", [model, model], t=0.1, base=model)


def test_a_vector_is_no_point():
    (model,) = models([1.0])
    with pytest.raises(SpaceError, match="slerp merges points, and its input '0' is a TaskVector"):
        tv.merge("slerp", [model - model] * 2, t=0.5)


def test_an_input_may_be_called_base():
    base, model = models([1.0, 2.0], [1.5, 5.0])
    found = tv.merge("nearswap", {"base": model}, t=1.0, base=base)
    assert found["w"].tolist() == [1.5, 3.0]


@pytest.mark.parametrize("method", ["nearswap", "linear", "slerp"])
def test_a_tied_name_of_merged_points_reads_through(method):
    shared = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    points = [tv.Checkpoint.from_tensors({"emb": x, "head": x, "b": x[0].clone()}) for x in shared]
    options = {"linear": {}, "slerp": {"t": 0.5}, "nearswap": {"t": 0.5, "base": points[0]}}[method]
    found = tv.merge(method, points[1:] if method == "nearswap" else points, **options)
    assert torch.equal(found["head"], found["emb"])


@pytest.mark.parametrize("where", ["base", "0"])
def test_a_number_that_is_not_finite_is_refused_by_name(where):
    base, other = models([1.0, 2.0], [1.0, 3.0])
    (bad,) = models([1.0, float("nan")])
    base, other = (bad, other) if where == "base" else (base, bad)
    with pytest.raises(NonFiniteError, match=rf"tensor 'w' has NaN or Inf in '{where}'"):
        tv.merge("nearswap", [other], t=0.1, base=base)["w"]


def test_parameters_may_differ_from_tensor_to_tensor():
    from taskvec.methods._parameters import PerTensor

    x = [tv.Checkpoint.from_tensors({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0])})]
    y = [tv.Checkpoint.from_tensors({"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.0, 1.0])})]
    found = tv.merge("slerp", x + y, t=PerTensor((("a", 0.0),), 1.0))
    assert found["a"].tolist() == [1.0, 0.0]
    assert found["b"].tolist() == [0.0, 1.0]
