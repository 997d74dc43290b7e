"""Run every benchmark, one after the other; each writes its JSON into results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run all scripts whose names do not begin with an underscore; stop at the first that fails."""
    for script in sorted(HERE.glob("*.py")):
        if script.name.startswith("_") or script == Path(__file__):
            continue
        print(f"== {script.name}", flush=True)
        subprocess.run([sys.executable, str(script)], check=True)


if __name__ == "__main__":
    main()
