"""`taskvec --help` and `taskvec info` on the header of a 1.1 B-parameter checkpoint: seconds and peak memory."""

from __future__ import annotations

import sys

import _measure
import _models

RUNS = 7


def main() -> None:
    """Measure both, after one run that warms the caches; write the JSON."""
    base = _models.make(_measure.WORK / "base", seed=None, plant=True)
    command = [sys.executable, "-m", "taskvec"]
    result = {}
    for key, arguments in (("help", ["--help"]), ("info", ["info", str(base)])):
        _measure.run([*command, *arguments])
        result[key] = _measure.median([_measure.run([*command, *arguments]) for _ in range(RUNS)])
    print(_measure.write("cli_startup", result).read_text())


if __name__ == "__main__":
    main()
