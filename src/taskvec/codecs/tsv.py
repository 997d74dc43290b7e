"""Codec `tsv` (TSV-Compress): the largest singular triplets of every matrix, kept as factors; the rest as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.roles import Split
from taskvec.checkpoint.save import parse_size
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import (
    AbstractCodec,
    AbstractDecoder,
    AbstractEncoder,
    PartReader,
    check_fraction,
    codec,
    make,
)
from taskvec.codecs._factored import FactorsDecoder, matrix_shape
from taskvec.codecs._ranks import Choice, Ranks, rank_at, water_filled
from taskvec.codecs._singular import Shape, SingularEncoder, Weighed
from taskvec.codecs._triplet_parts import decoder_of
from taskvec.errors import ParameterError
from taskvec.ops.dtypes import DTYPES
from taskvec.ops.hashing import hash_of
from taskvec.vector import TaskVector

_OPTIMAL = 0.999  # of the squared norm that the best triplets keep
_DTYPES = {
    **dict.fromkeys(("float32", "fp32", "F32"), "F32"),
    **dict.fromkeys(("bfloat16", "bf16", "BF16"), "BF16"),
    **dict.fromkeys(("float16", "fp16", "F16"), "F16"),
    **dict.fromkeys(("int8", "I8"), "I8"),
}


@codec
@final
@dataclass(frozen=True, slots=True)
class Tsv(AbstractCodec):
    """Task singular vectors, the best approximation of its rank of each matrix (arXiv 2412.00081, TSV-Compress).

    One of three says how many triplets of a matrix are kept:

    - `density` (default 0.125): floor(density · min(m, n)); where that is 0, or not smaller, the matrix as it is;
    - `energy`: the fewest that keep this share of the squared norm of each tensor;
    - `budget`: bytes of data for the whole vector, a number, "20MB", or "10%" of what the tensors that move take in
      the tuned model; distributed over all matrices by squared singular value a byte (water-filling), so that no
      other choice of ranks has a smaller total error but for the last bytes. Matrices may be left out altogether.

    At a density any triplets will do that keep 99.9% of the squared norm that the best ones of that rank keep: where
    spectra fall fast these are found several times sooner. `exact=true` takes the best ones, as the others do.

    Factors are stored in `dtype` (float32, float16, bfloat16 or int8 with one scale for 128 entries), the scales of
    the triplets in float32, fitted to the factors as they are stored. `other`, one of the same, is the dtype of the
    entries of everything else. What is a matrix, and which ones are several in one, says the layout (`layout`:
    a YAML file, `splits`: a preset). `convolutions="matrix"` decomposes kernels, too, as (out, in · size); it pays
    for kernels that are large in both (a 512 x 512 x 3 x 3 one at 1/8 takes 14% of its bytes), not for depthwise ones.
    """

    density: float | None = None
    energy: float | None = None
    budget: int | str | None = None
    dtype: str = "F32"
    other: str = "F32"
    convolutions: str = "other"
    layout: str | Path | None = None
    splits: str | None = None
    exact: bool = False
    name: ClassVar[str] = "tsv"
    widest: ClassVar[Mapping[str, Any]] = {
        **AbstractCodec.widest,
        "norm": "0.000000e-000",
        "split": "columns 9999",
    }

    def __post_init__(self) -> None:
        given = [k for k in ("density", "energy", "budget") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ParameterError(f"codec 'tsv': {' and '.join(given)} exclude each other.", "give one of them.")
        if not given:
            object.__setattr__(self, "density", 0.125)
        for key in ("density", "energy"):
            if getattr(self, key) is not None:
                object.__setattr__(self, key, check_fraction(f"codec 'tsv': {key}", getattr(self, key)))
        if self.budget is not None:
            _budget(self.budget, 0)
        for key in ("dtype", "other"):
            object.__setattr__(self, key, _chosen(key, str(getattr(self, key)).removeprefix("torch."), _DTYPES))
        _chosen("convolutions", self.convolutions, {k: k for k in ("matrix", "other")})

    def describe(self) -> dict[str, Any]:
        """See the base class: of a layout file its hash, since a path means nothing elsewhere."""
        table = AbstractCodec.describe(self)
        if self.layout is not None:
            table["layout"] = hash_of(Path(self.layout).read_bytes())
        return table

    def encoder(self, vector: TaskVector, name: str, *, allow_nonfinite: bool) -> AbstractEncoder:
        """See the base class."""
        return self.encoders(vector, allow_nonfinite=allow_nonfinite)(name)

    def encoders(
        self, vector: TaskVector, *, allow_nonfinite: bool, threads: int = 1
    ) -> Callable[[str], AbstractEncoder]:
        """See the base class: roles, splits and, for a budget, the spectra of all matrices.

        Raises:
            ParameterError: a budget that does not even hold what is not decomposed; says how much that is.
        """
        layout = Layout.of(vector.specs, override=self.layout, splits=self.splits)
        shapes = {n: s for n in vector.names() if (s := self._shape(vector.specs[n], layout, n)) is not None}

        def instead(name: str) -> AbstractEncoder:
            inner = self._other().encoder(vector, name, allow_nonfinite=allow_nonfinite)
            return Weighed(inner, vector, name)

        ranks: Ranks = {}
        if self.budget is not None:
            nbytes = _budget(self.budget, sum(s.nbytes for s in vector.specs.values()))
            ranks = water_filled(vector, shapes, instead, nbytes, threads=threads)

        def encoder(name: str) -> AbstractEncoder:
            if name not in shapes:
                return instead(name)
            share = 1.0 if self.exact else _OPTIMAL
            choose = Choice(shapes[name], self.density, self.energy, ranks.get(name), share)
            return SingularEncoder(vector, name, shapes[name], choose=choose, instead=instead(name))

        return encoder

    def _other(self) -> AbstractCodec:
        return make("int8", {}) if self.other == "I8" else make("dense", {"dtype": self.other})

    def _shape(self, spec: TensorSpec, layout: Layout, name: str) -> Shape | None:
        """How a tensor is decomposed; None: not at all."""
        place = layout[name]
        kernel = self.convolutions == "matrix" and place.role == "other" and len(spec.shape) > 2
        if place.role != "matrix" and not (kernel and min(matrix_shape(spec)) > 1):
            return None
        return self._whole(spec, place.split)

    def _whole(self, spec: TensorSpec, split: Split | None) -> Shape:
        return Shape(spec, split, DTYPES[self.dtype], sum(s.nbytes for s in self._other().bound(spec).values()))

    def bound(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """See the base class: where the layout is the default and the density decides, just what comes out."""
        other = dict(self._other().bound(spec))
        if not spec.shape or len(spec.shape) < 2 or min(matrix_shape(spec)) < 2:
            return other
        shape = self._whole(spec, None)
        if self.density is not None and self.layout is None and self.splits is None and self.convolutions == "other":
            rank = rank_at(shape, self.density)
            return shape.stored(rank) if rank and len(spec.shape) == 2 else other
        widest = TensorSpec((max(spec.shape),), DTYPES["I32"])
        ranks = {"ranks": widest} if self.layout is not None or self.splits is not None else {}
        return {**other, **shape.stored(max(matrix_shape(spec))), **ranks}

    @classmethod
    def decoder(cls, part: PartReader) -> AbstractDecoder:
        """See the base class."""
        return FactorsDecoder(decoder_of(part))


def _chosen(key: str, value: object, known: Mapping[str, str]) -> str:
    if not isinstance(value, str) or value not in known:
        names = ", ".join(dict.fromkeys(known))
        raise ParameterError(f"codec 'tsv': {key}={value!r} is not one of {names}.")
    return known[value]


def _budget(budget: object, tuned: int) -> int:
    """A budget in bytes.

    Raises:
        ParameterError: neither a size nor a share from 0% to 100%.
    """
    if isinstance(budget, str) and budget.strip().endswith("%"):
        try:
            share = float(budget.strip()[:-1]) / 100.0
        except ValueError:
            share = math.nan
        if not 0.0 < share <= 1.0:
            raise ParameterError(f"codec 'tsv': budget={budget!r} is not a share in (0%, 100%].")
        return int(share * tuned)
    if isinstance(budget, bool) or not isinstance(budget, int | float | str):
        raise ParameterError(f"codec 'tsv': budget={budget!r} is not a number of bytes.")
    return parse_size(budget if isinstance(budget, str) else str(budget))
