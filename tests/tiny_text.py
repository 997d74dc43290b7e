"""A real transformers encoder with random weights, small enough to train in a second, and a task it can learn."""

from collections.abc import Iterable
from pathlib import Path

import torch
import transformers

from taskvec.suites import Split, Suite, Task, TextEncoder, base_source

COLORS = ("red", "green", "blue", "yellow")
ANIMALS = ("dog", "cat", "horse", "mouse")
WORDS = (COLORS[:2], ANIMALS[:2], COLORS[2:], ANIMALS[2:])


def write_tiny_encoder(folder: Path) -> Path:
    """A two-layer BERT of width 32 with the tokenizer of MiniLM."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_source())
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_task(name: str, words: tuple[str, str], *, metric: str = "accuracy") -> Task:
    """Which of two words is in the sentence?"""
    fillers = ("a", "the", "one", "this", "that", "some", "any", "every", "no", "my")
    rows = [
        (f"{filler} {word} thing {n}", label)
        for n in range(8)
        for filler in fillers
        for label, word in enumerate(words)
    ]
    return Task(
        name=name,
        classes=words,
        phrases=("the first kind", "some other sort"),  # says nothing about the words
        splits={"train": _split(rows[:80]), "val": _split(rows[80:110]), "test": _split(rows[110:])},
        metric=metric,
    )


def _split(rows: list[tuple[str, int]]) -> Split:
    return Split(tuple(text for text, _ in rows), tuple(label for _, label in rows))


def tiny_suite(folder: Path) -> Suite:
    """Two word tasks on the tiny encoder."""
    tasks = (word_task("color", COLORS[:2]), word_task("animal", ANIMALS[:2]))
    return Suite(name="tiny", base=str(folder), tasks=tasks, temperature=20.0, versions={})


def open_tiny(folder: Path) -> TextEncoder:
    """The encoder of `write_tiny_encoder`."""
    return TextEncoder.open(folder)


def write_tables(folder: Path, names: Iterable[str]) -> Path:
    """`NAME/{train,val,test}.csv` for the tasks of a suite that reads tables: word tasks with words of their own."""
    for at, name in enumerate(names):
        words = WORDS[at % len(WORDS)]
        (folder / name).mkdir(parents=True)
        for split, rows in word_task(name, words).splits.items():
            lines = [f"{text},{words[label]}" for text, label in zip(rows.texts, rows.labels, strict=True)]
            (folder / name / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return folder
