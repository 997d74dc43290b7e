"""Who may import whom: read from the syntax trees, imports inside functions and for the type checker included."""

import ast

import pytest

from source_tree import Import, imports, modules, own

# From left to right; a module may import its own group and what lies to the left of it.
GROUPS = [
    {"errors", "_caret", "callable_module"},
    {"ops"},
    {"checkpoint"},
    {"delta", "vector", "gramian", "edited", "expression", "_expression_tree", "_expression_parser"} | {"adapters"},
    {"codecs", "methods", "analyze"},
    {"transforms"},
    {"store", "basis", "engine"},
    {"recipes", "testing"},
    {"suites"},
    {"tune", "evaluate", "multitask"},
    {"report"},
    {"bench"},
    {"demo"},
    {"cli", "__main__", "studio"},
]
RANK = {room: rank for rank, group in enumerate(GROUPS) for room in group}
# Annotations may look to the right where an operator returns what only the right can make.
TYPES_TO_THE_RIGHT = {("checkpoint.checkpoint", "vector")}
SIBLINGS = ("codecs", "methods", "transforms", "analyze")
TRAINING_ROOMS = ("suites", "tune", "evaluate", "multitask")


def room_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def own_imports() -> list[tuple[Import, str]]:
    """The imports of modules of this package, but for those of the package's front page and of its version."""
    found = ((i, own(i.target)) for i in imports() if i.module)
    return [(i, target) for i, target in found if target]


def test_every_module_has_a_room_with_a_place_in_the_order():
    homeless = [m for m in modules() if m and room_of(m) not in RANK]
    assert homeless == [], "give the room a place in GROUPS (and in the architecture)"


def test_every_import_of_our_own_is_of_a_module_that_exists():
    assert [str(i) for i, target in own_imports() if target not in modules()] == []


def test_nothing_imports_to_its_right():
    wrong = [
        str(i)
        for i, target in own_imports()
        if RANK[room_of(target)] > RANK[room_of(i.module)]
        and not (i.types_only and (i.module, target) in TYPES_TO_THE_RIGHT)
    ]
    assert wrong == []


def test_the_exceptions_for_annotations_are_still_needed():
    used = {(i.module, target) for i, target in own_imports() if i.types_only}
    assert used >= TYPES_TO_THE_RIGHT


def test_no_module_imports_the_front_page_of_the_package_but_for_its_version():
    from_front = [i for i in imports() if i.module and own(i.target) == ""]
    assert [str(i) for i in from_front if i.names != ("__version__",)] == []


@pytest.mark.parametrize("room", SIBLINGS)
def test_siblings_never_import_each_other(room):
    def is_public_file(module: str) -> bool:
        parts = module.split(".")
        return parts[0] == room and len(parts) > 1 and not parts[1].startswith("_")

    pairs = [(i, target) for i, target in own_imports() if is_public_file(i.module) and is_public_file(target)]
    assert [str(i) for i, target in pairs if target.split(".")[1] != i.module.split(".")[1]] == []


@pytest.mark.parametrize("library", ["torch.nn", "transformers"])
def test_only_the_rooms_that_train_know_models(library):
    def is_it(i: Import) -> bool:
        names = [i.target, *(f"{i.target}.{name}" for name in i.names)]
        return any(n == library or n.startswith(library + ".") for n in names)

    assert [str(i) for i in imports() if is_it(i) and room_of(i.module) not in TRAINING_ROOMS] == []


def test_only_the_rooms_that_train_reach_torch_nn_by_attribute():
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        if room_of(name) not in TRAINING_ROOMS
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.nn")
    ]
    assert wrong == []


def test_tokenizers_are_known_to_one_file():
    users = {i.module for i in imports() if i.target.split(".")[0] == "tokenizers"}
    assert users <= {"recipes.tokenizer"}


def test_there_are_no_import_cycles():
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for i, target in own_imports():
        if not i.types_only:
            graph[i.module].add(target)
    assert cycles(graph) == []


def cycles(graph: dict[str, set[str]]) -> list[tuple[str, list[str]]]:
    """What is left, with its targets, when modules that import or are imported by none of the others are taken away."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        imported = set().union(*left.values())
        free = {name for name, targets in left.items() if name not in imported or not targets}
        if not free:
            return [(name, sorted(targets)) for name, targets in left.items()]
        left = {name: targets - free for name, targets in left.items() if name not in free}


def test_the_search_for_cycles_finds_one():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [("b", ["c"]), ("c", ["b"])]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_the_reader_of_imports_sees_those_in_functions_and_those_for_types():
    seen = {(i.module, i.target, i.types_only) for i in imports()}
    assert ("vector", "torch", True) in seen
    assert ("vector", "torch", False) in seen, "inside __getitem__"
    assert ("delta", "taskvec.ops.bits", False) in seen, "inside add_to"
