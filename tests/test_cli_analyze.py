"""`taskvec analyze` from the shell: page, data, summary, refusals; the charts by what they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import taskvec as tv
from cli_cases import adapter, call, folder, process, refused, tensors
from taskvec.report import _axes, _chart, _heat, _shapes, analysis_page


def model(seed: int) -> dict[str, torch.Tensor]:
    """Three layers of two matrices."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"attention.weight": (6, 6), "dense.weight": (8, 6), "dense.bias": (8,)}
    return {f"layer.{i}.{n}": torch.randn(s, generator=generator) for i in range(3) for n, s in shapes.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and three tuned models; we are in it."""
    for i, name in enumerate(("base", "math", "code", "a&b<i>")):
        folder(tmp_path / name, model(i))
    (tmp_path / "folder.html").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODELS = ("math", "code", "--base", "base")


class Page(HTMLParser):
    """Checks that every element is closed, and collects what a page would load."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(v) for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def test_a_page_and_the_data(here: Path) -> None:
    out = call("analyze", *MODELS, "-o", "r.html").stdout
    assert out.startswith("analyzed  2 task vectors\ntasks      math, code\n")
    assert "over 6 matrices, entrywise norm" in out
    assert out.endswith("wrote r.html\n")
    call("analyze", *MODELS, "-o", "a.json")
    base = tv.Checkpoint.open("base")
    named = {n: tv.Checkpoint.open(n) - base for n in ("math", "code")}
    assert json.loads(Path("a.json").read_text()) == json.loads(tv.analyze(named).to_json())
    page = Page(text := Path("r.html").read_text("utf-8"))
    assert page.loads == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert page.headings[0] == "Task vectors"
    assert {"Cosines", "Singular Task Interference, layer by layer", "Energy of the singular values"} <= set(
        page.headings
    )
    assert page.tags.count("svg") == 9
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_shorthand_for_interference_and_json_on_stdout(here: Path) -> None:
    data = json.loads(call("analyze", *MODELS, "--sti", "--json").stdout)
    assert data["settings"]["analyses"] == ["sti"]
    assert [row["name"] for row in data["sti"]][:2] == ["layer.0.attention.weight", "layer.0.dense.weight"]
    same = json.loads(call("analyze", *MODELS, "--only", "sti", "--json").stdout)
    assert same == data


def test_parameters_names_layout_and_a_merged_vector(here: Path) -> None:
    Path("l.yml").write_text('roles:\n  "*attention*": other\n')
    call("extract", "base", "code", "-o", "code.tv.safetensors", "--quiet")
    arguments = ("x=math", "code.tv.safetensors", "--base", "base", "--merged", "code.tv.safetensors")
    options = ("--density", "0.5", "--set", "norm=induced", "--set", "whiten=true", "--layout", "l.yml")
    data = json.loads(call("analyze", *arguments, *options, "--json").stdout)
    assert data["tasks"] == ["x", "code"]
    assert (data["settings"]["norm"], data["settings"]["density"], data["settings"]["merged"]) == (
        "induced",
        0.5,
        "given",
    )
    assert [row["name"] for row in data["sti"]] == [f"layer.{i}.dense.weight" for i in range(3)]
    assert all(row["whitened"] < 1e-12 < row["value"] and row["rank"] == 3 for row in data["sti"])
    assert all(row["value"] > 0.99 for row in data["sar"] if row["task"] == "code")


def test_vectors_of_a_store_and_adapters(here: Path) -> None:
    call("store", "create", "lib", "--base", "base")
    call("store", "add", "lib", "m", "math", "--base", "base")
    out = call("analyze", "m", "n=m", "--store", "lib").stdout
    assert re.search(r"^m +n +1\.000 .* 1\.000 +1\.000 +0\.0%$", out, re.MULTILINE)
    folder(here / "tiny", tensors(0))
    adapter(here / "lora")
    data = json.loads(call("analyze", "lora", "--base", "tiny", "--json").stdout)
    assert [row["name"] for row in data["energy"]] == ["layer.weight"]


def test_the_summary_fits_into_80_columns_and_has_the_numbers(here: Path) -> None:
    shapes = {
        f"a.very.long.prefix.layer.{i}.{kind}.projection.of.keys.weight": (6, 6) for i in range(3) for kind in "ab"
    }
    for i in range(4):
        generator = torch.Generator().manual_seed(i)
        tables = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
        tv.TaskVector.from_tensors(tables).save(here / f"a_task_with_a_long_name_{i}.tv.safetensors")
    paths = [f"a_task_with_a_long_name_{i}.tv.safetensors" for i in range(4)]
    done = process("analyze", *paths, env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = tv.analyze({p.split(".")[0]: tv.TaskVector.open(p) for p in paths})
    layer = re.search(r"^1 +(\S+) +(\S+) +(\S+)% +(\S+) +(\S+)%$", done.stdout, re.MULTILINE)
    assert layer is not None
    numbers = [
        found.profile("sti", "value", total=True)[1],
        *(
            found.profile(*of)[1]
            for of in (("energy", "effective_rank"), ("energy", "kept_0.1"), ("sar", "value"), ("conflict", "share"))
        ),
    ]
    shown = [float(text) for text in layer.groups()]
    assert shown == pytest.approx([a * b for a, b in zip(numbers, (1, 1, 100, 1, 100), strict=True)], rel=2e-3)
    assert "pair (6 of 6)" not in done.stdout
    assert len(re.findall(r"^a_task_with", done.stdout.partition("pair")[2], re.MULTILINE)) == 6


def test_matrices_that_nobody_moves_are_not_in_the_summary(here: Path) -> None:
    for i, name in enumerate("xy"):
        tables = {
            "layer.0.w": torch.randn(4, 4, generator=torch.Generator().manual_seed(i)),
            "layer.0.u": torch.zeros(4, 4),
        }
        tv.TaskVector.from_tensors(tables).save(here / f"{name}.tv.safetensors")
    out = call("analyze", "x.tv.safetensors", "y.tv.safetensors", "--sti").stdout
    assert "over 1 matrix," in out
    assert "layer.*.w" in out
    assert "layer.*.u" not in out


def test_quiet_prints_nothing(here: Path) -> None:
    assert call("analyze", *MODELS, "-o", "r.html", "--quiet").output == ""


def test_in_a_process_of_its_own(here: Path) -> None:
    done = process("analyze", *MODELS, "-o", "r.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("r.html").is_file()


def test_names_that_would_be_markup_are_text(here: Path) -> None:
    call("analyze", "a&b<i>", "math", "--base", "base", "-o", "r.html")
    text = Path("r.html").read_text("utf-8")
    Page(text)
    assert "a&amp;b&lt;i&gt;" in text
    assert "<i>" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*MODELS, "--only", "sti,grma"), "did you mean 'gram'?"),
        (("math", "--base", "base", "--sti"), "needs at least 2; it got 1"),
        (("math", "code"), "the input 'math' is a model ('math'), and there is no base"),
        ((*MODELS, "--set", "norm=nuclear"), "not one of entrywise, induced"),
        ((*MODELS, "--density", "2"), "outside (0, 1]"),
        ((*MODELS, "-o", "base/config.json"), "'base/config.json' exists"),
        ((*MODELS, "-o", "folder.html", "--force"), "'folder.html' exists"),
        ((*MODELS, "-o", "report"), "neither a page nor data"),
        ((*MODELS, "-o", "nowhere/r.html"), "no folder 'nowhere'"),
        ((*MODELS, "--layout", "missing.yml"), "missing.yml"),
    ],
)
def test_refusals_leave_nothing_behind(here: Path, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(here.rglob("*"))
    assert message in refused("analyze", *arguments)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "VECTOR"),
        ((*MODELS, "--sti", "--only", "gram"), "exclude each other"),
        (("math", "./math", "--base", "base"), "two inputs are named 'math'"),
    ],
)
def test_calls_that_make_no_sense(here: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in " ".join(call("analyze", *arguments, code=2).stderr.split())


def test_force_replaces(here: Path) -> None:
    Path("r.html").write_text("old")
    call("analyze", *MODELS, "-o", "r.html", "--force")
    assert Path("r.html").read_text().startswith("<!DOCTYPE html>")


def test_models_of_two_bases_are_refused(here: Path) -> None:
    call("extract", "base", "math", "-o", "m.tv.safetensors", "--quiet")
    call("extract", "math", "code", "-o", "c.tv.safetensors", "--quiet")
    assert "cut from two bases" in refused("analyze", "m.tv.safetensors", "c.tv.safetensors")


# --- charts ----------------------------------------------------------------------------------------------------------


def texts(svg: str) -> list[str]:
    return [str(node.text) for node in ElementTree.fromstring(svg).iter("text")]


def test_a_heat_map_shows_every_number_and_colors_by_size() -> None:
    names = ["a", "b"]
    svg = _heat.heat_map(names, names, [[None, -0.5], [0.25, 1.0]], title="t", limits=(-1.0, 1.0))
    assert [t for t in texts(svg) if t not in "ab"] == ["–", "-0.50", "0.25", "1.00"]
    cells = [(n.get("fill"), n.get("fill-opacity")) for n in ElementTree.fromstring(svg).iter("rect")]
    blue, red = "#2166ac", "#b2182b"
    assert cells == [(blue, "0.000"), (red, "0.500"), (blue, "0.250"), (blue, "1.000")]
    equal = ElementTree.fromstring(_heat.heat_map(names, names, [[5, 5], [5, 5]], title="t"))
    assert {node.get("fill-opacity") for node in equal.iter("rect")} == {"0.000"}


def test_a_line_chart_places_points_to_scale() -> None:
    axes = _axes.even([0, 2], "h"), _axes.even([0, 10], "v", zero=True)
    lines = {"x": [(0, 0.0), (1, 5.0), (2, 10.0)], "y": [(1, 0.0)]}
    svg = ElementTree.fromstring(_chart.line_chart(lines, title="t", horizontal=axes[0], vertical=axes[1]))
    points = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in svg.iter("circle")]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y2 < y1 < y0
    assert (x3, y3) == (x1, y0)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1234.5, "1,234"), (0.012345, "0.0123"), (-2.5, "-2.50"), (1e-9, "1.00e-09")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert _shapes.number(value) == text


def test_no_number_is_too_wide_for_its_cell() -> None:
    for value in (0.0, -0.00264, 9.99, 99_999.0, -12_345.0, 1e-30, -1e-30, 3e12):
        assert len(_heat.brief(value)) <= 6


@pytest.mark.parametrize("tables", [{"w": torch.zeros(3, 3)}, {"b": torch.ones(2)}, {"w": torch.ones(3, 3)}])
def test_a_page_of_next_to_nothing(tables: Mapping[str, torch.Tensor]) -> None:
    for vectors in ([tables], [tables, tables]):
        found: Any = tv.analyze([tv.TaskVector.from_tensors(t) for t in vectors])
        page = Page(analysis_page(found, title="a < b"))
        assert page.headings[0] == "a < b"
        assert len(page.headings) == 1 + len(found.names())
