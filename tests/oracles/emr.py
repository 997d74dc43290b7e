import numpy as np

from oracles import elect


def reference(stacks):
    out = {}
    for name, x in stacks.items():
        sign = elect(x)
        out[name] = sign * np.max(np.where(np.sign(x) == sign, np.abs(x), 0.0), axis=0)
    return out
