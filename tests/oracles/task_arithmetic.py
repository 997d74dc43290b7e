SETTINGS = [
    {},
    {"coefficients": 0.3},
    {"coefficients": [0.5, -2.0, 0.0]},
    {"coefficients": [0.5, -2.0, 0.25], "normalize": True},
]


def reference(stacks, *, coefficients, normalize):
    divisor = sum(coefficients) if normalize else 1.0
    return {name: sum(c * d for c, d in zip(coefficients, x, strict=True)) / divisor for name, x in stacks.items()}
