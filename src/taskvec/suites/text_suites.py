"""The suites `text8` and `text12`: public text classification tasks, from a folder of parquet files."""

from collections.abc import Sequence
from pathlib import Path

from taskvec.errors import UnknownName
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

CONTROL = MORE[0]
RATES = {"standard": 5e-5, "tangent": 1e-4}


def text8(data: str | Path, *, base: str | None = None, tasks: Sequence[str] | None = None) -> Suite:
    """Eight tasks: sentiment, subjectivity, questions, grammar, news, banking, programming, emotion.

    Args:
        data: a folder with `TASK/{train,val,test}.parquet`: columns text and label (which knows its classes' names),
            and text_b for pairs. A missing validation split is cut from the training texts. Where the folder holds
            clinc150 too, it is the control of negations.
        base: folder or hub id of the encoder; default: all-MiniLM-L6-v2.
        tasks: some of the tasks, in this order; None for all.

    Raises:
        FormatError: a task's data are not there; names it and what to put where. UnknownName: there is no such task.
    """
    return _suite("text8", TEXT8, data, base, tasks)


def text12(data: str | Path, *, base: str | None = None, tasks: Sequence[str] | None = None) -> Suite:
    """`text8` and four more: intents, paraphrases, irony, spam; arguments as there."""
    return _suite("text12", (*TEXT8, *MORE), data, base, tasks)


def _suite(
    name: str, tables: tuple[Table, ...], data: str | Path, base: str | None, chosen: Sequence[str] | None
) -> Suite:
    folder, known = Path(data), {table.name: table for table in tables}
    for each in chosen or ():
        if each not in known:
            raise UnknownName.among(f"suite '{name}' has no task '{each}'.", each, known)
    tasks = tuple(read_task(known[each], folder) for each in chosen or known)
    controls = [task for task in tasks if task.name == CONTROL.name]
    if not controls and (folder / CONTROL.name).is_dir():
        controls = [read_task(CONTROL, folder)]
    return Suite(
        name=name,
        base=base or base_source(),
        tasks=tasks,
        temperature=DEFAULT_TEMPERATURE,
        versions={},
        controls=tuple(controls),
        learning_rates=RATES,
    )
