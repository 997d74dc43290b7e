"""Run a command and account for it: wall time, CPU time, peak anonymous memory (page cache is not counted)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORK = Path(os.environ.get("TASKVEC_BENCH", Path(__file__).parent / "work"))


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds and bytes of one finished process."""

    wall: float
    cpu: float
    peak_anonymous: int
    code: int


def run(command: list[str], **options: Any) -> Run:
    """Run `command` to its end; RssAnon is sampled every 20 ms, the rest is the kernel's own accounting."""
    peak = 0
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.02):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]) * 1024)

    watcher = threading.Thread(target=sample)
    watcher.start()
    _, code, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    done.set()
    watcher.join()
    return Run(wall, usage.ru_utime + usage.ru_stime, peak, os.waitstatus_to_exitcode(code))


def python(code: str) -> list[str]:
    """The command that runs `code` in this interpreter."""
    return [sys.executable, "-c", code]


def median(runs: list[Run]) -> dict[str, float]:
    """The median of each figure."""
    rows = [asdict(r) for r in runs]
    return {key: sorted(row[key] for row in rows)[len(rows) // 2] for key in rows[0] if key != "code"}


def environment() -> dict[str, Any]:
    """What a reader needs to judge the numbers; no host names, no paths."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in lines if "model name" in x), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = {p: metadata.version(p) for p in ("torch", "numpy", "numba", "safetensors", "blake3")}
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.system(),
        "packages": packages,
        "date": time.strftime("%Y-%m-%d"),
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write one claim's numbers to results/<name>.json, and the environment beside it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    (RESULTS / "environment.json").write_text(json.dumps(environment(), indent=2, sort_keys=True) + "\n")
    return path
