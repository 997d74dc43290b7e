"""Tied tensors: one model file names a shared tensor once, another repeats it under a second name.

`aligned` shows a tuned model under exactly the names of its base, as far as ties explain the difference. A tie is
believed where a file records it, or where the bits of two tensors are equal. Constant tensors prove nothing: every
fresh LayerNorm is all ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, final

from taskvec.checkpoint.source import AbstractSource, units
from taskvec.errors import SchemaError

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits

CHUNK = 1 << 20  # units compared at a time


@final
class AlignedSource(AbstractSource):
    """The tensors of `inner` under the names of another model; `where` maps each name to the one inside."""

    def __init__(self, inner: AbstractSource, where: Mapping[str, str], ties: Mapping[str, str]) -> None:
        self.inner, self.home, self.ties = inner, inner.home, ties
        self._where = where
        self.specs = {name: inner.spec(inside) for name, inside in where.items()}

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """See the base class."""
        return self.inner.bits(self._where[self.ties.get(name, name)], start, stop)

    def identity(self, name: str) -> tuple[object, ...] | None:
        """See the base class."""
        return self.inner.identity(self._where[self.ties.get(name, name)])

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        return self.inner.recipe(blank=blank)


def aligned(tuned: AbstractSource, base: AbstractSource) -> AbstractSource:
    """`tuned` under the names of `base`: itself when the names agree or when ties do not explain the difference.

    Raises:
        SchemaError: the base ties two names that hold different values in the tuned model.
    """
    if tuned.specs.keys() == base.specs.keys():
        return tuned
    where: dict[str, str] = {}
    for name in base.specs:
        inside = (
            tuned.ties.get(name, name) if name in tuned.ties or name in tuned.specs else _held_as(name, tuned, base)
        )
        if inside is None:
            return tuned
        where[name] = inside
    used = set(where.values())
    for name in tuned.specs:
        if name not in used and not _is_repeat(name, tuned, base, where):
            return tuned
    return AlignedSource(tuned, where, base.ties)


def _held_as(name: str, tuned: AbstractSource, base: AbstractSource) -> str | None:
    """The name under which the tuned model holds what the base repeats as `name`."""
    twins = [n for n in _twins(base, name, base.specs) if n in tuned.specs or n in tuned.ties]
    inside = [tuned.ties.get(n, n) for n in twins]
    return inside[0] if inside and all(equal_bits(tuned, n, tuned, inside[0]) for n in inside) else None


def _is_repeat(name: str, tuned: AbstractSource, base: AbstractSource, where: Mapping[str, str]) -> bool:
    """Whether `name`, unknown to the base, repeats a tensor that the base knows."""
    kept = base.ties.get(name)
    if kept is None:
        return bool(_twins(tuned, name, where.values()))
    if not equal_bits(tuned, name, tuned, where[kept]):
        raise SchemaError(
            f"'{name}' and '{kept}' are tied in {base.describe()}, and differ in {tuned.describe()}.",
            f"save the base with '{name}' as a tensor of its own, so that each can move.",
        )
    return True


def _twins(source: AbstractSource, name: str, candidates: Iterable[str]) -> list[str]:
    """The other tensors of `source` that have the bits of `name`; none when it is constant."""
    spec = source.specs[name]
    same = [n for n in dict.fromkeys(candidates) if n != name and source.specs.get(n) == spec]
    return [n for n in same if equal_bits(source, name, source, n)] if same and not _constant(source, name) else []


def _constant(source: AbstractSource, name: str) -> bool:
    total = units(source.specs[name])
    if total < 2:
        return True
    first = source.bits(name, 0, 1)[0]
    blocks = (source.bits(name, at, min(at + CHUNK, total)) for at in range(0, total, CHUNK))
    return all(bool((block == first).all()) for block in blocks)


def equal_bits(a: AbstractSource, first: str, b: AbstractSource, second: str) -> bool:
    """Whether tensor `first` of `a` and tensor `second` of `b` have the same spec and the same bytes."""
    import numpy as np

    if a.spec(first) != b.spec(second):
        return False
    identity = a.identity(first)
    if (a is b and first == second) or (identity is not None and identity == b.identity(second)):
        return True
    total = units(a.spec(first))
    ranges = ((at, min(at + CHUNK, total)) for at in range(0, total, CHUNK))
    return all(np.array_equal(a.bits(first, i, j), b.bits(second, i, j)) for i, j in ranges)
