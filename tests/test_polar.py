"""The polar factor: orthonormal, nearest, and without directions that nobody asked for."""

import torch

from taskvec.ops.polar import polar


def columns(rows: int, count: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_orthonormal_and_the_whitening_of_independent_columns() -> None:
    given = columns(20, 6, 0)
    found = polar(given)
    assert torch.allclose(found.factor.T @ found.factor, torch.eye(6, dtype=torch.float64), atol=1e-12)
    values, vectors = torch.linalg.eigh(given.T @ given)
    whitened = given @ vectors @ torch.diag(values**-0.5) @ vectors.T
    assert torch.allclose(found.factor, whitened, atol=1e-10)
    assert found.dropped == 0
    assert abs(found.condition - float(torch.linalg.cond(given))) < 1e-9 * found.condition


def test_orthonormal_columns_stay_and_order_and_scale_do_not_matter() -> None:
    given = torch.linalg.qr(columns(9, 4, 1)).Q
    assert torch.allclose(polar(given).factor, given, atol=1e-12)
    other, order = columns(9, 4, 2), [2, 0, 3, 1]
    assert torch.allclose(polar(other[:, order]).factor, polar(other).factor[:, order], atol=1e-10)
    assert torch.allclose(polar(5.0 * other).factor, polar(other).factor, atol=1e-10)


def test_equal_columns_share_one_direction() -> None:
    one = columns(7, 1, 3)
    found = polar(torch.cat([one, one], 1))
    unit = one / one.norm() / 2**0.5
    assert torch.allclose(found.factor, torch.cat([unit, unit], 1), atol=1e-12)
    assert found.dropped == 1


def test_zero_and_no_columns_have_no_direction() -> None:
    assert not polar(torch.zeros(5, 2)).factor.any()
    assert polar(torch.zeros(5, 2)).dropped == 2
    assert polar(torch.zeros(5, 0)).factor.shape == (5, 0)
