"""Our mergekit dialect against files that mergekit 0.1.5 wrote.

In float32 every deterministic method agrees to 1e-6 of the largest entry. Of bfloat16 models mergekit's result, where
it computes in float32 and rounds once (`dtype: float32, out_dtype: bfloat16`), is ours to a step, nearly always to the
bit. Where it computes in bfloat16 itself it rounds after every operation; there we do what it does in float32.

Three things are different on purpose, each with a test of its own: entries that tie with a trim's threshold (mergekit
keeps those that an unstable sort happens to put first, we keep all), votes that cancel but for rounding (it follows
the rounding, we count them as 0), and arcee_fusion where its float32 divergence is rounding.
"""

import pytest
import torch
import yaml

import taskvec as tv
from mergekit_golden import CASES, METHODS, RANDOM, SEEDS, deltas, merged, models, parameters, steps, tensors

TRIMS = ("ties", "breadcrumbs")
EXACT = ["linear", "linear_sum", "linear_with_base", "passthrough", "passthrough_scaled", "slerp", "slerp_far"]
UNSTEADY = ("karcher", "arcee_fusion", "ram_epsilon", "ramplus_tl_strong", *TRIMS)  # in bfloat16: see the last test
TINY, FAR = "model.layers.0.self_attn.v_proj.weight", "model.layers.0.mlp.gate_proj.weight"


def method_of(text):
    return yaml.safe_load(text)["merge_method"]


def edges(size, density, gamma):
    """The largest and the smallest magnitude that a trim keeps, and those of the entries next to them."""
    order, n = size.flatten().sort(descending=True).values, size.numel()
    count = max(int(density * n), 1)
    top = min(int(gamma * n), n - count) if density < 1 else 0
    before, after = order[top - 1] if top else torch.inf, order[top + count] if top + count < n else -1.0
    return order[top], order[top + count - 1], before, after


def undecided(text, dtype, name):
    """Where mergekit's choice is not a function of the numbers: ties of a trim, and votes that cancel."""
    options, found = parameters(yaml.safe_load(text)), deltas(text, dtype, name)
    unsure = torch.zeros(found.shape[1:], dtype=torch.bool)
    if method_of(text).startswith(TRIMS):
        for task, density in zip(found.abs(), options["density"], strict=True):
            high, low, before, after = edges(task, density, options.get("gamma", 0.0))
            unsure |= (task > 0) & (((task == high) & (before == high)) | ((task == low) & (after == low)))
    if method_of(text) in {"ties", "dare_ties", "della", "breadcrumbs_ties"}:
        weighed = found * torch.tensor(options["coefficients"]).reshape(-1, *[1] * (found.ndim - 1))
        unsure |= (weighed != 0).any(0) & (weighed.sum(0).abs() <= 1e-6 * weighed.abs().sum(0))
    return unsure


def test_every_method_that_mergekit_has_is_compared():
    """So a method of ours that mergekit has, too, cannot be registered without a golden case."""
    compared = {method_of(text["float32"]) for text in CASES.values()} | {method_of(text) for text in RANDOM.values()}
    assert len(METHODS) == 20
    assert compared == METHODS
    with_dialect = {n for n in tv.methods.names() if "dialect" in tv.methods.get(n).parameters}
    ours = set(tv.methods.names())
    assert ours >= METHODS
    assert {n for n in with_dialect if "mergekit" in tv.methods.get(n).parameters["dialect"].choices} <= METHODS


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("arcee")])
def test_in_float32_we_agree_to_a_millionth_of_the_largest_entry(case):
    text = CASES[case]["float32"]
    found = merged(text, "float32")
    for name, theirs in tensors("outputs-float32")[case].items():
        ours, sure = found[name].double(), ~undecided(text, "float32", name)
        assert sure.any()
        gap = (ours - theirs.double()).abs()[sure]
        assert gap.max() <= 1e-6 * theirs.abs().max(), name


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("arcee")])
def test_of_bfloat16_models_we_are_what_mergekit_makes_in_float32(case):
    text = CASES[case]["bfloat16-wide"]
    found = merged(text, "bfloat16")
    differ = total = 0
    for name, theirs in tensors("outputs-bfloat16-wide")[case].items():
        gap = steps(found[name], theirs)[~undecided(text, "bfloat16", name)]
        assert not gap.numel() or gap.max() <= 1, name
        differ, total = differ + int((gap > 0).sum()), total + gap.numel()
    assert total > 780
    assert differ <= 0.01 * total


@pytest.mark.parametrize(
    ("case", "variant"),
    [(c, v) for c in EXACT for v in ("bfloat16", "bfloat16-wide")] + [(c, "float32") for c in EXACT[:4]],
)
def test_what_accumulates_in_float32_is_the_same_to_the_bit(case, variant):
    dtype = variant.removesuffix("-wide")
    found = merged(CASES[case][variant], dtype)
    for name, theirs in tensors(f"outputs-{variant}")[case].items():
        assert (found[name] == theirs).all(), name


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(UNSTEADY)])
def test_where_mergekit_computes_in_bfloat16_its_roundings_are_all_that_differs(case):
    """Up to three steps of the largest number that went into an entry."""
    found, given = merged(CASES[case]["bfloat16"], "bfloat16"), tensors("inputs-bfloat16")
    for name, theirs in tensors("outputs-bfloat16")[case].items():
        largest = torch.stack([x[name].double().abs() for x in given.values()] + [theirs.double().abs()]).amax(0)
        step = 2.0 ** (largest.log2().floor() - 7)
        assert ((found[name].double() - theirs.double()).abs() <= 3 * step).all(), name


# --- what differs on purpose -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(TRIMS)])
def test_ties_at_a_threshold_are_all_kept(case):
    """One task at a time, so that what it kept can be seen: at least what mergekit keeps, and only ties more."""
    text = CASES[case]["bfloat16-wide"]
    recipe, known = yaml.safe_load(text), models("bfloat16")
    options, tied = parameters(recipe), 0
    for i, row in enumerate(recipe["models"]):
        trim = {k: v for k, v in options.items() if k in {"density", "gamma", "dialect"}}
        own = {k: [v[i]] if isinstance(v, list) else v for k, v in trim.items()}
        kept = tv.merge(recipe["merge_method"], {"x": known[row["model"]] - known["base"]}, **own)
        for name in known["base"].specs:
            size = deltas(text, "bfloat16", name)[i].abs()
            high, low, before, after = edges(size, own["density"][0], own.get("gamma", 0.0))
            assert ((kept[name] != 0) == ((size >= low) & (size <= high) & (size > 0))).all()
            tied += int(before == high) + int(after == low)
    assert tied > 0


def test_arcee_fusion_takes_each_entry_from_one_of_the_two_and_differs_where_rows_are_close():
    text = CASES["arcee_fusion"]["float32"]
    found, given = merged(text, "float32"), tensors("inputs-float32")
    for name, theirs in tensors("outputs-float32")["arcee_fusion"].items():
        base, tuned, ours = given["base"][name], given["a"][name], found[name]
        assert ((ours == base) | (ours == tuned)).all()
        gap = (ours - theirs).abs() > 1e-6 * theirs.abs().max()
        assert not gap.any() or (name == TINY and gap.sum() <= 4)


def test_mergekit_writes_float32_for_two_methods_and_we_write_the_dtype():
    for case in ("arcee_fusion", "ramplus_tl"):
        found = merged(CASES[case]["bfloat16"], "bfloat16")
        assert {t.dtype for t in tensors("outputs-bfloat16")[case].values()} == {torch.float32}
        assert {found[name].dtype for name in found.specs} == {torch.bfloat16}


def test_in_bfloat16_mergekit_is_far_from_itself():
    """Why we do not round after every operation: its own float32 is up to 42 steps of the entry away."""
    for case in ("karcher", "multislerp"):
        low, wide = tensors("outputs-bfloat16")[case], tensors("outputs-bfloat16-wide")[case]
        found = merged(CASES[case]["bfloat16"], "bfloat16")
        theirs = sum(int((steps(low[n], wide[n]) > 1).sum()) for n in wide)
        ours = sum(int((steps(found[n], wide[n]) > 1).sum()) for n in wide)
        assert theirs > 100
        assert ours == 0


# --- at random: in distribution --------------------------------------------------------------------------------

SINGLE = [case for case in RANDOM if not case.endswith("_mean")]


def moved(values, name):
    """What a merge of task a moved, and what it could move: float64, flat."""
    given = tensors("inputs-float32")
    base = given["base"][name].double()
    return (values.double() - base).flatten(), (given["a"][name].double() - base).flatten()


def draws(case):
    """Two draws of mergekit's, and two of ours."""
    theirs = [tensors("random")[f"{case}/{seed}"] for seed in (0, 1)]
    ours = [merged(RANDOM[case], "float32", seed=seed) for seed in (0, 1)]
    return [*theirs, *({n: x[n] for n in x.specs} for x in ours)]


@pytest.mark.parametrize("case", SINGLE)
def test_of_one_task_both_keep_the_density_and_rescale_alike(case):
    recipe = yaml.safe_load(RANDOM[case])
    rescaled = recipe.get("parameters", {}).get("rescale", True)
    for draw in draws(case):
        kept = total = 0
        for name, values in draw.items():
            found, delta = moved(values, name)
            stays = found.abs() > 0.2 * delta.abs()
            left = delta[stays].abs().sum()
            factor = delta.abs().sum() / left if rescaled and stays.any() else 1.0
            scale = max(values.abs().max().item(), 1e-3)
            assert ((found - factor * delta * stays).abs() <= 5e-7 * scale).all(), name
            kept, total = kept + int(stays.sum()), total + stays.numel()
        assert abs(kept - 0.4 * total) <= 5 * (total * 0.4 * 0.6) ** 0.5


@pytest.mark.parametrize("case", ["della", "della_linear"])
def test_large_entries_stay_more_often(case):
    """Of both, the upper half of each row stays with probability 0.4 + 0.15, the lower one with 0.4 - 0.15."""
    for draw in draws(case):
        counts = [[0, 0], [0, 0]]
        for name, values in draw.items():
            found, delta = (x.reshape(-1, values.shape[-1]) for x in moved(values, name))
            rank = delta.abs().argsort(1).argsort(1)
            upper, stays = rank >= delta.shape[1] // 2, found.abs() > 0.2 * delta.abs()
            for half, where in enumerate((~upper, upper)):
                counts[half][0] += int(stays[where].sum())
                counts[half][1] += int(where.sum())
        for (kept, total), p in zip(counts, (0.23, 0.57), strict=True):
            assert abs(kept / total - p) <= 0.02 + 5 * (p * (1 - p) / total) ** 0.5


OURS = 100


@pytest.mark.parametrize("case", [case for case in RANDOM if case.endswith("_mean")])
def test_the_means_over_seeds_are_those_of_one_distribution(case):
    names = list(tensors("inputs-float32")["base"])
    seen = [merged(RANDOM[case], "float32", seed=1000 + seed) for seed in range(OURS)]
    scores = []
    for name in names:
        drawn = torch.stack([x[name].double() for x in seen])
        error = drawn.std(0) * (1 / OURS + 1 / SEEDS) ** 0.5
        gap = drawn.mean(0) - tensors("random")[f"{case}/mean"][name].double()
        fixed = error <= 1e-6 * drawn.abs().max()
        assert (gap.abs()[fixed] <= 1e-5 * drawn.abs().max()).all()
        scores.append((gap[~fixed] / error[~fixed]).flatten())
    z = torch.cat(scores)
    assert z.abs().max() <= 5.5
    assert abs((z**2).mean().item() - 1.0) <= 0.25


def test_without_rescaling_the_mean_is_the_density_times_the_delta():
    """Of mergekit's 200 seeds and of 100 of ours."""
    ours = [merged(RANDOM["dare_linear_plain"], "float32", seed=seed) for seed in range(OURS)]
    for name, theirs in tensors("random")["dare_linear_plain/mean"].items():
        mine = torch.stack([x[name].double() for x in ours]).mean(0)
        for mean, seeds in ((theirs, SEEDS), (mine, OURS)):
            found, delta = moved(mean, name)
            error = (0.4 * 0.6 / seeds) ** 0.5 * delta.abs() + 1e-7
            assert ((found - 0.4 * delta).abs() <= 5.5 * error).all()
