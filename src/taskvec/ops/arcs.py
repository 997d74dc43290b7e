"""Means on the sphere, in the coefficients of the inputs: all they need is inner products, float64 (…, task, task)."""

from __future__ import annotations

import math

import numpy as np

from taskvec.ops.bits import Floats
from taskvec.ops.signs import ROUNDING


def squares_of(gram: Floats) -> Floats:
    """The squared norms (…, task)."""
    return np.diagonal(gram, axis1=-2, axis2=-1)


def ratio(above: Floats, below: Floats) -> Floats:
    """Above / below; 0 where below is not positive."""
    known = below > 0
    return np.where(known, above / np.where(known, below, 1.0), 0.0)


def cosines(gram: Floats, eps: float = 0.0, floor: float = 0.0) -> Floats:
    """The cosines of all pairs; 0 for an input of norm 0. Norms are raised by `eps`, and to `floor` at least.

    The product of the squares is rooted, not the squares, so that equal inputs have the cosine 1 exactly.
    """
    squares = squares_of(gram)
    products = np.sqrt(squares[..., :, None] * squares[..., None, :])
    if eps or floor:
        norms = np.maximum(np.sqrt(squares) + eps, floor)
        products = norms[..., :, None] * norms[..., None, :]
    return ratio(gram, products)


def arc(gram: Floats, t: float, *, floor: float, straight: float, clamp: bool = False) -> Floats:
    """The coefficients (…, 2) of the point a share `t` along the arc from the first of two inputs to the second.

    (1 − t, t), the straight line, where 1 − cos² <= `straight`, or where a norm is at most `floor` (with `clamp`,
    norms are raised to `floor` instead).
    """
    c = cosines(gram, floor=floor if clamp else 0.0)[..., 0, 1].clip(-1.0, 1.0)
    angle = np.arccos(c)
    line = (1.0 - c) * (1.0 + c) <= straight
    if not clamp:
        line = line | (np.sqrt(squares_of(gram)) <= floor).any(-1)
    sine = np.where(line, 1.0, np.sin(angle))
    first = np.where(line, 1.0 - t, np.sin((1.0 - t) * angle) / sine)
    second = np.where(line, t, np.sin(t * angle) / sine)
    return np.stack([first, second], -1)


def karcher_mean(gram: Floats, *, max_iter: int, tol: float, first: bool) -> Floats | None:
    """The coefficients, over unit vectors, of the Karcher mean of inputs that are not 0.

    Where their mean is 0: None, or with `first` the iteration starts at the first of them. An input opposite to the
    iterate pulls nowhere.
    """
    c, share = cosines(gram), 1.0 / len(gram)
    z: Floats = np.full(len(gram), share)
    length = math.sqrt(max(float(z @ c @ z), 0.0))
    if length < tol if first else length**2 <= ROUNDING:
        if not first:
            return None
        z = np.zeros(len(gram))
        z[0] = length = 1.0
    z = z / length
    for _ in range(max_iter):
        cosine = (c @ z).clip(-1.0, 1.0)
        angle, sine = np.arccos(cosine), np.sqrt((1.0 - cosine**2).clip(0.0))
        straight = 1.0 - cosine**2 <= ROUNDING
        stretch = share * np.where(straight, cosine > 0, angle / np.where(straight, 1.0, sine))
        step = stretch - (stretch @ cosine) * z
        length = math.sqrt(max(float(step @ c @ step), 0.0))
        if length < tol:
            break
        z = math.cos(length) * z + math.sin(length) / length * step
        z = z / math.sqrt(z @ c @ z)
    return z
