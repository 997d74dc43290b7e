"""The suites by name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from taskvec.errors import ParameterError, UnknownName
from taskvec.suites.docs8 import docs8
from taskvec.suites.own import read_suite
from taskvec.suites.task import Suite
from taskvec.suites.text_suites import text8, text12

_FROM_TABLES = {"text8": text8, "text12": text12}
SUITES = ("docs8", *_FROM_TABLES)


def suite_named(
    name: str, *, data: str | Path | None = None, base: str | None = None, tasks: Sequence[str] | None = None
) -> Suite:
    """The suite of that name, or of that file.

    Args:
        name: docs8, text8, text12, or the path of a YAML file (see `read_suite`).
        data: the folder of its tables, for suites that read them.
        base: folder or hub id of the encoder; default: the suite's own.
        tasks: some of its tasks, in this order; None for all.

    Raises:
        UnknownName: no such suite or task; the nearest is suggested.
        ParameterError: it needs `data`. FormatError: a task's data are not there.
    """
    if name.endswith((".yml", ".yaml")):
        return chosen(read_suite(name, base=base), tasks)
    if name in _FROM_TABLES:
        if data is None:
            raise ParameterError(
                f"the suite '{name}' is read from a folder of tables, and none was given.",
                "put TASK/train.parquet and TASK/test.parquet into a folder and give it: --data FOLDER.",
            )
        return _FROM_TABLES[name](data, base=base, tasks=tasks)
    if name not in SUITES:
        raise UnknownName.among(f"there is no suite '{name}'.", name, SUITES)
    return chosen(docs8(base=base), tasks)


def chosen(suite: Suite, tasks: Sequence[str] | None) -> Suite:
    """The suite with these tasks alone, in this order; with all of them for None."""
    return suite if tasks is None else replace(suite, tasks=tuple(suite.task(each) for each in tasks))
