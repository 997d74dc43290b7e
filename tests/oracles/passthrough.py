SETTINGS = [{}, {"scale": -0.5}]


def reference(stacks, *, scale):
    return {name: scale * x[0] for name, x in stacks.items()}
