import numpy as np

from oracles import agree_mean, drawn, flat, kept, l1_rescaled, peft_vote, per_task, top, unflat, weighted_vote

SETTINGS = [
    {},
    {"density": 1.0},
    {"density": 0.5, "trim_density": 1.0, "seed": 9},
    {"density": [0.9, 0.1], "trim_density": [0.5, 0.2]},
    {"dialect": "mergekit", "density": 0.5, "coefficients": [0.5, -0.25, 1.0]},
    {"dialect": "mergekit", "density": 0.5, "coefficients": 0.5, "normalize": True},
    {"dialect": "mergekit", "density": 0.5, "rescale": False},
    {"dialect": "peft", "density": 0.7, "coefficients": [1.0, 2.0, -0.5]},
    {"dialect": "peft", "density": 0.7, "majority": "frequency"},
]


def reference(stacks, *, density, trim_density, seed, dialect, coefficients, normalize, rescale, majority):
    stays = {n: np.where(drawn(seed, n, x) < per_task(density, x), x, 0.0) for n, x in stacks.items()}
    dropped = {n: s / per_task(density, s) for n, s in stays.items()}
    if dialect == "paper":
        whole = flat(dropped)
        return unflat(
            agree_mean(np.stack([top(r, kept(d, r.size)) for r, d in zip(whole, trim_density, strict=True)])), stacks
        )
    if dialect == "peft":
        return {n: peft_vote(x, coefficients, majority=majority) for n, x in dropped.items()}
    if not rescale:
        return {n: weighted_vote(s, coefficients, normalize=normalize) for n, s in stays.items()}
    return {n: weighted_vote(l1_rescaled(s, stacks[n]), coefficients, normalize=normalize) for n, s in stays.items()}
