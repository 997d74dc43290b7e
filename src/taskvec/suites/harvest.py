"""Docstrings of installed libraries, read from their source files: nothing is imported, nothing is downloaded."""

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from taskvec.errors import ParameterError

Kind = Literal["module", "class", "exception", "function", "method", "property"]

MIN_WORDS = 5
"""Shorter prose ("Do nothing.") says nothing about its object and is left out."""
MAX_CHARACTERS = 240
"""About 48 tokens, what the encoders read."""

_SKIPPED = frozenset({"tests", "test", "_examples", "conftest.py", "setup.py"})
_PROPERTIES = frozenset({"property", "cached_property", "lazy_property", "functools.cached_property"})
_SECTION = re.compile(
    r"^[ \t]*(?:\w[\w ]*\n[ \t]*[-=~]{3,}|\.\. |>>> |@\w+ ?|:param|:return"
    r"|(?:Args?|Arguments|Parameters?|Returns?|Raises?|Yields?|Examples?|Example usage|Usage|Notes?|Attributes"
    r"|Keyword \w+|Shape|References)(?: \(.*\))?:)",
    re.MULTILINE,
)
_TITLE = re.compile(
    r"\A(?:[-=~*#^]{3,}[ \t]*\n)?(?!(?:Parameters|Returns|Attributes)\n)(.+)\n[-=~*#^]{3,}[ \t]*$", re.MULTILINE
)
_ROLE = re.compile(r":[\w:]+:`[~!]?([^`<]+?)(?:\s*<[^`]*>)?`")
_NOISE = re.compile(r"(?:^|(?<=\s))(?:[-=~*#^+|]{2,}|\[\w+\]_)(?=\s|$|[.,;:])")  # table rules, citations
_SIGNATURE = re.compile(r"^\w+\(.*\)(?: -> .*)?\n")


@final
@dataclass(frozen=True, slots=True)
class Docstring:
    """The prose of one object's docstring: `text` is at most 240 characters, white space collapsed.

    `path` is the dotted path under the library (`linalg._basic.solve`); it names the object in error messages.
    """

    library: str
    path: str
    kind: Kind
    text: str

    @property
    def key(self) -> str:
        """Hash of the text's letters and digits: equal for the same docstring under another name."""
        return digest_of(self.text)


def digest_of(text: str) -> str:
    """Hexadecimal SHA-256 of the letters and digits of `text`, in lower case."""
    return hashlib.sha256("".join(re.findall(r"\w", text.lower())).encode()).hexdigest()


def prose_of(docstring: str) -> str:
    """The running text of a docstring before its first section, without markup; empty if it has none."""
    plain = _SIGNATURE.sub("", inspect.cleandoc(docstring))
    plain = _SECTION.split(_TITLE.sub(r"\1", plain), maxsplit=1)[0]
    plain = _NOISE.sub("", _ROLE.sub(r"\1", plain).replace("`", "").replace("**", ""))
    text = " ".join(plain.split())
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS + 1].rsplit(" ", 1)[0]


def root_of(package: str) -> Path:
    """Folder of an installed top-level package, found without importing it; `"python"` is the standard library.

    Raises:
        ParameterError: the package is not installed.
    """
    if package == "python":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ParameterError(
            f"the package '{package}', whose docstrings are to be read, is not installed.",
            "pip install 'taskvec[demo]'.",
        )
    return Path(spec.submodule_search_locations[0])


def version_of(distribution: str) -> str:
    """Version of an installed distribution; `"python"` is the interpreter.

    Raises:
        ParameterError: the distribution is not installed.
    """
    if distribution == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise ParameterError(
            f"the distribution '{distribution}' is not installed.", "pip install 'taskvec[demo]'."
        ) from error


@functools.cache
def harvest(library: str, package: str, sources: tuple[str, ...]) -> tuple[Docstring, ...]:
    """Every public object's prose under `sources`, in path order; a path defined again (a setter) counts once.

    Args:
        library: name recorded with each docstring.
        package: installed top-level package, or `"python"`.
        sources: files, folders or glob patterns relative to the package, or `import:module:Class,Class` for
            classes compiled without source files, which are read from the imported module.

    Raises:
        ParameterError: the package is not installed, or a source without a wildcard does not exist.
    """
    found: dict[str, Docstring] = {}
    for source in sources:
        if source.startswith("import:"):
            objects = _compiled_objects(*source.removeprefix("import:").split(":"))
        else:
            objects = _source_objects(root_of(package), source)
        for path, kind, text in _with_prose(objects):
            found.setdefault(path, Docstring(library, path, kind, text))
    return tuple(found.values())


_Object = tuple[str, Kind, str]


def _with_prose(objects: Iterable[_Object]) -> Iterator[_Object]:
    for path, kind, docstring in objects:
        text = prose_of(docstring)
        if len(text.split()) >= MIN_WORDS:
            yield path, kind, text


def _source_objects(root: Path, source: str) -> Iterator[_Object]:
    for file in _files_of(root, source):
        module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in other people's docstrings
            try:
                tree = ast.parse(file.read_bytes())
            except SyntaxError:  # a template, or a file for another Python
                continue
        if docstring := ast.get_docstring(tree, clean=False):
            yield module, "module", docstring
        yield from _members(tree, module, inside_class=False)


def _files_of(root: Path, source: str) -> list[Path]:
    matches = sorted(root.glob(source))
    if not matches:
        raise ParameterError(
            f"'{source}' is not part of the installed package at '{root}'.",
            "install the versions that the extra 'demo' pins: pip install 'taskvec[demo]'.",
        )
    files = [file for match in matches for file in (sorted(match.rglob("*.py")) if match.is_dir() else [match])]
    return [file for file in files if _SKIPPED.isdisjoint(file.relative_to(root).parts)]


def _members(node: ast.Module | ast.ClassDef, path: str, *, inside_class: bool) -> Iterator[_Object]:
    for child in node.body:
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or child.name.startswith("_"):
            continue
        child_path = f"{path}.{child.name}"
        if docstring := ast.get_docstring(child, clean=False):
            yield child_path, _kind_of(child, inside_class=inside_class), docstring
        if isinstance(child, ast.ClassDef):
            yield from _members(child, child_path, inside_class=True)


def _kind_of(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, *, inside_class: bool) -> Kind:
    if isinstance(node, ast.ClassDef):
        return _class_kind(node.name, (ast.unparse(base) for base in node.bases))
    if not inside_class:
        return "function"
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    return "property" if decorators & _PROPERTIES else "method"


def _class_kind(name: str, bases: Iterable[str]) -> Kind:
    is_exception = any(each.endswith(("Error", "Exception", "Warning")) for each in (name, *bases))
    return "exception" if is_exception else "class"


def _compiled_objects(module: str, classes: str) -> Iterator[_Object]:
    namespace = importlib.import_module(module)
    for name in classes.split(","):
        owner = getattr(namespace, name)
        yield f"{module}.{name}", _class_kind(name, ()), owner.__doc__ or ""
        for member, value in sorted(vars(owner).items()):
            if not member.startswith("_") and value.__doc__:
                yield f"{module}.{name}.{member}", "method" if callable(value) else "property", value.__doc__
