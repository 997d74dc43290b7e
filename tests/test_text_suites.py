"""Tasks from tables of texts: parquet, CSV, pairs, missing splits, and what is refused."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from taskvec.errors import FormatError, ParameterError, SchemaError
from taskvec.suites import TextEncoder, text8, text12
from taskvec.suites.tables import Table, read_task
from taskvec.suites.text_suites import MORE, TEXT8

NAMES = ["bad", "good"]


def rows(count: int, start: int = 0) -> dict[str, list[Any]]:
    texts = [f"text number {start + i}" for i in range(count)]
    return {"text": texts, "label": [i % 2 for i in range(count)]}


def write(folder: Path, split: str, table: dict[str, list[Any]], *, names: list[str] | None = NAMES) -> None:
    data = datasets.Dataset.from_dict(table)
    if names:
        data = data.cast_column("label", datasets.ClassLabel(names=names))
    folder.mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(folder / f"{split}.parquet"))


def test_a_folder_of_parquet_files_is_a_task(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val", "test")):
        write(tmp_path / "t", split, rows(20, 100 * i))
    task = read_task(Table(name="t"), tmp_path)
    assert task.classes == task.phrases == ("bad", "good")
    for i, split in enumerate(("train", "val", "test")):
        expected = dict(zip(rows(20, 100 * i)["text"], rows(20)["label"], strict=True))
        found = task.split(split)
        assert dict(zip(found.texts, found.labels, strict=True)) == expected
        assert found.texts != tuple(expected)  # a fixed order that is not the file's
    assert read_task(Table(name="t"), tmp_path) == task


def test_csv_files_with_words_as_labels(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "t" / f"{split}.csv").write_text("text,label\nI like it,yes\nI do not,no_way\n")
    task = read_task(Table(name="t", phrases=("a refusal", "consent")), tmp_path)
    assert task.classes == ("no_way", "yes")
    assert task.phrases == ("a refusal", "consent")
    split = task.split("test")
    assert dict(zip(split.texts, split.labels, strict=True)) == {"I like it": 1, "I do not": 0}
    assert read_task(Table(name="t"), tmp_path).phrases == ("no way", "yes")


def test_words_mean_the_same_in_every_split(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for split, lines in (("train", "a,no\nb,maybe\nc,yes\n"), ("val", "d,yes\n"), ("test", "e,maybe\nf,yes\n")):
        (tmp_path / "t" / f"{split}.csv").write_text("text,label\n" + lines)
    task = read_task(Table(name="t"), tmp_path)
    assert task.classes == ("maybe", "no", "yes")
    assert task.split("val").labels == (2,)
    test = task.split("test")
    assert dict(zip(test.texts, test.labels, strict=True)) == {"e": 0, "f": 2}


def test_without_a_validation_split_a_tenth_of_the_training_texts_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", rows(1000))
    write(tmp_path / "t", "test", rows(20, 5000))
    task = read_task(Table(name="t"), tmp_path)
    train, val = set(task.split("train").texts), set(task.split("val").texts)
    assert train | val == set(rows(1000)["text"])
    assert not train & val
    assert 60 < len(val) < 140


def test_pairs_are_joined(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / "t", split, {**rows(4), "other": ["b"] * 4})
    task = read_task(Table(name="t", pair="other"), tmp_path)
    assert "text number 0 [SEP] b" in task.split("train").texts


def test_the_separator_of_a_pair_is_the_models_own_token(tmp_path: Path) -> None:
    encoder = TextEncoder.open()
    for split in ("train", "val", "test"):
        write(tmp_path / "t", split, {**rows(1), "other": ["b"]})
    (joined,) = read_task(Table(name="t", pair="other"), tmp_path).split("train").texts
    separator = encoder.tokenizer.sep_token_id
    assert encoder.batch([joined])["input_ids"][0].tolist().count(separator) == 2  # between the texts and at the end
    pair = encoder.tokenizer("text number 0", "b")["input_ids"]
    assert encoder.batch([joined])["input_ids"][0].tolist() == pair


def test_what_is_missing_is_named_with_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no 'train' split: .*train\.parquet' is not there\.\nFix: put train"):
        read_task(Table(name="t"), tmp_path)
    for split in ("train", "test"):
        write(tmp_path / "t", split, rows(20))
    with pytest.raises(SchemaError, match="the split 'train' of task 't' has no column 'sentence'; it has"):
        read_task(Table(name="t", text="sentence"), tmp_path)
    (tmp_path / "t" / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(FormatError, match=r"test\.parquet' cannot be read as parquet"):
        read_task(Table(name="t"), tmp_path)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", rows(20))
    write(tmp_path / "t", "test", rows(20), names=["bad", "fine"])
    with pytest.raises(SchemaError, match="the class 'fine' of the split 'test' of task 't' is not one of"):
        read_task(Table(name="t"), tmp_path)
    write(tmp_path / "t", "train", rows(20), names=None)
    with pytest.raises(SchemaError, match="the labels of the split 'train' of task 't' are numbers without names"):
        read_task(Table(name="t"), tmp_path)
    write(tmp_path / "t", "test", {**rows(20), "label": [7] * 20}, names=None)
    with pytest.raises(ParameterError, match="label 7 of text 0 in the split 'test'"):
        read_task(Table(name="t", classes=("bad", "good")), tmp_path)


def test_the_suites_have_the_tasks_that_the_papers_protocols_need() -> None:
    assert [t.name for t in TEXT8] == [
        *("sst2", "subj", "trec6", "cola", "ag_news", "banking77", "stackoverflow", "tweet_emotion")
    ]
    assert [t.name for t in MORE] == ["clinc150", "mrpc", "tweet_irony", "sms_spam"]


@pytest.mark.shared
def test_the_development_data_give_both_suites(shared: Path) -> None:
    suite = text12(shared / "data" / "text")
    assert suite.names()[:8] == text8(shared / "data" / "text").names()
    for task in suite.tasks:
        assert min(len(task.split(split)) for split in ("train", "val", "test")) > 300
    assert " [SEP] " in suite.task("mrpc").split("train").texts[0]
    assert len(suite.task("banking77").classes) == 77
