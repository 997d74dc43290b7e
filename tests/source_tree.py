"""What the tests of the house read: the package's modules as syntax trees, and who imports whom."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "taskvec"


@dataclass(frozen=True)
class Import:
    """One import of `target` (a dotted module) by `module`; `names` as in `from target import names`."""

    module: str
    target: str
    names: tuple[str, ...]
    line: int
    types_only: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}" + (" (types only)" if self.types_only else "")


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Dotted name (without `taskvec.`; the package itself is "") and syntax tree of every module."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


@functools.cache
def imports() -> tuple[Import, ...]:
    """Every import in the package, those inside functions and those for the type checker included."""
    return tuple(i for name, tree in modules().items() for i in _imports_of(name, tree))


def _imports_of(module: str, tree: ast.Module) -> Iterator[Import]:
    for_types = {id(n) for block in ast.walk(tree) if _is_type_checking(block) for n in _inside(block)}
    for node in ast.walk(tree):
        only = id(node) in for_types
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, (), node.lineno, only)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{module}:{node.lineno}: a relative import; write the whole name")
            yield from _from(module, node, only)
        elif dynamic := _import_module(node):
            yield Import(module, dynamic, (), node.lineno, only)


def _from(module: str, node: ast.ImportFrom, only: bool) -> Iterator[Import]:
    """`from package import module` imports the module, `from module import name` the name."""
    target = node.module or ""
    names = []
    for alias in node.names:
        full = f"{target}.{alias.name}"
        if own(full) in modules() and own(full) is not None:
            yield Import(module, full, (), node.lineno, only)
        else:
            names.append(alias.name)
    if names:
        yield Import(module, target, tuple(names), node.lineno, only)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _inside(block: ast.AST) -> Iterator[ast.AST]:
    assert isinstance(block, ast.If)
    for statement in block.body:
        yield from ast.walk(statement)


def _import_module(node: ast.AST) -> str | None:
    """The module of `importlib.import_module("literal")`."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args):
        return None
    argument = node.args[0]
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None


def own(target: str) -> str | None:
    """A module of this package without `taskvec.`; None for other packages."""
    if target == "taskvec":
        return ""
    return target.removeprefix("taskvec.") if target.startswith("taskvec.") else None
