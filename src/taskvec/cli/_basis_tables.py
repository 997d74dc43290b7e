"""What `basis` and the certificates of `analyze` print."""

from __future__ import annotations

from typing import Any

from taskvec.cli import _tables as tables
from taskvec.cli._console import counted, size

_SIZES = 12  # lines; JSON has all


def basis_parts(table: dict[str, Any]) -> list[Any]:
    """A basis: how it was made, what every task loses."""
    tasks, addition = table["tasks"], table["addition"]
    dense = {"fp32": table["dense_float32"] * len(tasks), "bf16": table["dense_bfloat16"] * len(tasks)}
    about = [
        ("method", table["method"]),
        ("sum", None if addition["scale"] is None else _sum_text(addition)),
        ("own files", _own_text(table["own_files"])),
        ("bytes", tables.beside_dense(table["bytes"], dense)),
        *(("note", note) for note in table["notes"]),
    ]
    lines = [
        (t["name"], f"{t['norm']:.4g}", _percent(t["error"]), _energy(t["error"]), "later" if t["added"] else "")
        for t in tasks
    ]
    heads = (counted(len(tasks), "task"), "norm", "error", "kept energy", "added")
    return [
        tables.heading("basis", f"{table['path']}, {counted(table['size'], 'vector')}"),
        tables.rows(about),
        "",
        tables.columns(heads, lines),
    ]


def _sum_text(addition: dict[str, float]) -> str:
    return f"of the vectors is {addition['scale']:.4g} x that of the tasks (cosine {addition['cosine']:.4f})"


def _own_text(names: list[str]) -> str:
    return f"{counted(len(names), 'task')} kept beside the basis, and used; --drop removes them" if names else "none"


def _percent(error: float | None) -> str:
    return "–" if error is None else f"{error:.2%}"


def _energy(error: float | None) -> str:
    return "–" if error is None else f"{max(0.0, 1.0 - error**2):.1%}"


def choice_parts(table: dict[str, Any]) -> list[Any]:
    """Ways to keep the tasks at equal bytes."""
    lines = [
        (
            f"{r['size']} ({'basis' if r['basis'] else 'all'})",
            r["codec"],
            size(r["bytes"]),
            f"{r['share']:.1%}",
            f"{r['worst']:.2%}",
            f"{r['rms']:.2%}",
            "" if r["fits"] else "too large",
        )
        for r in table["options"]
    ]
    heads = ("vectors", "kept as", "bytes", "of fp32", "worst task", "rms", "")
    about = [
        ("budget", f"{size(table['budget'])} of {size(table['dense'])} in fp32"),
        ("basis", table["method"]),
        ("best", table["recommendation"]),
        *(("note", note) for note in table["notes"]),
    ]
    return [tables.heading("choice", table["path"]), tables.rows(about), "", tables.columns(heads, lines, left=2)]


def sizes_parts(table: dict[str, Any]) -> list[Any]:
    """What the best basis of every size would lose, and what an average does."""
    cosine = table["largest_cosine"]
    about = [
        ("tasks", str(len(table["tasks"]))),
        ("largest cosine", None if cosine is None else f"{cosine:.3f}"),
        ("basis", "none yet; taskvec basis fit LIBRARY --size M makes one"),
    ]
    return [tables.heading("store", table["path"]), tables.rows(about), "", _size_lines(table)]


def _size_lines(table: dict[str, Any]) -> Any:
    rows = table["sizes"][1:]
    step = max(1, -(-len(rows) // _SIZES))
    lines = [
        (str(r["size"]), f"{r['tail']:.1%}", f"{r['median']:.1%}", f"{r['worst']:.1%}")
        for r in rows
        if r["size"] % step == 0 or r["size"] == len(rows)
    ]
    return tables.columns(("vectors", "lost energy", "median task", "worst task"), lines)


def certificate_parts(table: dict[str, Any]) -> list[Any]:
    """Certificates of the plain average, the best coefficients, and what a basis of each size would lose."""
    bounded = any("bound" in t for t in table["tasks"])
    best = table["optimal"]["worst"]["coefficients"]
    lines = [
        (
            t["name"],
            f"{t['q']:.4g}",
            "–" if t["relative"] is None else f"{t['relative']:.1%}",
            *([f"{t['bound']:.4g}"] if bounded else []),
            f"{best[t['name']]:.3f}",
        )
        for t in table["tasks"]
    ]
    heads = ("certificate", "q", "distance / norm", *(["loss bound"] if bounded else []), "minimax coefficient")
    about = [
        ("average of all", f"worst q {table['worst']:.4g}, mean {table['average']:.4g}"),
        ("minimax", f"worst {table['optimal']['worst']['worst']:.4g} with the coefficients below"),
        ("caveat", "; ".join(table["notes"])),
    ]
    return ["", tables.rows(about), "", tables.columns(heads, lines), "", _size_lines(table)]
