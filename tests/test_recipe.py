"""Recipes: what YAML, Python and plain data mean, and every refusal with its line, column and fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskvec as tv
from merge_cases import MODELS, model_folders, tensors_of
from taskvec.errors import FormatError, ParameterError, SchemaError, SpaceError
from taskvec.methods._parameters import PerTensor
from taskvec.recipes import Document, Reader, Recipe, values
from taskvec.recipes.document import scalar_of, to_text
from taskvec.recipes.values import Gradient, expand, parse

NAMES = list(MODELS)
LAYERS = "model.layers.{}."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base, math, code and chat, a vector, an adapter and a store."""
    return model_folders(tmp_path_factory.mktemp("models"))


def read(folder: Path, text: str) -> Recipe:
    """The recipe of a YAML text in a folder."""
    path = folder / "recipe.yml"
    path.write_text(text, encoding="utf-8")
    return Recipe.read(path)


TIES = "method: ties\nbase: base\ninputs: [math, code]\n"


# What recipes mean


def test_yaml_python_and_plain_data_are_one_recipe(models: Path) -> None:
    """The three doors lead to equal recipes."""
    text = f"{TIES}parameters:\n  density: {{math: 0.5, code: 0.25}}\nscale: 0.7\ndtype: bfloat16\nseed: 3\n"
    fields: dict[str, Any] = {"base": "base", "scale": 0.7, "dtype": "bfloat16", "seed": 3}
    made = Recipe.of("ties", ["math", "code"], parameters={"density": {"math": 0.5, "code": 0.25}}, **fields)
    assert read(models, text).to_dict() == made.to_dict()
    assert dict(made.inputs) == {"math": "math", "code": "code"}


def test_to_yaml_reads_back_as_the_same_recipe(models: Path) -> None:
    """Every kind of value, and words that YAML would take for something else."""
    recipe = Recipe.of(
        "task_arithmetic",
        {"no": "1e-3", "1:30": "yes", "ünï": "a b.tv.safetensors"},
        base="null",
        store="0x10",
        parameters={
            "a": {"no": {"gradient": [0.1, 0.2], "layers": LAYERS, "outside": 0.5}, "1:30": 1, "ünï": 2e-7},
            "b": [{"filter": "*mlp*", "value": [1, 2, 3]}, {"value": 0.5}],
            "c": True,
            "d": "word",
            "e": [0.1, 1e300, 3],
        },
        shard_size="5GB",
        dialect="paper",
        layout="roles.yml",
    )
    assert Recipe.from_data(Document.parse(recipe.to_yaml(), "it").data) == recipe
    assert read(models, recipe.to_yaml()).to_dict() == recipe.to_dict()


plain_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
keys = st.text(min_size=1).filter(str.strip)
plain_data = st.recursive(
    plain_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(keys, plain_data, max_size=4))
def test_any_plain_data_round_trips_through_our_yaml(data: dict[str, Any]) -> None:
    """Numbers stay numbers, words words."""
    text = to_text(data)
    assert Document.parse(text, "it").data == data


@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_refused(text: str) -> None:
    """No text makes the reader fail in another way."""
    try:
        document = Document.parse(text, "it")
        Recipe.from_data(document.data, marks=document.marks)
    except ParameterError:
        pass


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("-2", -2), (".5", 0.5), ("5.", 5.0), ("true", True), ("False", False), ("~", None)),
        *((w, w) for w in ("yes", "on", "1:30", "0x10", "007", "2024-01-01", "1_000", ".inf", "nan", "TRUE")),
    ],
)
def test_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    """No octal, no sexagesimal, no dates, no yes."""
    assert scalar_of(text) == value
    assert type(scalar_of(text)) is type(value)


def test_a_recipe_cannot_be_changed() -> None:
    """Fields and tables are frozen; `changed` makes another one."""
    recipe = Recipe.of("ties", ["a"], base="b", parameters={"density": 0.5})
    with pytest.raises(ValueError, match="frozen"):
        recipe.method = "average"  # type: ignore[misc]
    with pytest.raises(TypeError, match="mappingproxy"):
        recipe.parameters["density"] = 1.0  # type: ignore[index]
    assert recipe.changed(scale=2.0).scale == 2.0
    assert recipe.scale is None


def test_inputs_in_a_list_are_named_by_their_stems() -> None:
    """Suffixes, folders and revisions are left out."""
    sources = ["models/math/", "x/code.tv.safetensors", "org/chat@main", "last.safetensors"]
    assert list(Recipe.of("average", sources, base="b").inputs) == ["math", "code", "chat", "last"]


def test_relative_sources_start_from_the_file(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the process is, and not from the working directory."""
    monkeypatch.chdir(tmp_path)
    recipe = read(models, TIES)
    assert recipe.build().names()
    model_folders(tmp_path / "elsewhere")
    (tmp_path / "recipe.yml").write_text("method: average\nbase: elsewhere/base\ninputs: [elsewhere/math]\n")
    (models / "there.yml").write_text("method: average\nbase: elsewhere/base\ninputs: [elsewhere/math]\n")
    assert Recipe.read("recipe.yml").build().names()
    with pytest.raises(FormatError, match="does not exist"):
        Recipe.read(models / "there.yml").build()


def test_a_second_format_is_a_second_reader_of_the_same_recipe(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader recognizes its own keys; ours keeps the rest."""
    from taskvec.recipes import readers

    monkeypatch.setattr(readers, "_readers", dict(readers._readers))

    def theirs(document: Document) -> Recipe:
        table = document.data
        fields = {"method": table["merge"], "inputs": table["of"], "base": table["from"]}
        return Recipe.from_data(fields, folder=document.folder)

    readers.register(Reader("theirs", lambda table: "merge" in table, theirs))
    assert readers.names() == ["taskvec", "theirs"]
    assert read(models, "merge: average\nfrom: base\nof: [math]\n").to_dict()["method"] == "average"
    assert read(models, TIES).method == "ties"
    with pytest.raises(ParameterError, match="a recipe format named 'theirs' exists already"):
        readers.register(Reader("theirs", lambda table: True, theirs))


# Values


def resolved(data: Any, tasks: list[str] = ["math", "code"]) -> Any:  # noqa: B006 - read only
    """What a method gets for each tensor."""
    found = expand(parse(data, tasks), NAMES, tasks)
    return {n: found.at(n) if isinstance(found, PerTensor) else found for n in NAMES}


def test_one_value_serves_all() -> None:
    """A number, a list, a table of equal numbers."""
    assert set(resolved(0.5).values()) == {0.5}
    assert set(resolved([0.5, 0.25]).values()) == {(0.5, 0.25)}
    assert set(resolved({"code": 1, "math": 2}).values()) == {(2, 1)}


def test_the_first_filter_that_fits_decides() -> None:
    """Filters are globs on names, in order."""
    rules = [{"filter": "*.1.*", "value": 1}, {"filter": "*mlp*", "value": [2, 3]}, {"value": 4}]
    found = resolved(rules)
    assert found["model.layers.1.mlp.weight"] == 1
    assert found["model.layers.0.mlp.weight"] == (2, 3)
    assert found["lm_head.weight"] == 4


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=5), st.integers(1, 9))
def test_a_gradient_is_linear_in_the_layers(numbers: list[float], layers: int) -> None:
    """Against interpolation by NumPy; a single layer takes the last number."""
    import numpy as np

    gradient = Gradient(tuple(numbers), LAYERS)
    for i in range(layers):
        position = i / (layers - 1) if layers > 1 else 1.0
        expected = np.interp(position, np.linspace(0, 1, len(numbers)), numbers) if len(numbers) > 1 else numbers[0]
        assert gradient.at(f"model.layers.{i}.x", 0, layers - 1) == pytest.approx(expected, abs=1e-12)
    assert gradient.at("lm_head", 0, layers - 1) == numbers[0]


def test_gradients_by_task_meet_filters_by_task() -> None:
    """Each task may depend on the tensor in its own way; the rules say the same as the values."""
    data = {
        "math": {"gradient": [0.2, 0.4], "layers": LAYERS, "outside": 0.9},
        "code": [{"filter": "*norm*", "value": 0.0}, {"value": {"gradient": [1, 0], "layers": "*layers.{}."}}],
    }
    found = resolved(data)
    assert found["model.layers.0.mlp.weight"] == (0.2, 1)
    assert found["model.layers.2.mlp.weight"] == (0.4, 0.0)
    assert found["model.layers.1.norm.weight"] == (pytest.approx(0.3), 0.0)
    assert found["lm_head.weight"] == (0.9, 1)


def test_a_gradient_becomes_one_rule_a_layer() -> None:
    """Names with eleven layers: layer 1 is not layer 10."""
    names = [f"model.layers.{i}.{part}" for i in range(11) for part in ("a", "b")]
    found = expand(parse({"gradient": [0, 1], "layers": LAYERS}, ["t"]), names, ["t"])
    assert isinstance(found, PerTensor)
    assert len(found.rules) == 10
    assert [found.at(f"model.layers.{i}.b") for i in (0, 1, 10)] == [0.0, 0.1, 1.0]


def test_names_with_glob_characters_are_meant_literally() -> None:
    """A rule for one tensor does not fit its neighbours."""
    names = ["a[0]", "a0", "a*", "ab"]
    data = {"x": [{"filter": "a[[]0]", "value": 1}, {"value": 2}], "y": [{"filter": "a[*]", "value": 3}, {"value": 4}]}
    found = expand(parse(data, ["x", "y"]), names, ["x", "y"])
    assert [found.at(n) for n in names] == [(1, 4), (2, 4), (2, 3), (2, 4)]


def test_plain_of_a_value_is_what_was_written() -> None:
    """So that recipes can be written down again."""
    for data in (0.5, True, "word", [1, 2], {"math": 1, "code": [{"filter": "*", "value": 2}, {"value": 1}]}):
        assert values.plain(parse(data, ["math", "code"])) == data
        assert parse(parse(data, ["math", "code"]), ["math", "code"]) == parse(data, ["math", "code"])


# Inputs


def test_inputs_of_every_kind_merge_alike(models: Path) -> None:
    """A model, its vector in a file and its entry in a store are one displacement."""
    as_models = Recipe.of("ties", [str(models / "math"), str(models / "code")], base=str(models / "base"))
    sources = {"math": str(models / "math.tv.safetensors"), "code": "stored"}
    mixed = Recipe.of("ties", sources, base=str(models / "base"), store=str(models / "library"))
    one, other = as_models.build(), mixed.build()
    for name in one.names():
        assert torch.equal(one[name], other[name])


def test_an_adapter_is_an_input(models: Path) -> None:
    """A LoRA folder moves what it moves; the rest stays."""
    recipe = Recipe.of("average", [str(models / "adapter")], base=str(models / "base"))
    base, merged = tv.Checkpoint.open(models / "base"), recipe.build()
    moved = [n for n in NAMES if not torch.equal(base[n], merged[n])]
    assert moved == ["model.layers.0.mlp.weight"]


def test_the_build_is_base_plus_scale_times_merge(models: Path) -> None:
    """The same as the algebra says."""
    recipe = Recipe.of("average", [str(models / n) for n in ("math", "code")], base=str(models / "base"), scale=0.5)
    base = tv.Checkpoint.open(models / "base")
    vectors = [tv.Checkpoint.open(models / n) - base for n in ("math", "code")]
    expected, merged = base + 0.5 * tv.merge("average", vectors), recipe.build()
    assert all(torch.equal(expected[n], merged[n]) for n in NAMES)


def test_coefficients_by_layer_reach_the_tensors(models: Path) -> None:
    """Each layer moves by its own coefficient."""
    gradient = {"gradient": [0.0, 1.0], "layers": LAYERS}
    recipe = Recipe.of(
        "task_arithmetic", [str(models / "math")], base=str(models / "base"), parameters={"coefficients": gradient}
    )
    start, tuned, merged = tensors_of("base"), tensors_of("math"), recipe.build()
    for i, share in enumerate((0.0, 0.5, 1.0)):
        name = f"model.layers.{i}.mlp.weight"
        torch.testing.assert_close(merged[name], start[name] + share * (tuned[name] - start[name]))


def test_a_layout_that_skips_a_tensor_leaves_it_alone(models: Path, tmp_path: Path) -> None:
    """And the recipe in the output says so."""
    (tmp_path / "roles.yml").write_text('roles:\n  "lm_head.weight": skip\n')
    recipe = Recipe.of("average", [str(models / "math")], base=str(models / "base"), layout=str(tmp_path / "roles.yml"))
    merged, base = recipe.build(), tv.Checkpoint.open(models / "base")
    assert torch.equal(merged["lm_head.weight"], base["lm_head.weight"])
    assert not torch.equal(merged["model.norm.weight"], base["model.norm.weight"])
    assert merged.source.recipe(blank=True)["terms"][0]["roles"] == {"lm_head.weight": "skip"}  # type: ignore[index]


# Refusals, with their places

BAD: list[tuple[str, str, str, str]] = [
    ("method: tis\nbase: base\ninputs: [math]\n", "line 1, column 9", "no merge method named 'tis'", "'ties'"),
    ("methud: ties\nbase: base\ninputs: [math]\n", "line 1, column 1", "unknown key 'methud'", "'method'"),
    (TIES + "densty: 0.2\n", "line 4, column 1", "unknown key 'densty'", "goes under parameters:"),
    (TIES + "parameters:\n  densty: 0.2\n", "line 5, column 3", "ties has no parameter 'densty'", "'density'"),
    (TIES + "parameters: {density: 0}\n", "line 4, column 23", "density=0 is outside (0, 1]", "in (0, 1]"),
    (TIES + "parameters: {density: 1.5}\n", "line 4, column 23", "density=1.5 is outside (0, 1]", "in (0, 1]"),
    (TIES + "parameters: {density: many}\n", "line 4, column 23", "density='many' is not a finite number", "a number"),
    (TIES + "parameters: {density: .nan}\n", "line 4, column 23", "density='.nan' is not a finite number", "a number"),
    (TIES + "parameters: {aggregate: men}\n", "line 4, column 25", "is not one of mean, sum, max", "mean, sum, max"),
    (TIES + "parameters: {density: [0.1]}\n", "line 4, column 23", "a list of 1 values for 2 inputs", "each input"),
    (TIES + "parameters: {density: {math: 1, cde: 1}}\n", "line 4, column 33", "no input is named 'cde'", "'code'"),
    (TIES + "parameters: {density: {math: 1}}\n", "line 4, column 23", "the input 'code' has no value", "each input"),
    (TIES + "parameters:\n  density:\n", "line 5, column 11", "density: a parameter has no value", "write a number"),
    (TIES + "parameters: [1]\n", "line 4, column 13", "parameters must be a table", "table"),
    (
        TIES + "parameters:\n  density:\n    - {filter: '*', vlue: 1}\n",
        "line 6, column 21",
        "unknown key 'vlue'",
        "'value'",
    ),
    (
        TIES + "parameters:\n  density:\n    - {filter: '*', value: 1}\n",
        "line 6, column 5",
        "no value for tensors that fit no filter",
        "end the list with {value: …}",
    ),
    (
        TIES + "parameters:\n  density:\n    - {value: 1}\n    - {filter: '*', value: 1}\n",
        "line 6, column 7",
        "must be the last",
        "move it",
    ),
    (
        TIES + "parameters:\n  density: [{filter: '*nlp*', value: 0.1}, {value: 0.1}]\n",
        "line 5, column 22",
        "the filter '*nlp*' fits no tensor",
        "model.",
    ),
    (
        TIES + "parameters:\n  density: [{filter: '*mlp*', value: 0.1}, {value: 0.2}]\n",
        "line 5, column 12",
        "density differs from tensor to tensor",
        "one value of density",
    ),
    (
        TIES + "parameters:\n  density: {gradient: [0.1, 0.2], layers: 'h.{}.'}\n",
        "line 5, column 43",
        "no tensor is named like 'h.{}.'",
        "model.layers.0.",
    ),
    (
        TIES + "parameters:\n  density: {gradient: [0.1, x], layers: 'h.{}.'}\n",
        "line 5, column 29",
        "the word 'x' has no place in a gradient",
        "numbers",
    ),
    (
        TIES + "parameters:\n  density: {gradient: [0.1]}\n",
        "line 5, column 12",
        "one {} for their number",
        "layers.{}.",
    ),
    (TIES + "scale: big\n", "line 4, column 8", "scale must be a finite number, and is the word 'big'", ""),
    (TIES + "scale: 1e999\n", "line 4, column 8", "scale must be a finite number", ""),
    (TIES + "seed: -1\n", "line 4, column 7", "seed must be an integer from 0, and is -1", ""),
    (TIES + "seed: 1.5\n", "line 4, column 7", "seed must be an integer from 0", ""),
    (TIES + "dtype: bloat16\n", "line 4, column 8", "unknown dtype 'bloat16'", "did you mean 'bfloat16'?"),
    (TIES + "dtype: int8\n", "line 4, column 8", "is not a floating-point type", "float32"),
    (TIES + "shard_size: huge\n", "line 4, column 13", "'huge' is not a size in bytes", "5GB"),
    (
        TIES + "transforms: [awd]\n",
        "line 4, column 14",
        "no transform is named 'awd'",
        "known: magnitude_prune, orthogonalize",
    ),
    ("method: average\nbase: base\ninputs: [math]\ndialect: peft\n", "line 4, column 10", "no dialect 'peft'", "leave"),
    (TIES + "layout: nowhere.yml\n", "line 4, column 9", "nowhere.yml", ""),
    (TIES + "base: other\n", "line 4, column 1", "the key 'base' occurs twice (first in line 2)", "keep one"),
    ("method: ties\nbase: base\n", "line 1, column 1", "the recipe has no inputs", "inputs:"),
    ("method: ties\ninputs: [math]\n", "line 1, column 1", "there is no base", "give the base"),
    ("method: ties\nbase: base\ninputs: []\n", "line 3, column 9", "at least one input", "list"),
    ("method: ties\nbase: base\ninputs: math\n", "line 3, column 9", "and is the word 'math'", "SOURCE"),
    ("method: ties\nbase: base\ninputs: [1.5]\n", "line 3, column 10", "and is the number 1.5", "quotes"),
    ("method: ties\nbase: base\ninputs: [math, x/math]\n", "line 3, column 16", "two inputs are named 'math'", "NAME"),
    ("method: [ties]\nbase: base\ninputs: [math]\n", "line 1, column 9", "method must be the name", ""),
    ("- ties\n", "line 1, column 1", "a recipe is a table, not a list", "method:"),
    ("", "line 1, column 1", "a recipe is a table, not empty", "method:"),
    ("method: ties\n  base: base\n", "line 2, column 7", "mapping values are not allowed here", "correct it there"),
    ("method: {ties\n", "line 2, column 1", "expected ',' or '}'", "close the bracket or quote"),
    ("\tmethod: ties\n", "line 1, column 1", "cannot start any token", "spaces, not with tabs"),
    ("method: ties\nbase: !!python/name:os.system x\n", "line 2, column 7", "the tag", "leave it out"),
    ("method: !custom ties\n", "line 1, column 9", "the tag '!custom'", "leave it out"),
    ("? [a]\n: b\n", "line 1, column 3", "a key must be a name", ""),
    ("<<: {method: ties}\n", "line 1, column 1", "unknown key '<<'", ""),
]


@pytest.mark.parametrize(("text", "place", "what", "fix"), BAD)
def test_what_cannot_be_is_refused_at_its_line(models: Path, text: str, place: str, what: str, fix: str) -> None:
    """Line, column, fact and fix; nothing is read but headers."""
    with pytest.raises(ParameterError) as caught:
        read(models, text).plan()
    assert f"recipe.yml', {place}: " in caught.value.fact
    assert what in caught.value.fact
    assert fix in str(caught.value.fix)


def test_an_anchor_that_grows_without_end_is_refused() -> None:
    """The billion laughs, and an anchor inside itself."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdef", "bcdefg", strict=True)]
    with pytest.raises(ParameterError, match="more than 100,000 values"):
        Document.parse("\n".join(lines), "it")
    with pytest.raises(ParameterError, match=r"more than 100,000 values|nested too deeply"):
        Document.parse("a: &a [*a]", "it")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Absent, a folder, not text."""
    with pytest.raises(ParameterError, match="cannot be read: No such file"):
        Recipe.read(tmp_path / "absent.yml")
    with pytest.raises(ParameterError, match="cannot be read: Is a directory"):
        Recipe.read(tmp_path)
    (tmp_path / "raw.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match="it is not UTF-8 text"):
        Recipe.read(tmp_path / "raw.yml")


def test_python_recipes_are_refused_without_a_place() -> None:
    """The same facts, without a file to point at."""
    with pytest.raises(ParameterError, match=r"^unknown key 'bse'\.\nFix: did you mean 'base'\?$"):
        Recipe.of("ties", ["a"], bse="b")
    with pytest.raises(ParameterError, match=r"^scale must be a finite number, and is nan\."):
        Recipe.of("ties", ["a"], base="b", scale=float("nan"))
    with pytest.raises(
        ParameterError, match=r"^a list of 2 values for 1 inputs|^density: a list of 2 values for 1 inp"
    ):
        Recipe.of("ties", ["a"], base="b", parameters={"density": [1, 2]})


@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        (["math", "nowhere"], ParameterError, "the input 'nowhere': there is no 'nowhere' in"),
        (["math", "library"], SpaceError, "the input 'library' .* is a store"),
        (["math", "small"], SchemaError, r"the input 'small' .*: tensor 'lm_head.weight' is F32\[5, 8\]"),
        (["math", "fewer"], SchemaError, "the input 'fewer' .*: tensor 'lm_head.weight' is in the base but not"),
        (["math", "other.tv.safetensors"], SchemaError, "the input 'other' was cut from the base tv1:"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_from_their_headers(
    models: Path, inputs: list[str], error: type[Exception], match: str
) -> None:
    """Names, shapes, bases, kinds."""
    tv.Checkpoint.open(models / "base").fingerprint()
    text = f"method: average\nbase: base\ninputs: [{', '.join(inputs)}]\n"
    with pytest.raises(error, match=match):
        read(models, text).build()


def test_names_of_a_store_are_suggested(models: Path) -> None:
    """And a name that is also a path is refused."""
    text = "method: average\nbase: base\nstore: library\ninputs: [{}]\n"
    with pytest.raises(ParameterError, match=re.compile("neither as a path nor in the store.*'stored'", re.DOTALL)):
        read(models, text.format("storde")).build()
    with pytest.raises(ParameterError, match=r"(?s)'math' is both a name in the store and a path.*\./math"):
        read(models, text.format("math")).build()
    assert read(models, text.format("./math")).build().names()
