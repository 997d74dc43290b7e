"""`adapter_config.json` of PEFT: what of it taskvec understands, and a refusal by name of all the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from taskvec.checkpoint.files import inside, read_json
from taskvec.checkpoint.open import ADAPTER_CONFIG
from taskvec.errors import FormatError

# Read here, or without influence on the weights once the adapter is trained.
_UNDERSTOOD = frozenset(
    [
        "peft_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "fan_in_fan_out",
        "bias",
        "modules_to_save",
        "init_lora_weights",
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "auto_mapping",
        "peft_version",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",
        "runtime_config",
    ]
)
_LABELS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "aLoRA",
    "layer_replication": "layer replication",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "LoRA on parameters",
    "lora_bias": "biases of B",
    "megatron_config": "Megatron layers",
    "ensure_weight_tying": "tied adapters",
}
# The starts that leave the base as it is; the others (pissa, olora, corda, loftq, lora_ga, ...) change it.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_MERGE = "merge it with PEFT and subtract the base from the merged checkpoint."


@final
@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The checked numbers of a LoRA adapter; patterns are PEFT's: a regular expression for the end of a name."""

    path: Path
    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]
    fan_in_fan_out: bool
    base_name: str

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Read and check the configuration in `folder`.

        Raises:
            FormatError: not a LoRA adapter, or one that uses what taskvec does not support; says what by name.
        """
        inside(folder, folder, ADAPTER_CONFIG)
        path = folder / ADAPTER_CONFIG
        table = read_json(path)
        if not isinstance(table, dict):
            raise FormatError(f"'{path}' is not a table.", "save the adapter again with PEFT.")
        _refuse_unsupported(path, table)
        return cls(
            path,
            rank=_number(path, "r", table.get("r", 8), whole=True),
            alpha=_number(path, "lora_alpha", table.get("lora_alpha", 8)),
            rslora=bool(table.get("use_rslora")),
            ranks=_patterns(path, "rank_pattern", table, whole=True),
            alphas=_patterns(path, "alpha_pattern", table),
            fan_in_fan_out=bool(table.get("fan_in_fan_out")),
            base_name=str(table.get("base_model_name_or_path") or ""),
        )

    def rank_of(self, module: str) -> int:
        """The rank of one module."""
        return int(_matching(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What B·A is multiplied by: alpha / rank, or alpha / √rank for rank-stabilised LoRA."""
        rank, alpha = self.rank_of(module), float(_matching(self.alphas, module, self.alpha))
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the whole name or its end after a dot, as PEFT does it."""
    found = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, patterns.get(module, default))


def _refuse_unsupported(path: Path, table: Mapping[str, Any]) -> None:
    kind = table.get("peft_type")
    if kind != "LORA":
        raise FormatError(f"'{path}' is a PEFT adapter of the type {kind!r}; only LORA is supported.", _MERGE)
    for key, value in table.items():
        if value and key not in _UNDERSTOOD:
            label = f"{_LABELS[key]} ({key})" if key in _LABELS else f"'{key}'"
            raise FormatError(f"'{path}' uses {label}, which is not supported.", _MERGE)
    start = table.get("init_lora_weights", True)
    if not any(start is s or (isinstance(s, str) and start == s) for s in _STARTS):
        raise FormatError(
            f"'{path}' has init_lora_weights={start!r}, which changed the base's own weights before training.",
            "save it with PEFT's path_initial_model_for_weight_conversion, or " + _MERGE,
        )


def _number(path: Path, key: str, value: Any, *, whole: bool = False) -> Any:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (whole and (not isinstance(value, int) or value < 1)):
        kind = "a positive whole number" if whole else "a number"
        raise FormatError(f"'{path}' has {key} = {str(value)[:60]!r}, which is not {kind}.", "save the adapter again.")
    return value


def _patterns(path: Path, key: str, table: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    patterns = table.get(key) or {}
    if not isinstance(patterns, dict):
        raise FormatError(f"'{path}' has a {key} that is not a table.", "save the adapter again.")
    for pattern, value in patterns.items():
        _number(path, f"{key}['{pattern}']", value, whole=whole)
        try:
            re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise FormatError(
                f"'{path}' has the {key} '{pattern}', which is not a regular expression: {error}.", "repair it."
            ) from error
    return patterns
