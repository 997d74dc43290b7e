"""Gram matrices of stacked blocks: float64 sums in one fixed order, whatever the number of threads.

Of a whole tensor, of each row (the last axis) or of each column (the first axis); a tensor with fewer than two
dimensions is one row and one column. Entry i of the flattened tensor belongs to the unit i // inner % count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from taskvec.ops import gram_kernels

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]
Block = npt.NDArray[np.float32]
Unit = Literal["tensor", "row", "column"]


def products(x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None) -> Floats:
    """X @ y.T in float64 for float32 or float64 rows (a, n) and (b, n); without `y` the Gram matrix of x.

    Entries are summed by runs of 1,024, the runs in order: the same two rows give the same bits, whatever is beside.
    """
    out = np.zeros((x.shape[0], (x if y is None else y).shape[0]))
    if y is None:
        gram_kernels.symmetric_products(x, out)
    else:
        gram_kernels.products(x, y, False, out)
    return out


def factored_products(factors: Sequence[tuple[Floats, Floats]], first: int = 0) -> Floats:
    """⟨Lᵢ Rᵢ, Lⱼ Rⱼ⟩ = tr((Lᵢᵀ Lⱼ)(Rⱼ Rᵢᵀ)) for i ≥ first and every j; no product is multiplied out."""
    left = np.ascontiguousarray(np.hstack([f[0] for f in factors]).T)
    right = np.ascontiguousarray(np.vstack([f[1] for f in factors]))
    bounds = np.concatenate([[0], np.cumsum([f[0].shape[1] for f in factors])[:-1]]).astype(np.int64)
    skip = int(bounds[first])
    both = products(left[skip:], left) * products(right[skip:], right)
    sums: Floats = np.add.reduceat(np.add.reduceat(both, bounds[first:] - skip, axis=0), bounds, axis=1)
    return sums


def units(unit: Unit | None, shape: tuple[int, ...]) -> tuple[int, int]:
    """(inner, count): see the module's docstring."""
    entries = math.prod(shape)
    if unit in {None, "tensor"} or len(shape) < 2 or not entries:
        return max(entries, 1), 1
    return (shape[-1], entries // shape[-1]) if unit == "row" else (1, entries // shape[0])


def row_grams(block: Block, shape: tuple[int, ...]) -> Floats:
    """The Gram matrix (row, task, task) of each row in a block (task, n) of whole rows of a tensor of that shape."""
    inner, _ = units("row", shape)
    out = np.zeros((block.shape[1] // inner, block.shape[0], block.shape[0]))
    gram_kernels.row_grams(block, inner, out)
    return out


def column_grams(block: Block, shape: tuple[int, ...]) -> Floats:
    """What a block (task, n) of whole slices of the first axis adds to the Gram matrices (column, task, task)."""
    if len(shape) < 2:
        return products(block)[None]
    _, count = units("column", shape)
    out = np.zeros((block.shape[0], block.shape[0], count))
    gram_kernels.column_grams(block, out)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def gram_of(stacked: Tensor, unit: Unit) -> Tensor:
    """The Gram matrices (*unit, task, task) of stacked tensors (task, *shape); the definition of the above."""
    inner, count = units(unit, tuple(stacked.shape[1:]))
    flat = stacked.double().reshape(stacked.shape[0], -1)
    if unit == "tensor":
        return flat @ flat.T
    rows = flat.reshape(flat.shape[0], -1, count, 1 if inner == 1 else inner)
    split = rows.permute(2, 0, 1, 3).reshape(count, flat.shape[0], -1)
    return split @ split.transpose(1, 2)


def combination(stacked: Tensor, coefficients: Any, unit: Unit | None) -> Tensor:
    """Σ coefficients[..., t] · stacked[t], in float64; coefficients (*unit, task)."""
    shape = tuple(stacked.shape[1:])
    flat = stacked.double().reshape(stacked.shape[0], -1)
    import torch

    each = torch.as_tensor(coefficients, dtype=torch.float64).reshape(-1, stacked.shape[0]).T
    spread: Any = each if each.shape[1] == 1 else each[:, unit_of(unit, shape, 0, flat.shape[1])]
    merged: Tensor = (spread * flat).sum(0).reshape(shape)
    return merged


def unit_of(unit: Unit | None, shape: tuple[int, ...], start: int, stop: int) -> npt.NDArray[np.int64]:
    """To which unit each of the entries [start, stop) belongs."""
    inner, count = units(unit, shape)
    if inner == 1 or inner > stop - start:
        return np.arange(start, stop) // inner % count
    first = start // inner
    each = np.repeat(np.arange(first, -(-stop // inner)), inner)
    return each[start - first * inner : stop - first * inner]
