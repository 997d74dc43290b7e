"""Opening a PEFT LoRA adapter: which tensors of the base it moves, and by what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from taskvec import edited  # noqa: F401  # Checkpoint + TaskVector is defined there
from taskvec.adapters.config import AdapterConfig
from taskvec.adapters.lora import LoraDelta, Pair, Part
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.files import ADAPTER, FileSource, inside, open_file
from taskvec.checkpoint.source import AbstractSource, TensorSpec
from taskvec.errors import FormatError, SchemaError
from taskvec.vector import TaskVector

PREFIX = "base_model.model."
_WRAPPED = ".base_layer."  # PEFT's name for the module that it wraps
_LINEAR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<side>[AB])")
_FOREIGN = re.compile(r"\.(lora_\w+|trainable_tokens_delta|token_adapter)(\.|$)")


@final
@dataclass(frozen=True, slots=True)
class _Target:
    """One thing the adapter moves, under the adapter's own names; `kind` is linear, embedding, kernel or saved."""

    name: str
    kind: str
    a: str = ""
    b: str = ""
    scale: float = 1.0


def open_adapter(path: Path, base: Checkpoint | None = None) -> LoraDelta:
    """The displacement of the adapter in the folder `path`; reads headers only.

    With `base`, names are matched to it: as they are, else with one prefix added or removed throughout. Without it,
    the adapter's own names are taken, and `fan_in_fan_out` of its configuration is believed.

    Raises:
        FormatError: damaged, or an adapter of a kind that is not supported (named).
        SchemaError: it does not fit the base, or carries whole tensors and no base is given.
    """
    config = AdapterConfig.read(path)
    source = _open_weights(path)
    targets = list(_targets(source, config))
    if base is None:
        found = {target: _unmatched(target, source) for target in targets}
    else:
        found = _matched(targets, base.source, config, source)
    flipped = _flipped(found, source, base, config)
    parts: dict[str, Part] = {}
    for target, name in found.items():
        pair = Pair(target.a, target.b, target.scale, flipped(target, name)) if target.kind != "saved" else None
        part = _part(target, pair, name, source, base)
        parts[name] = _joined(parts[name], part, name, source) if name in parts else part
    if not parts:
        raise FormatError(f"{source.describe()} moves no tensor.", "save the adapter again.")
    return LoraDelta(source, parts, base)


def _joined(first: Part, second: Part, name: str, source: AbstractSource) -> Part:
    """A whole tensor and a pair for the same name: PEFT saves a targeted embedding together with its base."""
    if (first.pair is None) == (second.pair is None):
        raise FormatError(f"{source.describe()} moves '{name}' twice.", "save the adapter again.")
    return replace(first, pair=first.pair or second.pair, saved=first.saved or second.saved)


def _open_weights(path: Path) -> AbstractSource:
    for name in (ADAPTER, "adapter_model.bin"):
        if (path / name).is_file():
            inside(path, path, name)
            return FileSource(path, {name: open_file(path / name)}, single=False)
    raise FormatError(f"'{path}' has an adapter_config.json and no {ADAPTER}.", "download the adapter again.")


def _targets(source: AbstractSource, config: AdapterConfig) -> Iterator[_Target]:
    keys = [*source.specs, *source.ties]
    prefixed = all(key.startswith(PREFIX) for key in keys)
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for key in keys:
        name = key.removeprefix(PREFIX) if prefixed else key
        kinds = (("linear", _LINEAR.fullmatch(name)), ("embedding", _EMBEDDING.fullmatch(name)))
        kind, match = next(((k, m) for k, m in kinds if m), ("", None))
        if match is not None:
            pairs.setdefault((match["module"], kind), {})[match["side"]] = key
        elif _FOREIGN.search(name):
            raise FormatError(f"{source.describe()} holds '{key}', which is not supported.", "merge it with PEFT.")
        else:
            yield _Target(name.replace(_WRAPPED, "."), "saved", a=key)
    for (module, kind), sides in pairs.items():
        yield _pair_target(module, kind, sides, source, config)


def _pair_target(
    module: str, kind: str, sides: Mapping[str, str], source: AbstractSource, config: AdapterConfig
) -> _Target:
    where = f"module '{module}' in {source.describe()}"
    if sides.keys() != {"A", "B"}:
        raise FormatError(f"{where} has only one of its two factors.", "save the adapter again.")
    a, b = source.spec(sides["A"]), source.spec(sides["B"])
    if _WRAPPED in module:
        raise FormatError(
            f"{where} is inside a torch MultiheadAttention, which is not supported: PEFT's own delta and its merged "
            "weights of the output projection differ by a factor of two.",
            "merge it with PEFT and subtract the base from the merged checkpoint.",
        )
    rank = config.rank_of(module)
    if not (a.dtype.moves and b.dtype.moves) or len(a.shape) != len(b.shape) or len(a.shape) < 2:
        raise FormatError(f"{where} has the factors {a} and {b}.", "save the adapter again.")
    if len(a.shape) > 2 and b.shape[1] != a.shape[0]:
        raise FormatError(f"{where} is a grouped convolution, which is not supported: {a} and {b}.", "leave it out.")
    if a.shape[0] != rank or b.shape[1] != rank or any(n != 1 for n in b.shape[2:]) or 0 in a.shape + b.shape:
        raise FormatError(f"{where} has the factors {a} and {b}, and its rank is {rank}.", "save the adapter again.")
    kind = "kernel" if len(a.shape) > 2 else kind
    return _Target(f"{module}.weight", kind, sides["A"], sides["B"], config.scale_of(module))


def _unmatched(target: _Target, source: AbstractSource) -> str:
    if target.kind == "saved":
        raise SchemaError(
            f"{source.describe()} carries the whole tensor '{target.a}' (a bias, or modules_to_save), and a "
            "displacement needs the base's value of it.",
            "give the base: TaskVector.open(path, base=base), or 'base+adapter'.",
        )
    return target.name


def _matched(
    targets: list[_Target], base: AbstractSource, config: AdapterConfig, source: AbstractSource
) -> dict[_Target, str]:
    """The base's name of each target: exact, else by the one prefix that, added or removed, fits all of them."""
    known = {*base.specs, *base.ties}

    def under(sign: str, prefix: str) -> dict[_Target, str]:
        names = {t: _renamed(t.name, sign, prefix) for t in targets}
        return {t: name for t, name in names.items() if name in known}

    exact = under("+", "")
    if len(exact) == len(targets):
        return _untied(exact, base)
    first = next(t for t in targets if t not in exact)
    fits: dict[str, dict[_Target, str]] = {}
    for sign, prefix in _prefixes(first, known):
        found = under(sign, prefix)
        if len(found) == len(targets):
            fits[f"{sign}'{prefix}'"] = found
    if len(fits) > 1:
        raise SchemaError(
            f"the names of {source.describe()} fit {base.describe()} in several ways: prefix {', '.join(fits)}.",
            "use the model that the adapter was trained on as the base.",
        )
    if not fits:
        hint = f" ('{config.base_name}')" if config.base_name else ""
        raise SchemaError(
            f"{source.describe()} moves '{first.name}', which {base.describe()} does not have.",
            f"use the model that the adapter was trained on{hint} as the base.",
        )
    return _untied(next(iter(fits.values())), base)


def _renamed(name: str, sign: str, prefix: str) -> str:
    if sign == "+":
        return prefix + name
    return name[len(prefix) :] if name.startswith(prefix) else ""


def _prefixes(target: _Target, known: set[str]) -> Iterator[tuple[str, str]]:
    """The prefixes that make a name of `known` from the target's when added ("+") or removed ("-")."""
    for other in sorted(known):
        if other.endswith("." + target.name):
            yield "+", other[: -len(target.name)]
    cuts = [at + 1 for at, c in enumerate(target.name) if c == "."]
    yield from (("-", target.name[:at]) for at in cuts if target.name[at:] in known)


def _untied(found: dict[_Target, str], base: AbstractSource) -> dict[_Target, str]:
    for name in found.values():
        if name in base.ties:
            raise SchemaError(
                f"the adapter moves '{name}', which is tied to '{base.ties[name]}' in {base.describe()}.",
                f"save the base with '{name}' as a tensor of its own.",
            )
    return found


def _flipped(
    found: Mapping[_Target, str], source: AbstractSource, base: Checkpoint | None, config: AdapterConfig
) -> Callable[[_Target, str], bool]:
    """Whether a tensor is stored as the transpose of B·A: embeddings are, and linear maps with fan_in_fan_out.

    PEFT decides by the class of each module and keeps only the last decision in the file, so shapes decide here; a
    square matrix follows the file unless the others contradict it.
    """
    shapes = {t: _straight(t, source) for t in found if t.kind == "linear"}
    seen = {
        base.source.spec(found[t]).shape == shape[::-1] for t, shape in shapes.items() if base and shape[0] != shape[1]
    }

    def flipped(target: _Target, name: str) -> bool:
        shape = shapes.get(target)
        if shape is None:
            return target.kind == "embedding"
        if base is not None and shape[0] != shape[1]:
            return base.source.spec(name).shape == shape[::-1]
        if seen - {config.fan_in_fan_out}:
            raise SchemaError(
                f"'{name}' is square, and '{config.path}' says fan_in_fan_out={config.fan_in_fan_out} while the shapes "
                "of other tensors say otherwise: its orientation is not known.",
                "correct fan_in_fan_out, or merge the adapter with PEFT.",
            )
        return config.fan_in_fan_out

    return flipped


def _straight(target: _Target, source: AbstractSource) -> tuple[int, ...]:
    """The shape of B·A."""
    return (source.spec(target.b).shape[0], *source.spec(target.a).shape[1:])


def _part(target: _Target, pair: Pair | None, name: str, source: AbstractSource, base: Checkpoint | None) -> Part:
    if pair is None:
        found = source.spec(target.a)
    else:
        shape = _straight(target, source)
        found = TensorSpec(shape[::-1] if pair.transposed else shape, source.spec(target.b).dtype)
    before = base.source.spec(name) if base is not None else found
    movable = before.dtype.moves and found.dtype.moves
    if before.shape != found.shape or not (movable or (pair is None and before.dtype == found.dtype)):
        raise SchemaError(
            f"{source.describe()} has '{name}' as {found}; in the base it is {before}.",
            "use the model that the adapter was trained on (with its vocabulary, if that was resized) as the base.",
        )
    return Part(before, pair, None if pair is not None else target.a)


def _adapt(base: Checkpoint, path: Path) -> Checkpoint:
    return base + TaskVector(((1.0, open_adapter(path, base)),))


Checkpoint.adapt = staticmethod(_adapt)
