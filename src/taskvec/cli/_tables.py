"""Small tables for people: a title, a rule, rows of label and value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from taskvec.cli._console import counted, magnitude, size

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def heading(kind: str, name: str) -> Text:
    """The first line: what it is, and where."""
    from rich.text import Text

    return Text.assemble((kind, "bold cyan"), "  ", (name, "bold"))


def rows(pairs: Iterable[tuple[str, Any]]) -> Table:
    """Labels on the left, values on the right; pairs whose value is None are left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in pairs:
        if value is not None:
            table.add_row(label, value)
    return table


def columns(heads: Sequence[str], lines: Iterable[Sequence[Any]], *, left: int = 1, rule: int = 0) -> Table:
    """A table with headings; `left` columns are aligned to the left, numbers to the right; a rule after line `rule`."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", padding=(0, 1), pad_edge=False, show_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < left else "right", overflow="fold", no_wrap=i >= left)
    for at, line in enumerate(lines, 1):
        table.add_row(*line, end_section=at == rule)
    return table


def checkpoint_parts(table: dict[str, Any]) -> list[Any]:
    """`info` of a checkpoint."""
    files = table["files"]
    on_disk = f"{len(files)} files" if len(files) != 1 else files[0]["name"]
    dtypes = table["dtypes"].items()
    mixed = ", ".join(f"{code} {size(c['bytes'])} in {counted(c['tensors'], 'tensor')}" for code, c in dtypes)
    roles = ", ".join(f"{counted(c['tensors'], *_ROLES[role])}" for role, c in table["roles"].items())
    ties = "\n".join(f"{alias} = {kept}" for alias, kept in table["ties"].items())
    return [
        heading("checkpoint", table["path"]),
        rows(
            [
                ("files", f"{on_disk}, {size(sum(f['bytes'] for f in files))}" if files else None),
                ("parameters", f"{magnitude(table['parameters'])} ({table['parameters']:,})"),
                ("tensors", f"{table['tensors']:,}: {roles}"),
                ("dtype", mixed if len(dtypes) > 1 else next(iter(table["dtypes"]), None)),
                ("tied", ties or None),
                ("made of", recipe_text(table["recipe"])),
                (
                    "fingerprint",
                    table["fingerprint"] or "not known yet; --fingerprint computes it, reading every tensor once",
                ),
            ]
        ),
        "",
        largest(table),
    ]


_ROLES = {"matrix": ("matrix", "matrices"), "other": ("other", "other"), "skip": ("not moving", "not moving")}


def recipe_text(recipe: Any) -> str | None:
    """A recipe on one line; None where there is none, or one of another shape."""
    if not isinstance(recipe, dict) or not isinstance(recipe.get("terms"), list):
        return None
    parts = [_term(t) for t in recipe["terms"] if isinstance(t, dict)]
    if isinstance(recipe.get("expression"), str):
        parts = [recipe["expression"]]
    base = recipe.get("base", {})
    if isinstance(base, dict) and base.get("name"):
        parts.insert(0, str(base["name"]))
    return " + ".join(parts).replace("+ -", "- ") or None


def _term(term: dict[str, Any]) -> str:
    coefficient = term.get("coefficient", 1.0)
    origin = term.get("origin") if isinstance(term.get("origin"), dict) else {}
    inner = recipe_text(origin)
    name = term.get("tuned") or term.get("adapter") or term.get("method") or inner or "vector"
    return str(name) if coefficient == 1.0 else f"{coefficient:g}*{name}"


def largest(table: dict[str, Any]) -> Table:
    """The largest tensors."""
    lines = [
        (t["name"], f"{t['dtype']}[{', '.join(map(str, t['shape']))}]", size(t["bytes"])) for t in table["largest"]
    ]
    return columns(("largest tensors", "", "bytes"), lines, left=2)


def beside_dense(nbytes: int, dense: dict[str, int]) -> str:
    """A size with what it is a fraction of."""
    shares = ", ".join(f"{nbytes / full:.1%} of {label} ({size(full)})" for label, full in dense.items() if full)
    return f"{size(nbytes)}" + (f": {shares}" if shares else "")


def vector_parts(table: dict[str, Any]) -> list[Any]:
    """`info` of a task vector."""
    stored = ", ".join(f"{n:,} {kind}" for kind, n in table["stored"].items())
    base = table["base"]
    partial = base is not None and base["tensors"] > table["tensors"]
    of = f" of the base's {base['tensors']:,}" if partial else ""
    return [
        heading("task vector", table.get("name") or table["path"]),
        rows(
            [
                ("codec", codec_text(table["codec"])),
                ("error", error_text(table)),
                ("from", recipe_text(table["recipe"])),
                ("base", base["fingerprint"] if base else "not recorded"),
                ("tensors", f"{table['tensors']:,}{of}: {stored}"),
                ("parameters", f"{magnitude(table['parameters'])} ({table['parameters']:,})"),
                ("bytes", beside_dense(table["bytes"], table["dense_bytes"])),
            ]
        ),
        "",
        largest(table),
    ]


def codec_text(codec: dict[str, Any]) -> str:
    """A codec with its parameters: "sparse, density=0.1"."""
    given = [f"{k}={v}" for k, v in codec.items() if k != "name" and v is not None]
    return ", ".join([str(codec["name"]), *given])


def error_text(table: dict[str, Any]) -> str:
    """What the file promises: exact, lossless or the error it states."""
    if table["exact"]:
        return "none: restores the tuned model bit for bit"
    error = table["error"]
    if error is None:
        return "none stated"
    if not error["tensor"]:
        known = "unknown: the task is 0" if error["total"] is None else f"at most {error['total']:.2%}"
        return f"{known}, recovered from the basis"
    total = f"{error['total']:.2%}; " if error["total"] is not None else ""
    return f"{total}at most {error['largest']:.2%} a tensor, median {error['median']:.2%} (worst: {error['tensor']})"


def adapter_parts(table: dict[str, Any]) -> list[Any]:
    """`info` of a LoRA adapter."""
    scaling = "rslora" if table["rslora"] else None
    ranks = f"{table['rank']}" + (f", others in {counted(len(table['ranks']), 'pattern')}" if table["ranks"] else "")
    moved = table["parameters"]
    return [
        heading("LoRA adapter", table["path"]),
        rows(
            [
                ("base", table["base_name"] or "not recorded"),
                ("rank", ranks),
                ("alpha", f"{table['alpha']:g}" + (f" ({scaling})" if scaling else "")),
                (
                    "moves",
                    None if moved is None else f"{counted(table['tensors'], 'tensor')}, {magnitude(moved)} parameters",
                ),
                ("bytes", beside_dense(table["bytes"], table["dense_bytes"]) if moved else size(table["bytes"])),
                ("note", table["note"]),
                ("use", f"taskvec apply BASE adapter -o OUT --vectors adapter='{table['path']}'"),
            ]
        ),
    ]


def applied_parts(table: dict[str, Any]) -> list[Any]:
    """What `apply` wrote."""
    coefficients = ", ".join(f"{c:g} {name}" for name, c in table["coefficients"].items())
    return [
        heading("wrote", table["path"]),
        rows(
            [
                ("model", recipe_text(table["recipe"])),
                ("coefficients", coefficients),
                ("tensors", f"{table['tensors']:,}, {magnitude(table['parameters'])} parameters"),
                ("bytes", f"{size(table['bytes'])} in {counted(len(table['files']), 'file')}"),
            ]
        ),
    ]


def store_parts(table: dict[str, Any]) -> list[Any]:
    """`info`, `store list` and `store show` of a store."""
    vectors = table["vectors"]
    dense = {"fp32": table["dense_float32"], "bf16": table["dense_bfloat16"]}
    lines = [
        (
            v["name"],
            v["codec"],
            "–" if v["error"] is None else f"{v['error']:.1%}" if v["error"] else "0",
            size(v["bytes"]),
            *_shares(v["bytes"], dense),
        )
        for v in vectors
    ]
    every = {label: full * len(vectors) for label, full in dense.items()}
    totals = [
        ("shared", "", "", size(table["shared"]), "", ""),
        ("all", "", "", size(table["total"]), *_shares(table["total"], every)),
        ("dense", "", "", "", *(size(full) for full in every.values())),
    ]
    base = table["base"]
    about = [("base", base["name"] or "a model in memory"), ("fingerprint", base["fingerprint"])]
    if not vectors:
        return [heading("store", table["path"]), rows([*about, ("vectors", "none yet")])]
    heads = (counted(len(vectors), "vector"), "codec", "error", "bytes", "of fp32", "of bf16")
    return [
        heading("store", table["path"]),
        rows(about),
        "",
        columns(heads, [*lines, *totals], left=2, rule=len(lines)),
    ]


def _shares(nbytes: int, dense: dict[str, int]) -> list[str]:
    return [f"{nbytes / full:.1%}" if full else "" for full in dense.values()]
