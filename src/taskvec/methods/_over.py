"""Methods that work on the merge of another method, named by their parameter `method`.

`composed` makes one method of the two, before any parameter is bound: it has the parameters of both (one that both
have is one), and the laws that both obey. Its function receives the parameters of the other among its keywords, and
calls it with `run`, on the stacked deltas or on what it makes of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taskvec.errors import ParameterError
from taskvec.methods._method import Fold, MergeMethod, get
from taskvec.methods._parameters import INJECTED
from taskvec.methods._place import Place

if TYPE_CHECKING:
    from torch import Tensor


def composed(method: MergeMethod, given: Mapping[str, Any]) -> MergeMethod:
    """The method together with the one that `given` (or its default) names; itself, where it works on no other.

    Raises:
        UnknownName: no such method. ParameterError: one that does not fit.
    """
    if method.over is None:
        return method
    parameter = method.parameters["method"]
    inner = get(parameter.check(method.name, given.get("method", parameter.default)))
    if inner.over is not None or inner.space == "point":
        what = "merges points" if inner.space == "point" else "needs a method itself"
        raise ParameterError(f"{method.name}: method={inner.name!r} {what}.", "name another method.")
    fields: dict[str, Any] = {
        "parameters": {**inner.parameters, **method.parameters},
        "laws": method.laws & inner.laws,
        "least": max(method.least, inner.least),
        "most": inner.most if method.most is None else method.most,
        "dialects": {**inner.dialects, **method.dialects},
        "check": functools.partial(_check_both, method, inner),
        "over": None,
    }
    return replace(method, **{**fields, **method.over(inner)})


def _check_both(method: MergeMethod, inner: MergeMethod, /, **parameters: Any) -> None:
    for each in (method, inner):
        each.check_at(_own(each, parameters))


def folds_of(method: MergeMethod) -> Callable[..., tuple[Fold, ...]]:
    """The method's folds, for one that has more parameters than it."""

    def own(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **given: Any) -> Any:
            return function(*positional, **{k: v for k, v in given.items() if k in (*INJECTED, *method.parameters)})

        return call

    def folds(**given: Any) -> tuple[Fold, ...]:
        found = method.folds(**_own(method, given)) if callable(method.folds) else method.folds
        return tuple(replace(fold, step=own(fold.step), finish=own(fold.finish)) for fold in found)

    return folds


def folded(method: MergeMethod, stacked: Tensor, *, at: Place, given: Mapping[str, Any]) -> Any:
    """The state of the method's folds over this one stack (task, *shape), whatever their scope; None without folds."""
    block, state = stacked.reshape(len(stacked), -1).cpu().numpy(), None
    for fold in folds_of(method)(**given):
        total = fold.step(block, at=at, state=state, **given)
        state = fold.finish(total, state, block.shape[1], **given)
    return state


def run(method: MergeMethod, stacked: Tensor, *, at: Place, state: Any, given: Mapping[str, Any]) -> Tensor:
    """The merge of a float32 stack (task, *shape) by the method, with its own parameters among `given`; float64."""
    options = {"state": state, "at": at, **_own(method, given)}
    if method.kernel is not None and stacked.is_cpu:
        merged = method.kernel(stacked.reshape(len(stacked), -1).numpy(), **options)
        if merged is not None:
            import torch

            return torch.from_numpy(merged).reshape(stacked.shape[1:])
    return method(stacked, **options).double()


def _own(method: MergeMethod, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in method.parameters}
