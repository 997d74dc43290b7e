from oracles import agree_mean, weighted_vote
from oracles.della_linear import dropped

SETTINGS = [
    {},
    {"epsilon": 0.0, "seed": 2},
    {"density": [0.3, 0.9], "epsilon": 0.1},
    {"dialect": "mergekit", "density": 0.5, "coefficients": [0.5, -0.25, 1.0]},
    {"dialect": "mergekit", "density": 0.5, "normalize": False, "rescale": False},
]


def reference(stacks, *, density, epsilon, seed, dialect, coefficients, normalize, rescale):
    options = {"density": density, "epsilon": epsilon, "seed": seed, "dialect": dialect, "rescale": rescale}
    rows = {n: dropped(n, x, **options) for n, x in stacks.items()}
    if dialect == "mergekit":
        return {n: weighted_vote(x, coefficients, normalize=normalize) for n, x in rows.items()}
    return {n: agree_mean(x) for n, x in rows.items()}
