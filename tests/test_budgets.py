"""Sizes and documentation of the package, measured: files, functions, positional parameters, public docstrings."""

import ast
import statistics
from collections.abc import Iterator

import pytest

from source_tree import PACKAGE, modules

Function = ast.FunctionDef | ast.AsyncFunctionDef
FILES = sorted(PACKAGE.rglob("*.py"))


def functions() -> Iterator[tuple[str, Function]]:
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{module}:{node.lineno} {node.name}", node


def lines_of(function: Function) -> int:
    """Lines from `def` to the last statement, without decorators and docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def positional(function: Function) -> int:
    """Positional parameters besides self and cls."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_file_has_fewer_than_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


def test_a_function_has_fewer_than_60_lines():
    assert {where: lines_of(f) for where, f in functions() if lines_of(f) >= 60} == {}


def test_the_median_function_has_fewer_than_12_lines():
    assert statistics.median(lines_of(f) for _, f in functions()) < 12


def test_a_function_takes_at_most_5_positional_parameters():
    crowded = {  # loops that Numba compiles take no keyword-only parameters
        where: positional(f)
        for where, f in functions()
        if positional(f) > 5 and not where.split(":")[0].endswith("kernels")
    }
    assert crowded == {}


def undocumented(module: str, tree: ast.Module) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring; what is inside functions is private."""
    if ast.get_docstring(tree) is None:
        yield module or "taskvec"
    for node in _public(tree):
        if ast.get_docstring(node) is None:
            yield f"{module}:{node.lineno} {node.name}"
        for method in _public(node) if isinstance(node, ast.ClassDef) else ():
            if ast.get_docstring(method) is None:
                yield f"{module}:{method.lineno} {node.name}.{method.name}"


def _public(owner: ast.AST) -> Iterator[ast.ClassDef | Function]:
    for node in ast.iter_child_nodes(owner):
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") and not _is_overload(node):
            yield node


def _is_overload(node: ast.ClassDef | Function) -> bool:
    """The implementation has the docstring."""
    return "overload" in [ast.unparse(d) for d in node.decorator_list]


def test_every_public_module_class_function_and_method_is_documented():
    kernels = [m for m in modules() if m.endswith("kernels")]  # `bits`, `signs` and `quantize` document the loops
    missing = [what for m, tree in modules().items() if m not in kernels for what in undocumented(m, tree)]
    assert missing == []


def test_the_kernels_have_at_least_a_module_docstring():
    assert [m for m, tree in modules().items() if m.endswith("kernels") and ast.get_docstring(tree) is None] == []


def test_the_measures_measure():
    tree = ast.parse('def f(a, b, /, c, *, d):\n    """Doc.\n\n    More.\n    """\n    return a\n')
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    assert lines_of(function) == 2
    assert positional(function) == 3
    assert list(undocumented("m", ast.parse("class A:\n    def f(self): ...\n    def _g(self): ..."))) == [
        "m",
        "m:1 A",
        "m:2 A.f",
    ]
