"""The suites `text8` and `text12`: public text classification tasks, from a folder of parquet files or the hub."""

from pathlib import Path

from taskvec.suites.encoder import base_source
from taskvec.suites.head import DEFAULT_TEMPERATURE
from taskvec.suites.tables import Table, read_task
from taskvec.suites.task import Suite

_TWEETS = "cardiffnlp/tweet_eval"
_GLUE = "nyu-mll/glue"
_AS_TEST = {"test": "validation", "val": "none"}  # GLUE's own test labels are not public

TEXT8 = (
    Table(name="sst2", hub="SetFit/sst2", splits={"val": "validation"}),
    Table(name="subj", hub="SetFit/subj"),
    Table(name="trec6", hub="CogComp/trec"),
    Table(name="cola", hub=_GLUE, config="cola", splits=_AS_TEST),
    Table(name="ag_news", hub="fancyzhx/ag_news"),
    Table(name="banking77", hub="PolyAI/banking77"),
    Table(name="stackoverflow"),
    Table(name="tweet_emotion", hub=_TWEETS, config="emotion", splits={"val": "validation"}),
)
MORE = (
    Table(name="clinc150", hub="clinc/clinc_oos", config="plus", splits={"val": "validation"}),
    Table(name="mrpc", hub=_GLUE, config="mrpc", pair="text_b", splits={"val": "validation"}),
    Table(name="tweet_irony", hub=_TWEETS, config="irony", splits={"val": "validation"}),
    Table(name="sms_spam", hub="ucirvine/sms_spam"),
)


def text8(*, data: str | Path | None = None, base: str | None = None) -> Suite:
    """Eight tasks: sentiment, subjectivity, questions, grammar, news, banking, programming, emotion.

    Args:
        data: a folder with `TASK/{train,val,test}.parquet` (columns text, label); None reads the hub.
        base: folder or hub id of the encoder; default: all-MiniLM-L6-v2.

    Raises:
        FormatError: a task's data are not there; names it and what to put where.
    """
    return _suite("text8", TEXT8, data, base)


def text12(*, data: str | Path | None = None, base: str | None = None) -> Suite:
    """`text8` and four more: intents, paraphrases, irony, spam; arguments as there."""
    return _suite("text12", (*TEXT8, *MORE), data, base)


def _suite(name: str, tables: tuple[Table, ...], data: str | Path | None, base: str | None) -> Suite:
    tasks = tuple(read_task(table, Path(data) if data is not None else None) for table in tables)
    return Suite(name=name, base=base or base_source(), tasks=tasks, temperature=DEFAULT_TEMPERATURE, versions={})
