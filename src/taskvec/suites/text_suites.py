"""The suites `text8` and `text12`: public text classification tasks, from a folder of parquet files."""

from pathlib import Path

from taskvec.suites.encoder import base_source
from taskvec.suites.head import DEFAULT_TEMPERATURE
from taskvec.suites.tables import Table, read_task
from taskvec.suites.task import Suite

TEXT8 = tuple(
    Table(name=name)
    for name in ("sst2", "subj", "trec6", "cola", "ag_news", "banking77", "stackoverflow", "tweet_emotion")
)
MORE = (
    Table(name="clinc150"),
    Table(name="mrpc", pair="text_b"),
    Table(name="tweet_irony"),
    Table(name="sms_spam"),
)


def text8(data: str | Path, *, base: str | None = None) -> Suite:
    """Eight tasks: sentiment, subjectivity, questions, grammar, news, banking, programming, emotion.

    Args:
        data: a folder with `TASK/{train,val,test}.parquet`: columns text and label (which knows its classes' names),
            and text_b for pairs. A missing validation split is cut from the training texts.
        base: folder or hub id of the encoder; default: all-MiniLM-L6-v2.

    Raises:
        FormatError: a task's data are not there; names it and what to put where.
    """
    return _suite("text8", TEXT8, data, base)


def text12(data: str | Path, *, base: str | None = None) -> Suite:
    """`text8` and four more: intents, paraphrases, irony, spam; arguments as there."""
    return _suite("text12", (*TEXT8, *MORE), data, base)


def _suite(name: str, tables: tuple[Table, ...], data: str | Path, base: str | None) -> Suite:
    tasks = tuple(read_task(table, Path(data)) for table in tables)
    return Suite(name=name, base=base or base_source(), tasks=tasks, temperature=DEFAULT_TEMPERATURE, versions={})
