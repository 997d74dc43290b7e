"""The suites by name."""

from pathlib import Path

from taskvec.errors import ParameterError, UnknownName
from taskvec.suites.docs8 import docs8
from taskvec.suites.task import Suite
from taskvec.suites.text_suites import text8, text12

_FROM_TABLES = {"text8": text8, "text12": text12}
SUITES = ("docs8", *_FROM_TABLES)


def suite_named(name: str, *, data: str | Path | None = None, base: str | None = None) -> Suite:
    """The suite of that name.

    Args:
        name: docs8, text8 or text12.
        data: the folder of its tables, for suites that read them.
        base: folder or hub id of the encoder; default: the suite's own.

    Raises:
        UnknownName: there is none; the nearest is suggested.
        ParameterError: it needs `data`, or takes none. FormatError: a task's data are not there.
    """
    if name in _FROM_TABLES:
        if data is None:
            raise ParameterError(
                f"the suite '{name}' is read from a folder of tables, and none was given.",
                "put TASK/train.parquet and TASK/test.parquet into a folder and give it: --data FOLDER.",
            )
        return _FROM_TABLES[name](data, base=base)
    if name not in SUITES:
        raise UnknownName.among(f"there is no suite '{name}'.", name, SUITES)
    return docs8(base=base)
