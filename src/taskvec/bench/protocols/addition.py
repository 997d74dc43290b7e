"""Merged: every method that merges these vectors, at its best scale and at 1."""

from __future__ import annotations

import functools
from typing import Any

from taskvec import methods
from taskvec.bench.given import Given
from taskvec.bench.steps import added
from taskvec.bench.tuned import Tuned
from taskvec.bench.work import Plain
from taskvec.engine.merge import merge
from taskvec.errors import SpaceError, TaskVecError


def addition(given: Given) -> Plain:
    """Base + scale × merge of all vectors, on all tasks; a method that cannot merge them is left out."""
    settings, rows = given.work.settings, []
    for name in settings.methods or merging_vectors():
        try:
            parameters = _parameters(given.tuned, name)
            merged = functools.partial(merge, name, given.tuned.vectors, **parameters)
            rows.append(added(given, name, merged, {"parameters": parameters}, scales=settings.scales_of.get(name)))
        except TaskVecError as error:
            given.leave_out(name, error.fact)
    return {"addition": rows}


def merging_vectors() -> list[str]:
    """The registered methods that merge task vectors."""
    return [name for name in methods.names() if methods.get(name).space != "point"]


def _parameters(tuned: Tuned, name: str) -> dict[str, Any]:
    method = methods.get(name)
    if method.space == "point":
        raise SpaceError("it merges points, not task vectors.")
    return {"seed": tuned.seed} if "seed" in method.parameters else {}
