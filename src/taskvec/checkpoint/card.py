"""What goes beside the tensors of a merged model: the base's side files and a model card with the recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from taskvec.checkpoint.durable import fsync, write_durably
from taskvec.checkpoint.files import INDEX, lawful
from taskvec.checkpoint.source import AbstractSource, Home

_TORCH = ".safetensors .bin .pt .pth .ckpt .pkl .pickle .index.json"
_OTHERS = ".h5 .keras .msgpack .npz .onnx .onnx_data .gguf .tflite .ot"
WEIGHTS = (*_TORCH.split(), *_OTHERS.split())


def write_side_files(source: AbstractSource, folder: Path, recipe: Mapping[str, Any]) -> None:
    """Copy config, tokenizer and the like from the base's folder into `folder`, and write README.md, the card."""
    home = source.home
    if home is not None and not home.single:
        for path, relative in _side_files(home):
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            if relative.name == "config.json":
                _restate_dtype(target, source)
            fsync(target)
    write_durably(folder / "README.md", model_card(home, recipe))


def _side_files(home: Home) -> Iterator[tuple[Path, Path]]:
    for path in sorted(home.path.rglob("*")):
        relative = path.relative_to(home.path)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or not path.is_file() or _is_weights(path.name) or relative == Path("README.md"):
            continue
        if relative.parent != Path(".") and not _belongs(home, relative):
            continue
        if lawful(home.path, path):
            yield path, relative


def _is_weights(name: str) -> bool:
    return name.endswith(WEIGHTS) or INDEX.fullmatch(name) is not None


def _belongs(home: Home, relative: Path) -> bool:
    """Whether a file in a subfolder is part of the model: its folder holds weights or is named by modules.json."""
    top = relative.parts[0]
    if any(shard.startswith(top + "/") for shard in home.shards):
        return True
    for index in ("modules.json", "model_index.json"):
        path = home.path / index
        if path.is_file() and f'"{top}"' in path.read_text("utf-8", errors="replace"):
            return True
    return False


def _restate_dtype(config: Path, source: AbstractSource) -> None:
    """Make config.json say the dtype that was written, where it says one and all moving tensors share it."""
    dtypes = {s.dtype.torch for s in source.specs.values() if s.dtype.moves}
    try:
        table = json.loads(config.read_text("utf-8"))
    except ValueError:
        return
    stale = [k for k in ("torch_dtype", "dtype") if isinstance(table, dict) and isinstance(table.get(k), str)]
    if len(dtypes) != 1 or not stale or all(table[k] in dtypes for k in stale):
        return
    table |= {k: next(iter(dtypes)) for k in stale}
    config.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_card(home: Home | None, recipe: Mapping[str, Any]) -> str:
    """A README.md in the hub's convention: base_model, base_model_relation: merge, and the recipe."""
    base = str(recipe.get("base", {}).get("name", "")) if isinstance(recipe.get("base"), Mapping) else ""
    front: dict[str, Any] = {"base_model": [base] if base else [], "base_model_relation": "merge"}
    front["tags"] = ["merge", "taskvec", "task-arithmetic"]
    front |= _license(home)
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()
    shown = yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=False, allow_unicode=True).strip()
    about = f"An edit of `{base}`" if base else "An edited model"
    return f"---\n{text}\n---\n\n# Merged model\n\n{about}, made with taskvec.\n\n## Recipe\n\n```yaml\n{shown}\n```\n"


def _license(home: Home | None) -> dict[str, Any]:
    """The license fields of the base's own card: a merge may not drop them."""
    card = home.path / "README.md" if home is not None and not home.single else None
    if card is None or not card.is_file():
        return {}
    parts = card.read_text("utf-8", errors="replace").split("---\n", 2)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        front = None
    keys = ("license", "license_name", "license_link", "pipeline_tag", "library_name", "language")
    return {k: front[k] for k in keys if k in front} if isinstance(front, dict) else {}
