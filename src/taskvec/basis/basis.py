"""`Basis`: M vectors that stand for T tasks, and what each task loses by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from jaxtyping import Float64
from torch import Tensor

from taskvec.basis._solver import get
from taskvec.basis.certificates import NegationCertificate, Values, negation, positive, vector_of
from taskvec.basis.state import Asked, State, arrived, built, fitted
from taskvec.basis.tables import finite
from taskvec.checkpoint.durable import write_durably
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.engine.merge import merge
from taskvec.errors import ParameterError, UnknownName
from taskvec.gramian import Gram, Vectors, named_vectors
from taskvec.vector import TaskVector, check_compatible

_PARALLEL = 1e4  # condition number from which bfloat16 vectors recover nothing but noise
RECOVERABLE = 0.5  # the relative error up to which a task may be negated without force: 3/4 of its energy come back


@final
class Basis:
    """M basis vectors and a decoder: task j is recovered as Σ_m decoder[m, j] s_m, a lazy `TaskVector`.

        basis = Basis.fit(vectors, size=4)
        model = base + 0.3 * basis.recover("math")
        basis.error("math")                          # ‖recovered − τ‖ / ‖τ‖
        merged = tv.merge("ties", basis.vectors())   # any method, on M vectors instead of T

    Everything that is said of errors comes from inner products; no vector is read for it.
    """

    __slots__ = ("_members", "_state", "asked")

    def __init__(self, members: tuple[TaskVector, ...], state: State, asked: Asked) -> None:
        self._members, self._state, self.asked = members, state, asked

    @classmethod
    def fit(
        cls,
        vectors: Vectors,
        size: int | None = None,
        method: str = "addition_exact",
        *,
        weights: Values | None = None,
        coefficients: Values | None = None,
        normalize: bool = False,
        gram: Gram | None = None,
        threads: int | None = None,
        progress: Progress = unseen,
        **options: Any,
    ) -> Basis:
        """A basis of `size` vectors.

        Args:
            vectors: a mapping name → vector, or a sequence; read once, for their Gram matrix, unless it is given.
            size: M; as many as tasks, or more, keeps the tasks themselves. "cluster" alone can choose it (None).
            method: a name of `tv.basis.names()`.
            weights: how much a task's error counts, above 0; default 1.
            coefficients: of the sum that addition_exact keeps, above 0; default 1.
            normalize: whether every task's error counts relative to its norm, so that small tasks are not given up.
            gram: `Gram.of(vectors)`, where it is known already.
            threads: workers; default: one a processor.
            progress: called with (name of the step, bytes done, bytes in all).
            **options: those of the method.

        Raises:
            ParameterError: a size below 1, vectors that cancel, an unknown option. UnknownName: no such method.
            SchemaError: vectors of different models or bases; a Gram matrix of no vectors. NonFiniteError: NaN or Inf.
        """
        named = named_vectors(vectors)
        names = tuple(named)
        solver = get(method)
        solver.check(options)
        asked = Asked(
            method,
            size,
            normalize,
            _table("weights", weights, names),
            _table("coefficients", coefficients, names),
            options,
        )
        known = gram if gram is not None else Gram.of(named, threads=threads, progress=progress)
        if known.names != names:
            raise ParameterError("the Gram matrix is of other vectors than those given.", "leave gram out.")
        codes = asked.solve(known.matrix, names, size)
        kept = size is not None and size >= len(names)
        made = None if kept or solver.build is None else solver.build(named, codes, **options)
        if made is None:
            state = fitted(names, known.matrix, codes)
            return cls(tuple(_combination(list(named.values()), c) for c in codes.encoder.T), state, asked)
        # names that no task has, so that one matrix holds both
        others = {f"{'#' * (1 + max(map(len, names)))}{m}": v for m, v in enumerate(made)}
        both = Gram(names, known.matrix).joined(others, named, threads=threads)
        return cls(tuple(made), built(names, both.matrix, codes), asked)

    # --- what is in it ----------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return self._state.names

    @property
    def size(self) -> int:
        """How many vectors there are."""
        return len(self._members)

    @property
    def state(self) -> State:
        """The matrices behind it."""
        return self._state

    @property
    def gram(self) -> Gram:
        """The inner products of the tasks; after `add`, of the tasks as they were recovered before."""
        return Gram(self._state.names, self._state.gram)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing, in sentences."""
        condition = self._state.condition
        if condition <= _PARALLEL:
            return self._state.notes
        note = f"the vectors are nearly parallel (condition number {condition:.1g}): keep them in high precision."
        return (*self._state.notes, note)

    @property
    def report(self) -> Mapping[str, Any]:
        """What the solver has to say: clusters, members, losses."""
        return self._state.report

    def vectors(self) -> list[TaskVector]:
        """The basis vectors, lazy."""
        return list(self._members)

    def named(self) -> dict[str, TaskVector]:
        """The basis vectors under the names "basis0", "basis1" and so on."""
        return {f"basis{m}": v for m, v in enumerate(self._members)}

    # --- tasks ------------------------------------------------------------------------------------------------------

    def coefficients(self, task: str) -> Float64[Tensor, " size"]:
        """The coefficient of every basis vector in a task.

        Raises:
            UnknownName: no such task.
        """
        return self._state.decoder[:, self._at(task)].clone()

    def recover(self, task: str) -> TaskVector:
        """A task as it comes back.

        Raises:
            UnknownName: no such task.
        """
        return _combination(self._members, self.coefficients(task))

    def error(self, task: str) -> float:
        """‖recovered − τ‖ / ‖τ‖; for a task that was there before one was added, a bound of it.

        Raises:
            UnknownName: no such task.
        """
        return float(self._state.errors[self._at(task)])

    def combine(self, coefficients: Values) -> TaskVector:
        """Σ_j coefficients_j τ_j, every task as it comes back; by name (others 0), in order, or one number for all.

        Raises:
            UnknownName: no such task. ParameterError: too few, too many, or not finite.
        """
        given = vector_of("coefficients", coefficients, self.names, missing=0.0)
        return _combination(self._members, self._state.decoder @ given)

    def negate(self, task: str, scale: float = 1.0, *, force: bool = False, most: float = RECOVERABLE) -> TaskVector:
        """−scale · τ, to unlearn a task.

        Raises:
            ParameterError: the task comes back with a relative error above `most`, so that something else would be
                subtracted (`force` subtracts it). UnknownName: no such task.
        """
        check_negation(task, self.error(task), force=force, most=most)
        return -scale * self.recover(task)

    def certify_negation(self, task: str, scale: float = 1.0, **options: Any) -> NegationCertificate:
        """What `negate` can cost the other tasks; see `tv.basis.negation`, which is given this task's error."""
        at = self._at(task)
        return negation(self.gram, task, scale, error=float(self._state.lost[at]), **options)

    def merge(self, method: str, **parameters: Any) -> TaskVector:
        """The merge of the basis vectors by any registered method; see `tv.merge`."""
        return merge(method, self.named(), **parameters)

    def addition(self) -> dict[str, float | None]:
        """How Σ_m s_m compares with the sum of all tasks: its `scale` along it and their `cosine`.

        A sum of basis vectors at scale x is the sum of all tasks at x · scale: M / T for addition_exact. None where one
        of the two is 0, or the basis has no encoder (vectors that are no combinations of tasks).
        """
        if self._state.encoder is None:
            return {"scale": None, "cosine": None}
        g, each = self._state.gram, self._state.encoder.sum(1)
        mine, whole, both = float(each @ g @ each), float(g.sum()), float(each @ g.sum(1))
        if min(mine, whole) <= 0.0:
            return {"scale": None, "cosine": None}
        return {"scale": both / whole, "cosine": both / (mine * whole) ** 0.5}

    # --- online -----------------------------------------------------------------------------------------------------

    def add(self, name: str, vector: TaskVector, *, threads: int | None = None) -> None:
        """One more task, without the vectors of the others: only the basis vectors and `vector` are read.

        The size stays (it grows where fewer vectors were enough before). What the old tasks lose adds up and is kept.

        Raises:
            ParameterError: the name is taken. SchemaError: a vector of another model or base.
        """
        if name in self.names:
            raise ParameterError(f"the basis has a task named '{name}' already.", "choose another name.")
        check_compatible(self._members[0], vector)
        before = self.named()
        new = "#new"
        row = Gram(tuple(before), self._state.members).extended(new, vector, before, threads=threads).matrix[-1]
        step = arrived(self._state, name, row[:-1], float(row[-1]), self.asked)
        self._members = tuple(_combination([*self._members, vector], column) for column in step.mix.T)
        self._state = step.state

    # --- as data ----------------------------------------------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """The basis as tables: `tasks`, matrices, report and notes.

        Rows of `tasks`: name, norm, error (None where a task of norm 0 comes back as something else), coefficients,
        and whether it was added later.
        """
        s = self._state
        columns = zip(s.names, s.norms.tolist(), s.errors.tolist(), s.decoder.T.tolist(), strict=True)
        tasks = [
            {"name": n, "norm": norm, "error": finite(error), "coefficients": each, "added": n in s.added}
            for n, norm, error, each in columns
        ]
        encoder = None if s.encoder is None else s.encoder.tolist()
        about = {
            "method": self.asked.method,
            "size": self.size,
            "addition": self.addition(),
            "condition": finite(s.condition),
        }
        matrices = {"encoder": encoder, "gram": s.gram.tolist(), "members": s.members.tolist()}
        return {
            **about,
            "addition": self.addition(),
            "tasks": tasks,
            **matrices,
            "report": dict(s.report),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """`plain()` as JSON."""
        return json.dumps(self.plain(), indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`; the vectors are kept by a store (`Store.fit_basis`)."""
        write_durably(Path(path), self.to_json() + "\n")
        return Path(path)

    def _at(self, task: str) -> int:
        if task not in self.names:
            raise UnknownName.among(f"the basis has no task named '{task}'.", str(task), self.names)
        return self.names.index(task)

    def __repr__(self) -> str:
        return f"<Basis of {self.size} vectors ({self.asked.method}) for {len(self.names)} tasks>"


def check_negation(task: str, error: float, *, force: bool, most: float = RECOVERABLE) -> None:
    """Refuse to negate what does not come back.

    Raises:
        ParameterError: an error above `most`, unless forced.
    """
    if error > most and not force:
        raise ParameterError(
            f"the task '{task}' comes back from the basis with a relative error of {error:.2f} (at most {most:g} may "
            "be negated): what would be subtracted is not this task.",
            "negate its own vector, fit a larger basis, or insist (force=True, --force).",
        )


def _table(what: str, values: Values | None, names: tuple[str, ...]) -> dict[str, float]:
    if values is None:
        return {}
    return dict(zip(names, positive(what, values, names).tolist(), strict=True))


def _combination(vectors: Any, coefficients: Tensor) -> TaskVector:
    """Σ coefficients · vectors; what has the coefficient 0 is left out, unless all have it."""
    pairs = [(c, v) for c, v in zip(coefficients.tolist(), vectors, strict=True) if c != 0.0] or [(0.0, vectors[0])]
    return TaskVector(tuple((c * k, leaf) for c, v in pairs for k, leaf in v.terms))
