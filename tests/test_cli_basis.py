"""`taskvec basis` and `taskvec analyze --certificates` from the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import taskvec as tv
from cli_cases import call, called_json, folder, refused, tensors

NAMES = ("math", "code", "chat", "toxic")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, four tuned models and a store of them; we are in it."""
    base = tensors(0)
    folder(tmp_path / "base", base)
    monkeypatch.chdir(tmp_path)
    call("store", "create", "library", "--base", "base", "--quiet")
    common = tensors(9)
    for i, name in enumerate(NAMES):
        own = tensors(i + 1)
        moved = {
            n: (t + 0.01 * ((i + 1) * own[n] + common[n])).to(t.dtype) if t.is_floating_point() else t
            for n, t in base.items()
        }
        folder(tmp_path / name, moved)
        call("store", "add", "library", name, name, "--base", "base", "--quiet")
    return tmp_path


def test_before_there_is_a_basis_every_size_is_shown(here: Path) -> None:
    table = called_json("basis", "show", "library")
    assert (table["kind"], len(table["sizes"])) == ("sizes", 5)
    out = call("basis", "show", "library").stdout
    for word in ("none yet", "lost energy", "worst task", "largest cosine"):
        assert word in out


def test_fit_keeps_the_tasks_own_files_unless_told_otherwise(here: Path) -> None:
    table = called_json("basis", "fit", "library", "--size", "2")
    assert (table["kind"], table["method"], table["size"]) == ("basis", "addition_exact", 2)
    assert table["own_files"] == list(NAMES)
    assert table["addition"]["scale"] == pytest.approx(0.5)
    assert [t["name"] for t in table["tasks"]] == list(NAMES)
    shown = call("basis", "show", "library").stdout
    for word in ("addition_exact", "2 vectors", "kept energy", "--drop removes them", "0.5 x that of the tasks"):
        assert word in shown
    assert "has a basis" in refused("basis", "fit", "library", "--size", "3")
    table = called_json("basis", "fit", "library", "--size", "2", "--force", "--drop", "--dtype", "bf16")
    assert table["own_files"] == []
    assert called_json("basis", "show", "library")["tasks"] == table["tasks"]
    rows = called_json("store", "list", "library")
    assert {v["codec"] for v in rows["vectors"]} == {"basis"}
    assert rows["total"] == rows["shared"]
    assert "recovered from the basis" in call("store", "show", "library", "math").stdout
    assert called_json("store", "show", "library", "math")["codec"]["name"] == "basis"
    assert "shared" in call("store", "list", "library").stdout
    call("store", "verify", "library")


def test_options_of_the_method_and_of_the_codec(here: Path) -> None:
    table = called_json("basis", "fit", "library", "--method", "cluster", "--size", "2", "--set", "inner=ties")
    assert table["method"] == "cluster"
    assert set(table["report"]["labels"]) == {0, 1}
    table = called_json("basis", "fit", "library", "--size", "1", "--normalize", "--codec", "int8", "--force")
    assert table["size"] == 1
    assert "no option 'outer'" in refused("basis", "fit", "library", "--size", "1", "--force", "--set", "outer=ties")
    assert "no basis method named 'pcb'" in refused(
        "basis", "fit", "library", "--size", "1", "--force", "--method", "pcb"
    )
    assert "size is not given" in refused("basis", "fit", "library", "--force")
    assert "size=0" in refused("basis", "fit", "library", "--size", "0", "--force")


def test_as_many_vectors_as_tasks_come_with_a_note(here: Path) -> None:
    out = call("basis", "fit", "library", "--size", "7", "--drop").stdout
    assert "the tasks themselves are kept" in out
    call("apply", "base", "math", "-o", "out", "--store", "library")
    from safetensors.torch import load_file

    ours, theirs = (load_file(next(Path(p).glob("*.safetensors"))) for p in ("out", "math"))
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_negating_what_does_not_come_back_is_refused_with_its_number(here: Path) -> None:
    call("basis", "fit", "library", "--size", "1", "--drop", "-q")
    worst = max(called_json("basis", "show", "library")["tasks"], key=lambda t: t["error"])
    message = refused("apply", "base", f"0.5*math - {worst['name']}", "-o", "out", "--store", "library")
    assert f"'{worst['name']}' comes back from the basis with a relative error of {worst['error']:.2f}" in message
    assert not Path("out").exists()
    call("apply", "base", f"0.5*math + {worst['name']}", "-o", "out", "--store", "library")
    call("apply", "base", f"0.5*math - {worst['name']}", "-o", "out", "--store", "library", "--force")
    call(
        "apply",
        "base",
        f"-{worst['name']}",
        "-o",
        "own",
        "--vectors",
        f"{worst['name']}={worst['name']}",
        "--store",
        "library",
    )


def test_a_task_joins_the_basis_from_the_shell(here: Path) -> None:
    call("basis", "fit", "library", "--size", "2", "--drop", "-q")
    folder(here / "late", {n: t + 0.01 if t.is_floating_point() else t for n, t in tensors(0).items()})
    table = called_json("store", "add", "library", "late", "late", "--base", "base", "--codec", "basis")
    assert table["codec"]["name"] == "basis"
    assert [t["name"] for t in called_json("basis", "show", "library")["tasks"] if t["added"]] == ["late"]


def test_a_budget_compares_bases_with_fewer_bits(here: Path) -> None:
    table = called_json("basis", "show", "library", "--budget", "50%")
    assert (table["kind"], table["tasks"]) == ("choice", list(NAMES))
    assert {r["codec"] for r in table["options"]} == {"float32", "bfloat16", "int8", "int4", "tsv"}
    out = call("basis", "show", "library", "--budget", "50%", "--precisions", "float32,bfloat16").stdout
    for word in ("do not use a basis: keep all 4 vectors in bfloat16", "worst task", "of fp32", "(basis)"):
        assert word in " ".join(out.split())
    assert "no part of the whole" in refused("basis", "show", "library", "--budget", "x%")
    assert "no precision named" in refused("basis", "show", "library", "--budget", "9%", "--precisions", "int7")


def test_stores_without_vectors_have_nothing_to_show(here: Path) -> None:
    call("store", "create", "empty", "--base", "base", "-q")
    assert "no vectors" in refused("basis", "fit", "empty", "--size", "2")
    assert "no vectors" in refused("basis", "show", "empty")


def test_certificates_join_the_analysis(here: Path) -> None:
    vectors = [f"{n}={n}" for n in NAMES]
    table = called_json("analyze", *vectors, "--base", "base", "--only", "gram", "--certificates")
    assert [row["name"] for row in table["certificates"]] == list(NAMES)
    assert "bound" not in table["certificates"][0]
    assert sum(row["worst"] for row in table["optimal"]) == pytest.approx(1.0)
    assert [row["size"] for row in table["sizes"]] == [0, 1, 2, 3, 4]
    options = ("--base", "base", "--only", "gram", "--certificates", "--smoothness", "4")
    table = called_json("analyze", *vectors, *options)
    assert all(row["bound"] == pytest.approx(2.0 * row["q"]) for row in table["certificates"])
    out = call("analyze", *vectors, *options, "-o", "page.html").stdout
    for word in ("certificate", "loss bound", "minimax", "lost energy"):
        assert word in out
    assert "certificates" in Path("page.html").read_text()
    call("analyze", *vectors, *options[:-3], "-o", "data.json", "-q")
    assert "certificates" not in json.loads(Path("data.json").read_text())
    call("analyze", *vectors, "--base", "base", "--smoothness", "4", code=2)


def test_a_task_of_norm_zero_has_no_relative_error(here: Path) -> None:
    call("store", "add", "library", "still", "base", "--base", "base", "-q")
    table = called_json("basis", "fit", "library", "--size", "1", "--method", "cluster", "--drop")
    assert table["tasks"][-1] | {"coefficients": []} == {
        "name": "still",
        "norm": 0.0,
        "error": None,
        "coefficients": [],
        "added": False,
    }
    assert called_json("store", "list", "library")["vectors"][-1]["error"] is None
    assert "–" in call("store", "list", "library").stdout
    assert "–" in call("basis", "show", "library").stdout
    assert "the task is 0" in call("store", "show", "library", "still").stdout
    assert called_json("store", "show", "library", "still")["error"]["total"] is None
    assert "relative error of inf" in refused("apply", "base", "-still", "-o", "out", "--store", "library")


def test_no_way_of_subtracting_gets_around_the_refusal(here: Path) -> None:
    call("basis", "fit", "library", "--size", "1", "--drop", "-q")
    table = called_json("basis", "show", "library")["tasks"]
    worst = max(table, key=lambda t: t["error"])
    number = f"'{worst['name']}' comes back from the basis with a relative error of {worst['error']:.2f}"
    other = next(t["name"] for t in table if t["name"] != worst["name"])
    for name in NAMES:
        (here / name).rename(here / f"tuned-{name}")  # else a name means two things
    base = ("--base", "base", "--store", "library", "--method", "task_arithmetic")
    negative = ("--set", "coefficients=[1, -0.5]")
    for command in (("merge", "-o", "out"), ("plan",)):
        assert number in refused(*command, other, worst["name"], *base, *negative)
        assert number in refused(*command, worst["name"], *base, "--scale", "-1")
    assert not Path("out").exists()
    call("merge", "-o", "out", other, worst["name"], *base)
    call("merge", "-o", "out", other, worst["name"], *base, *negative, "--force")
    call("merge", "-o", "twice", worst["name"], *base, "--set", "coefficients=-1", "--scale", "-1")


def test_a_store_guards_expressions_in_python(here: Path) -> None:
    from taskvec.errors import ParameterError
    from taskvec.expression import evaluate

    call("basis", "fit", "library", "--size", "1", "--drop", "-q")
    store = tv.Store.open("library")
    worst = max(store.names(), key=store.error)
    other = next(n for n in store.names() if n != worst)
    with pytest.raises(ParameterError, match=f"{store.error(worst):.2f}"):
        evaluate(f"{other} - 0.1 * {worst}", store)
    evaluate(f"{other} - {worst} + 2 * {worst}", store)
    forced = evaluate(f"{other} - {worst}", store, force=True)
    name = forced.names()[0]
    assert torch.allclose(forced[name], (store[other] - store[worst])[name])
