"""Documents that are generated are fresh, and examples run."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import taskvec as tv
from cli_cases import call
from merge_cases import save_model
from taskvec.methods import _method
from taskvec.methods._describe import describe, sections

ROOT = Path(__file__).resolve().parents[1]
NAMES = {f"encoder.layer.{i}.attention.weight": (4, 4) for i in range(6)} | {"pooler.dense.weight": (4, 4)}


def generator() -> Any:
    """scripts/method_pages.py as a module."""
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "scripts" / "method_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with base, math, code and chat."""
    for i, name in enumerate(("base", "math", "code", "chat")):
        generator = torch.Generator().manual_seed(i)
        save_model(tmp_path / name, {n: torch.randn(s, generator=generator) for n, s in NAMES.items()})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_of_the_methods_are_fresh(tmp_path: Path) -> None:
    """Otherwise: `python scripts/method_pages.py`. A page that was edited or is of no method is found."""
    module = generator()
    assert module.stale() == []
    shutil.copytree(ROOT / "docs" / "methods", tmp_path / "methods")
    shutil.copy(ROOT / "docs" / "differences.md", tmp_path)
    assert module.stale(tmp_path) == []
    (tmp_path / "methods" / "ties.md").write_text("edited")
    (tmp_path / "methods" / "gone.md").write_text("")
    assert module.stale(tmp_path) == ["methods/gone.md", "methods/ties.md"]


@pytest.mark.parametrize("name", tv.methods.names())
def test_every_method_says_where_it_comes_from_and_how_it_differs(name: str) -> None:
    """Source, summary, the difference, and a word on each parameter."""
    table = describe(tv.methods.get(name))
    assert table["source"]
    assert table["summary"].endswith(".")
    assert table["differs"]
    assert not [p["name"] for p in table["parameters"] if not p["text"]]


def test_docstrings_fall_into_their_sections() -> None:
    """Summary, text, arguments over several lines, the difference."""
    found = sections(
        "Do it.\n\nText\nof two lines.\n\nArgs:\n    a: one,\n        two.\n    b: three.\n\n"
        "Raises:\n    Error: x.\n\nDiffers from the paper: in this\n    and that."
    )
    assert found == {
        "text": "Text\nof two lines.",
        "args": {"a": "one, two.", "b": "three."},
        "differs": "in this and that.",
    }


@pytest.mark.usefixtures("models")
def test_the_recipes_of_the_page_on_merging_run() -> None:
    """Every YAML block is planned and built; the Python block and the flags write what the first one does."""
    recipes = [text for text in blocks("merging.md", "yaml") if not text.startswith("# layout.yml")]
    assert len(recipes) == 4
    for i, text in enumerate(recipes):
        Path(f"{i}.yml").write_text(text)
        recipe = tv.Recipe.read(f"{i}.yml")
        assert recipe.plan().tensors
        recipe.run(f"merged-{i}")
    (code,) = blocks("merging.md", "python")
    exec(code, {})
    (flags,) = re.findall(
        r"^taskvec merge --method(.*)-o merged$", (ROOT / "docs/merging.md").read_text(), re.MULTILINE
    )
    call("merge", "--method", *flags.split(), "-o", "by-flags")
    for other in ("merged", "by-flags"):
        for file in Path("merged-0").iterdir():
            assert (Path(other) / file.name).read_bytes() == file.read_bytes()


def test_the_layout_and_the_flags_of_the_page_on_merging_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shapes = {"h.0.attn.qkv.weight": (12, 4), "embed_tokens.weight": (9, 4)}
    for seed, name in enumerate(("base", "math", "code")):
        numbers = torch.Generator().manual_seed(seed)
        save_model(Path(name), {n: torch.randn(shape, generator=numbers) for n, shape in shapes.items()})
    (layout,) = [text for text in blocks("merging.md", "yaml") if text.startswith("# layout.yml")]
    Path("layout.yml").write_text(layout)
    page = (ROOT / "docs/merging.md").read_text("utf-8")
    for name in ("in-parts", "aligned"):
        (flags,) = re.findall(rf"^taskvec merge (--method .* -o {name})$", page, re.MULTILINE)
        call("merge", *flags.split())
    assert "rows 3" in Path("in-parts/README.md").read_text("utf-8")
    base = tv.Checkpoint.open("base")
    moved = {name: tv.Checkpoint.open(name) - base for name in ("math", "code")}
    average = base + tv.merge("average", moved)
    assert torch.equal(tv.Checkpoint.open("in-parts")["embed_tokens.weight"], average["embed_tokens.weight"])


@pytest.mark.usefixtures("models")
def test_the_code_of_the_page_on_bases_runs() -> None:
    """What its comments say is true."""
    (code,) = blocks("bases.md", "python")
    found: dict[str, Any] = {}
    exec(code, found)
    basis, store, vectors = found["basis"], found["store"], found["vectors"]
    total = sum(vectors.values())
    assert all(torch.allclose(found["total"][n], total[n], atol=1e-5) for n in NAMES)
    assert Path("edited").is_dir()
    assert len(list(Path("library/shared").iterdir())) == basis.size == 2
    assert list(Path("library/vectors").iterdir()) == []
    assert all(basis.error(n) == pytest.approx(store.error(n), rel=0.01) for n in vectors)


def test_the_method_of_the_page_on_extending_runs(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under 40 lines; in `merge`, in a recipe and in `methods`; against the same in plain torch."""
    monkeypatch.setattr(_method, "_methods", dict(_method._methods))
    (code,) = blocks("extending.md", "python")
    assert len(code.splitlines()) < 40
    exec(code, {"__name__": "clipped_mean"})
    recipe = tv.Recipe.of("clipped_mean", ["math", "code"], base="base", parameters={"limit": 0.5})
    merged = recipe.build()
    start = tv.Checkpoint.open(models / "base")
    for name in NAMES:
        deltas = torch.stack([tv.Checkpoint.open(models / n)[name] - start[name] for n in ("math", "code")])
        bound = 0.5 * deltas.square().mean((1, 2), keepdim=True).sqrt()
        torch.testing.assert_close(merged[name], start[name] + deltas.clamp(-bound, bound).mean(0))
    assert recipe.plan().passes == 2
    shown = call("methods", "clipped_mean").stdout
    assert "none larger than" in shown or "clipped to" in shown
    assert "(0, ∞)" in shown
