"""Largest eigenpairs from products, against dense linear algebra."""

import pytest
import torch
from torch import Tensor

from taskvec.errors import NonFiniteError, ParameterError
from taskvec.ops.krylov import largest_eigenpairs


def symmetric(values: list[float], seed: int = 0) -> Tensor:
    n = len(values)
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T


SPECTRA = {
    "decaying": [2.0**-i for i in range(30)],
    "indefinite": [float(i) for i in range(-10, 11)],
    "threefold": [5.0, 5.0, 5.0, 1.0, 0.5, 0.2, 0.1, 0.0, 0.0, 0.0],
    "rank 2": [3.0, 1.0] + [0.0] * 10,
    "zero": [0.0] * 8,
    "tiny": [1e-30, 1e-31, 0.0, 0.0, 0.0, 0.0],
    "one": [4.0],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_the_largest_eigenpairs_are_those_of_dense_linear_algebra(name: str, block: int, count: int) -> None:
    a = symmetric(SPECTRA[name])
    count = min(count, len(a))
    block = max(block, 3) if name == "threefold" else block  # an eigenvalue occurs no more often than that
    found = largest_eigenpairs(lambda v: a @ v, len(a), count, block=block, tolerance=1e-11)
    size = max(abs(x) for x in SPECTRA[name]) or 1.0
    expected = torch.tensor(sorted(SPECTRA[name], reverse=True)[:count], dtype=torch.float64)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-9 * size)
    eye = torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(found.vectors.T @ found.vectors, eye, rtol=0, atol=1e-12)
    true = (a @ found.vectors - found.vectors * found.values).norm(dim=0)
    torch.testing.assert_close(found.residuals, true, rtol=1e-6, atol=1e-12 * size)
    assert found.products <= len(a)


def test_a_decaying_spectrum_needs_fewer_products_than_its_size_and_a_budget_is_kept() -> None:
    a = symmetric([0.5**i for i in range(60)])
    found = largest_eigenpairs(lambda v: a @ v, 60, 3, tolerance=1e-8)
    assert found.products < 40
    cut = largest_eigenpairs(lambda v: a @ v, 60, 3, tolerance=1e-8, budget=4)
    assert cut.products == 4
    assert cut.residuals.max() > found.residuals.max()


def test_impossible_counts_and_infinite_products_are_refused() -> None:
    for count, block in ((0, 1), (5, 1), (1, 0)):
        with pytest.raises(ParameterError, match=f"count={count} eigenpairs with block={block} of an operator of"):
            largest_eigenpairs(lambda v: v, 4, count, block=block)
    with pytest.raises(NonFiniteError, match="products that are not finite"):
        largest_eigenpairs(lambda v: v * torch.nan, 4, 1)
