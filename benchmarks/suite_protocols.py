"""A suite end to end, as `taskvec bench` runs it: merges at their best scales, codecs, negation, maps, analyses.

Everything is kept in `work/bench-SUITE`, so that an interrupted run goes on; writes one `<suite>-seed<k>.json` a seed.
"""

from __future__ import annotations

import argparse
import os

import _measure
from taskvec.bench import BenchSettings, bench
from taskvec.suites import SUITES, suite_named

DATA = os.environ.get("TASKVEC_DATA")  # TASK/{train,val,test}.parquet, for the suites of texts


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="docs8", choices=SUITES)
    parser.add_argument("--regime", default="standard")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    settings = BenchSettings(regime=options.regime, steps=options.steps, seeds=tuple(options.seeds))
    found = bench(suite_named(options.suite, data=DATA), _measure.WORK / f"bench-{options.suite}", settings)
    regime = "" if options.regime == "standard" else f"-{options.regime}"
    for record in found.runs:
        _measure.write(f"{options.suite}{regime}-seed{record['seed']}", {"suite": found.suite, **record})
    for row in found.summary:
        print(f"{row['protocol']:12} {row['name']:20} {row['mean']:6.1%}")


if __name__ == "__main__":
    main()
