"""Slerp: two models joined along the arc between their directions, tensor by tensor."""

from typing import Literal

import numpy as np
from jaxtyping import Float64

from taskvec.methods._method import linear_method
from taskvec.methods._parameters import Share
from taskvec.ops.arcs import arc


@linear_method(
    source="Shoemake 1985, as mergekit applies it to weights",
    space="point",
    base="none",
    gram="tensor",
    least=2,
    most=2,
    laws={"homogeneous", "zero", "idempotent"},
)
def slerp(
    gram: Float64[np.ndarray, "task task"], *, t: Share, dialect: Literal["paper", "mergekit"] = "paper"
) -> Float64[np.ndarray, "task"]:
    """[sin((1 − t)φ) a + sin(tφ) b] / sin φ, with φ the angle between the two flattened tensors.

    Where their cosine is beyond ±0.9995, or one of them is 0: (1 − t) a + t b. The norms of the inputs are not made
    equal, so that a result may be shorter or longer than both. t = 0 and t = 1 give a and b, bit for bit.

    Equal inputs give themselves, zero and opposed ones their linear mean; 0-d tensors with one sign are interpolated
    linearly; empty ones keep their shape.

    Args:
        gram: the inner products of the two tensors.
        t: where on the way from the first model to the second, in [0, 1].
        dialect: mergekit counts a norm up to 1e-8 as 0.

    Differs from the paper: nothing that the published code does.
    """
    floor = 1e-8 if dialect == "mergekit" else 0.0
    return arc(gram, t, floor=floor, straight=1.0 - 0.9995**2)
