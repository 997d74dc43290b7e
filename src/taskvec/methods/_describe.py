"""What a method's registration and docstring say, as plain data: for `taskvec methods`, the pages and the plan."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from taskvec.methods._method import MergeMethod
from taskvec.methods._parameters import Bound, Parameter

LAW_TEXTS = {
    "permutation": "the order of the tasks makes no difference",
    "homogeneous": "f(2x) = 2 f(x)",
    "zero": "f(0, …, 0) = 0",
    "idempotent": "f(x, …, x) = x",
    "additive": "f(x + y) = f(x) + f(y)",
}
SPACES = {"vector": "task vectors", "point": "models (points)", "either": "task vectors or models"}
_DIFFERS = "Differs from the paper:"


def describe(method: MergeMethod) -> dict[str, Any]:
    """Everything that is declared about a method; texts are in the words of its docstring."""
    text = sections(inspect.getdoc(method.function) or "")
    bound = sample(method)
    count, given = max(method.least, 1), bound.at("")
    folds, unit = len(method.folds_for(bound)), unit_of(method, count, given)
    return {
        "name": method.name,
        "summary": method.summary,
        "text": text["text"],
        "source": method.source,
        "space": method.space,
        "base": "required" if method.space == "vector" else method.base,
        "least": method.least,
        "most": method.most,
        "acts_on": unit,
        "linear": is_linear(method, count, given),
        "otherwise": method.otherwise,
        "parameters": [_parameter(p, text["args"].get(p.name, "")) for p in method.parameters.values()],
        "laws": {law: LAW_TEXTS.get(law, "") for law in sorted(method.laws)},
        "folds": folds,
        "passes": folds + 1,
        "cost": cost("triplets" if method.spectral else unit, folds),
        "differs": text["differs"],
        "module": method.function.__module__,
    }


def _parameter(parameter: Parameter, text: str) -> dict[str, Any]:
    kinds = {float: "number", int: "integer", bool: "true or false"}
    return {
        "name": parameter.name,
        "kind": " | ".join(parameter.choices) or kinds.get(parameter.kind, "word"),
        "range": None if parameter.range is None else str(parameter.range),
        "default": None if parameter.required else parameter.default,
        "required": parameter.required,
        "per_task": parameter.per_task,
        "text": text,
    }


def sample(method: MergeMethod) -> Bound:
    """The default parameters, and any value for those without a default."""
    given = {p.name: p.choices[0] if p.choices else p.kind(1) for p in method.parameters.values() if p.required}
    return method.bind(given, [str(i) for i in range(max(method.least, 1))])


def coefficients_of(method: MergeMethod, count: int, parameters: Mapping[str, Any]) -> list[float] | None:
    """The coefficients of `count` tasks under these parameters; None where there are none, or folds decide them."""
    if method.weigh is None or method.folds:
        return None
    found = method.weigh(count, **parameters)
    return None if found is None or found.ndim != 1 else [float(c) for c in found.tolist()]


def is_linear(method: MergeMethod, count: int, parameters: Mapping[str, Any]) -> bool:
    """Whether the merge is a linear combination under these parameters (with a kernel: only under some)."""
    if method.weigh is not None and method.folds:
        return method.kernel is None
    return coefficients_of(method, count, parameters) is not None


def unit_of(method: MergeMethod, count: int, parameters: Mapping[str, Any]) -> str:
    """How finely the engine may cut for a method with these parameters; a linear combination is cut anywhere."""
    declared: Any = "element" if is_linear(method, count, parameters) else method.acts_on
    return str(declared(**parameters) if callable(declared) else declared)


def cost(unit: str, folds: int) -> str:
    """What a merge reads and holds, in words."""
    reads = "reads every input once" if folds == 0 else f"reads every input {folds + 1} times"
    if unit in ("element", "row"):
        held = "chunk" if unit == "element" else "block of rows"
        return f"{reads}; holds one {held} a worker, whatever the size of the model"
    if unit == "triplets":
        return f"{reads}; holds one delta, the leading triplets of all and the merge of a matrix, one a worker"
    extra = ", and decomposes matrices" if unit == "matrix" else ""
    return f"{reads}; holds the largest tensor of every input, one a worker{extra}"


def sections(doc: str) -> dict[str, Any]:
    """A Google docstring as {"text": paragraphs after the summary, "args": {name: text}, "differs": text}."""
    body = doc.partition("\n")[2].strip("\n")
    differs = ""
    if _DIFFERS in body:
        before, _, after = body.partition(_DIFFERS)
        differs, _, rest = after.partition("\n\n")
        body = f"{before.rstrip()}\n\n{rest}"
    args: dict[str, str] = {}
    found = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", body, re.MULTILINE)
    if found:
        for name, text in re.findall(r"^ {4}\*{0,2}(\w+): ((?:.*\n?)(?: {8}.*\n?)*)", found[1], re.MULTILINE):
            args[name] = " ".join(text.split())
    body = re.sub(r"^(Args|Raises|Returns):\n((?:[ ]+.*\n?|\n)+)", "", body, flags=re.MULTILINE)
    return {"text": body.strip(), "args": args, "differs": " ".join(differs.split())}
