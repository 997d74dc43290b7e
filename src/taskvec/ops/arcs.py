"""Means on the sphere, in the coefficients of the inputs: all they need is inner products, float64 (…, task, task)."""

from __future__ import annotations

import torch
from torch import Tensor

from taskvec.ops.signs import ROUNDING


def cosines(gram: Tensor, eps: float = 0.0, floor: float = 0.0) -> Tensor:
    """The cosines of all pairs; 0 for an input of norm 0. Norms are raised by `eps`, and to `floor` at least.

    The product of the squares is rooted, not the squares, so that equal inputs have the cosine 1 exactly.
    """
    squares = gram.diagonal(dim1=-2, dim2=-1)
    products = (squares[..., :, None] * squares[..., None, :]).sqrt()
    if eps or floor:
        norms = (squares.sqrt() + eps).clamp(min=floor)
        products = norms[..., :, None] * norms[..., None, :]
    return torch.where(products > 0, gram / torch.where(products > 0, products, 1.0), 0.0)


def arc(gram: Tensor, t: Tensor, *, floor: float, straight: float, clamp: bool = False) -> Tensor:
    """The coefficients (…, 2) of the point a share `t` along the arc from the first of two inputs to the second.

    (1 − t, t), the straight line, where 1 − cos² <= `straight`, or where a norm is at most `floor` (with `clamp`,
    norms are raised to `floor` instead).
    """
    c = cosines(gram, floor=floor if clamp else 0.0)[..., 0, 1].clamp(-1.0, 1.0)
    angle = c.acos()
    line = (1.0 - c) * (1.0 + c) <= straight
    if not clamp:
        line = line | (gram.diagonal(dim1=-2, dim2=-1).sqrt() <= floor).any(-1)
    sine = torch.where(line, 1.0, angle.sin())
    first = torch.where(line, 1.0 - t, ((1.0 - t) * angle).sin() / sine)
    second = torch.where(line, t, (t * angle).sin() / sine)
    return torch.stack([first, second], -1)


def karcher_mean(gram: Tensor, *, max_iter: int, tol: float, first: bool) -> Tensor | None:
    """The coefficients, over unit vectors, of the Karcher mean of inputs that are not 0.

    Where their mean is 0: None, or with `first` the iteration starts at the first of them. An input opposite to the
    iterate pulls nowhere.
    """
    c, share = cosines(gram), 1.0 / len(gram)
    z = torch.full((len(gram),), share, dtype=torch.float64)
    length = (z @ c @ z).clamp(min=0.0).sqrt()
    if length < tol if first else length**2 <= ROUNDING:
        if not first:
            return None
        z = torch.zeros_like(z)
        z[0] = length = torch.tensor(1.0, dtype=torch.float64)
    z = z / length
    for _ in range(max_iter):
        cosine = (c @ z).clamp(-1.0, 1.0)
        angle, sine = cosine.acos(), (1.0 - cosine**2).clamp(min=0.0).sqrt()
        stretch = share * torch.where(1.0 - cosine**2 <= ROUNDING, (cosine > 0).double(), angle / sine)
        step = stretch - (stretch @ cosine) * z
        length = (step @ c @ step).clamp(min=0.0).sqrt()
        if length < tol:
            break
        z = length.cos() * z + length.sin() / length * step
        z = z / (z @ c @ z).sqrt()
    return z
