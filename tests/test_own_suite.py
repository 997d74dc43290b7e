"""A suite of one's own: one YAML file, of texts and of images, from reading to fine-tuning and scores."""

import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

import taskvec as tv
from taskvec.errors import FormatError, ParameterError, SchemaError, UnknownName
from taskvec.evaluate import deltas_of, evaluate, prepare
from taskvec.suites import Head, LinearizedEncoder, encoder_of, heads_of, read_suite, suite_named
from taskvec.tune import Settings, tune, tune_into
from tiny_images import write_images, write_tiny_clip, write_tiny_vit
from tiny_text import ANIMALS, COLORS, word_task, write_tiny_encoder

TEXTS = """
base: ./encoder
temperature: 15
tasks:
  color:
    folder: data/color
    text: sentence
    classes: {red: the first kind, green: some other sort}
  animal:
    folder: data/animal
    text: sentence
"""
IMAGES = """
base: vit
name: pictures
inputs: images
tasks:
  color: {folder: images}
"""


def write_csv(folder: Path, name: str, words: tuple[str, str]) -> None:
    folder.mkdir(parents=True)
    for split, data in word_task(name, words).splits.items():
        rows = [f"{text},{words[label]}" for text, label in zip(data.texts, data.labels, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(["sentence,label", *rows]) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text encoder, a ViT, a CLIP, tables, images and both suites."""
    root = tmp_path_factory.mktemp("own")
    write_tiny_encoder(root / "encoder")
    write_tiny_vit(root / "vit")
    write_tiny_clip(root / "clip")
    write_csv(root / "data" / "color", "color", COLORS[:2])
    write_csv(root / "data" / "animal", "animal", ANIMALS[:2])
    write_images(root / "images")
    (root / "texts.yml").write_text(TEXTS)
    (root / "pictures.yml").write_text(IMAGES)
    return root


def written(home: Path, text: str, *, name: str = "changed.yml") -> Path:
    (home / name).write_text(text)
    return home / name


def test_a_suite_of_texts_is_read_tuned_and_scored(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # paths start from the file's folder
    suite = suite_named(str(home / "texts.yml"))
    assert (suite.name, suite.names(), suite.temperature) == ("texts", ("color", "animal"), 15.0)
    assert suite.task("color").phrases == ("the first kind", "some other sort")
    assert suite.task("animal").classes == tuple(sorted(ANIMALS[:2]))
    encoder, heads = encoder_of(suite), heads_of(suite)
    assert heads["color"].temperature == 15.0
    before = evaluate(encoder, suite, heads=heads)
    found = tune_into(
        tmp_path / "tuned",
        encoder,
        suite.task("color"),
        head=heads["color"],
        settings=Settings(steps=25, learning_rate=2e-3),
    )
    after = evaluate(tmp_path / "tuned", suite, tasks=["color"], heads=heads)["color"].value
    assert after > max(0.9, before["color"].value)
    moved = tv.Checkpoint.open(suite.base) + found.vector(tv.Checkpoint.open(suite.base))
    assert evaluate(moved, suite, tasks=["color"])["color"].value == after
    assert suite_named(str(home / "texts.yml"), tasks=["animal"]).names() == ("animal",)


@pytest.mark.parametrize("regime", ["standard", "tangent"])
def test_a_suite_of_images_is_read_tuned_and_scored(home: Path, tmp_path: Path, regime: str) -> None:
    suite = read_suite(home / "pictures.yml")
    assert (suite.name, suite.inputs, suite.head) == ("pictures", "images", "prototypes")
    encoder, heads = encoder_of(suite), heads_of(suite)
    shuffled = Head(heads["color"].embeddings.flip(0), heads["color"].temperature)  # wrong at first
    zero = evaluate(encoder, suite, heads={"color": shuffled})["color"].value
    found = tune_into(
        tmp_path / "out",
        encoder,
        suite.task("color"),
        regime=regime,
        head=shuffled,
        settings=Settings(steps=40, learning_rate=2e-3, batch_size=8),
    )
    model: Any = found.encoder if regime == "standard" else LinearizedEncoder(origin=encoder, tau=found.delta)
    assert zero < 0.5
    assert evaluate(model, suite, heads={"color": shuffled})["color"].value > 0.9
    if regime == "standard":
        same = evaluate(tv.Checkpoint.open(tmp_path / "out"), suite, heads={"color": shuffled})
        assert same == evaluate(found.encoder, suite, heads={"color": shuffled})
    else:
        vector = tv.TaskVector.open(tmp_path / "out" / "color.tv.safetensors")
        assert {encoder.aliases.get(name, name) for name in found.delta} == set(vector.names())
        assert set(vector.names()) <= set(tv.Checkpoint.open(suite.base).specs)
        assert deltas_of(encoder, vector).keys() == found.delta.keys()


def test_images_with_names_as_heads_need_a_model_that_reads_texts(home: Path) -> None:
    text = IMAGES + "head: names\n"
    with pytest.raises(ParameterError, match=r"reads no texts.*\nFix: make the head of examples: head: prototypes"):
        heads_of(read_suite(written(home, text)))
    suite = read_suite(written(home, text.replace("base: vit", "base: clip")))
    encoder, heads = encoder_of(suite), heads_of(suite)
    torch.testing.assert_close(heads["color"].embeddings, encoder.embed(["blue", "red"]))
    result = tune(encoder, suite.task("color"), head=heads["color"], settings=Settings(steps=2))
    assert any(delta.norm() > 0 for delta in result.delta.values())


def test_a_hub_data_set_is_read_with_its_own_names(home: Path, tmp_path: Path) -> None:
    """`datasets.load_dataset` takes a local folder for a name, so the whole way but the network is run."""
    for split, count in (("train", 40), ("validation", 8), ("test", 8)):
        rows = {"review": [f"{split} text {i}" for i in range(count)], "stars": [i % 2 for i in range(count)]}
        data = datasets.Dataset.from_dict(rows).cast_column("stars", datasets.ClassLabel(names=["bad", "good"]))
        (tmp_path / "hub").mkdir(exist_ok=True)
        data.to_parquet(str(tmp_path / "hub" / f"{split}.parquet"))
    text = f"base: encoder\ntasks:\n  stars: {{hub: '{tmp_path / 'hub'}', text: review, label: stars"
    suite = read_suite(written(home, text + "}\n"))
    assert {n: len(s) for n, s in suite.task("stars").splits.items()} == {"train": 40, "val": 8, "test": 8}
    assert suite.task("stars").classes == ("bad", "good")
    swapped = read_suite(written(home, text + ", splits: {test: validation, val: test}}\n")).task("stars")
    assert all(t.startswith("validation") for t in swapped.split("test").texts)
    with pytest.raises(FormatError, match=r"line 3.*has no split 'tset'; it has .*\nFix: say what they are called"):
        read_suite(written(home, text + ", splits: {test: tset}}\n"))
    with pytest.raises(FormatError, match=r"line 3, column 3: the data set '.*gone' of the hub cannot be fetched"):
        read_suite(written(home, text.replace(str(tmp_path / "hub"), str(tmp_path / "gone")) + "}\n"))


def test_a_base_on_the_command_line_replaces_the_files(home: Path) -> None:
    assert read_suite(home / "texts.yml", base="other/model").base == "other/model"
    assert read_suite(written(home, TEXTS.replace("./encoder", "some/hub-id"))).base == "some/hub-id"


# fmt: off
WRONG = {
    "unknown key": (
        "temperature: 15",
        "temprature: 15",
        r"line 3, column 1: unknown key 'temprature'.*\n.*'temperature'",
    ),
    "unknown key of a task": (
        "    text: sentence\n    c",
        "    txt: sentence\n    c",
        r"line 7, column 5: unknown key 'txt' of",
    ),
    "twice": ("temperature: 15", "base: other", r"line 3, column 1: the key 'base' occurs twice"),
    "no base": ("base: ./encoder\n", "", r"the suite has no base\.\nFix: give base: the folder"),
    "no tasks": (TEXTS[TEXTS.index("  color") :], "  color\n", r"tasks of the suite must be a table NAME: TASK"),
    "a task of words": (
        "  animal:\n    folder: data/animal\n    text: sentence\n",
        "  animal: data\n",
        "task 'animal' must be",
    ),
    "a number": (
        "temperature: 15",
        "temperature: hot",
        r"line 3, column 14: temperature of the suite must be a number",
    ),
    "below zero": ("temperature: 15", "temperature: -1", "temperature of the suite must be a number above 0"),
    "inputs": (
        "temperature: 15",
        "inputs: image",
        r"inputs is one of texts, images, and is the word 'image'.*\n.*'images'",
    ),
    "classes": (
        "{red: the first kind, green: some other sort}",
        "red",
        "classes of task 'color' must be a list of names",
    ),
    "classes twice": ("{red: the first kind, green: some other sort}", "[red, red]", "classes has 'red' twice"),
    "half the phrases": ("green: some other sort", "green: ''", "some classes have a phrase and some have none"),
    "no source": ("    folder: data/color\n", "", r"line 5, column 3|needs either a folder or a hub name"),
    "both sources": ("folder: data/color", "folder: data/color\n    hub: x/y", "needs either a folder or a hub name"),
    "a word": (
        "text: sentence\n    c",
        "text: 3\n    c",
        r"text of task 'color' must be the name of a column, and is the number 3",
    ),
}
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_what_a_file_cannot_say_is_refused_with_its_place(home: Path, name: str) -> None:
    old, new, message = WRONG[name]
    assert old in TEXTS
    with pytest.raises(ParameterError, match=message):
        read_suite(written(home, TEXTS.replace(old, new, 1)))


def test_data_that_are_not_there_or_do_not_fit_are_refused_with_the_task_s_line(home: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"changed.yml', line 9, column 3: .*gone.*\nFix: put train.parquet with"):
        read_suite(written(home, TEXTS.replace("data/animal", "data/gone")))
    with pytest.raises(
        SchemaError, match=r"line 9, column 3: the split 'train' of task 'animal' has no column 'texts'"
    ):
        read_suite(written(home, TEXTS[: -len("sentence\n")] + "texts\n"))
    with pytest.raises(ParameterError, match=r"line 5, column 3: the label '.*' of task 'color' is not one of its"):
        read_suite(written(home, TEXTS.replace("green: some", "gren: some")))
    shutil.copytree(home / "data" / "animal", home / "data" / "empty")
    (home / "data" / "empty" / "test.csv").write_text("sentence,label\n")
    with pytest.raises((ParameterError, FormatError), match=r"line 9, column 3"):
        read_suite(written(home, TEXTS.replace("data/animal", "data/empty")))
    with pytest.raises(ParameterError, match=r"line 6, column \d+: 'text' is not for images"):
        read_suite(written(home, IMAGES.replace("{folder: images}", "{folder: images, text: x}")))
    with pytest.raises(FormatError, match=r"line 6, column 3: the task 'color' has no 'train' images"):
        read_suite(written(home, IMAGES.replace("folder: images", "folder: gone")))
    with pytest.raises(ParameterError, match=r"the suite '.*none.yml' cannot be read"):
        read_suite(tmp_path / "none.yml")
    with pytest.raises(UnknownName, match="has no task 'colour'"):
        suite_named(str(home / "texts.yml"), tasks=["colour"])


def test_a_head_of_other_classes_is_refused(home: Path) -> None:
    suite = read_suite(home / "texts.yml")
    encoder, wrong = encoder_of(suite), Head(torch.eye(3, 32), 20.0)
    with pytest.raises(SchemaError, match=r"the head has 3 classes, the task 'color' has 2\.\nFix: make the head of"):
        prepare(encoder, suite, split="test", heads={"color": wrong, "animal": wrong})
    with pytest.raises(SchemaError, match="the head has 3 classes, the task 'color' has 2"):
        tune(encoder, suite.task("color"), head=wrong)


def test_the_suites_of_the_page_say_what_can_be_said(tmp_path: Path) -> None:
    """Every key of the page is known: all that is missing are the data."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "suites.md").read_text("utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for text in blocks:
        with pytest.raises(FormatError, match=r"\nFix: put "):
            read_suite(written(tmp_path, text))
    tasks = blocks[0][blocks[0].index("  pairs:") :]
    (tmp_path / "data" / "pairs").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (tmp_path / "data" / "pairs" / f"{split}.csv").write_text("text,text_b,label\na,b,yes\nc,d,no\n")
    tasks = tasks.replace("owner/name", str(tmp_path / "gone"))  # no test asks the hub
    with pytest.raises(FormatError, match=r"the data set '.*gone' of the hub cannot be fetched"):
        read_suite(written(tmp_path, f"base: x\ntasks:\n{tasks}"))
