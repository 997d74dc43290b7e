"""The command as a process: imports, exit codes, pipes, interrupts."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import taskvec as tv
from cli_cases import ENVIRONMENT, folder, on_a_terminal, process, tensors
from taskvec.cli._app import verbs

HEAVY = ["torch", "numpy", "transformers", "numba", "scipy", "sklearn", "yaml", "filelock", "pydantic"]
COMMANDS = [[], *([verb] for verb in verbs()), *(["store", v] for v in ("create", "add", "list", "show", "verify"))]
SPY = """
import json, sys
from taskvec.cli import main
try:
    main()
finally:
    peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss counts the parent's, too
    print(json.dumps([sorted(m for m in sys.argv[1].split(",") if m in sys.modules), peak]), file=sys.stderr)
"""


def spied(*arguments: str, heavy: list[str] = HEAVY) -> tuple[list[str], int]:
    """Which heavy modules a call imports, and its peak memory in kB."""
    code = SPY.replace("sys.argv[1]", repr(",".join(heavy)))
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | ENVIRONMENT)
    loaded, peak = json.loads(result.stderr.splitlines()[-1])
    return loaded, peak


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    loaded, peak = spied(*command, "--help")
    assert loaded == []
    assert peak < 60_000


def test_info_reads_headers_without_numpy_or_torch(tmp_path: Path) -> None:
    folder(tmp_path / "base", tensors(0))
    loaded, peak = spied("info", str(tmp_path / "base"), heavy=["torch", "numpy", "transformers", "numba"])
    assert loaded == []
    assert peak < 60_000


def test_the_module_runs_as_the_command(tmp_path: Path) -> None:
    result = process("--version")
    assert (result.returncode, result.stdout) == (0, f"taskvec {tv.__version__}\n")


def test_exit_codes(tmp_path: Path) -> None:
    folder(tmp_path / "base", tensors(0))
    assert process("info", tmp_path / "base").returncode == 0
    refused = process("info", tmp_path / "nope")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[0] == f"Error: '{tmp_path / 'nope'}' does not exist."
    assert refused.stderr.splitlines()[1].startswith("Fix: ")
    assert process("info").returncode == 2


def test_a_traceback_is_shown_on_request_only(tmp_path: Path) -> None:
    assert "Traceback" not in process("info", tmp_path / "nope").stderr
    shown = process("info", tmp_path / "nope", env={"TASKVEC_DEBUG": "1"})
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr
    assert "\nError: " in shown.stderr


def test_a_bug_stays_a_traceback(tmp_path: Path) -> None:
    code = "import sys; from taskvec.checkpoint import kinds; from taskvec.cli import main; del kinds.is_store; main()"
    folder(tmp_path / "base", tensors(0))
    command = [sys.executable, "-c", code, "info", str(tmp_path / "base")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "NameError" in result.stderr
    assert "Traceback" in result.stderr


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    folder(tmp_path / "base", tensors(0))
    command = [sys.executable, "-m", "taskvec", "info", str(tmp_path / "base")]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


# --- long work -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of 128 MB and a vector of it."""
    root = tmp_path_factory.mktemp("big")
    generator = torch.Generator().manual_seed(0)
    table = {f"layer.{i:02}.weight": torch.randn(1024, 1024, generator=generator) for i in range(32)}
    folder(root / "base", table)
    base = tv.Checkpoint.open(root / "base")
    delta = torch.randn(1024, 1024, generator=generator)
    tv.TaskVector.from_tensors(dict.fromkeys(table, delta), base=base).save(root / "v.tv.safetensors", codec="int8")
    return root


def command(big: Path, output: Path) -> list[str]:
    arguments = ["apply", str(big / "base"), "0.5*v", "-o", str(output)]
    options = ["--vectors", f"v={big / 'v.tv.safetensors'}", "--threads", "1"]
    return [sys.executable, "-m", "taskvec", *arguments, *options]


def interrupted(big: Path, output: Path, **options: Any) -> subprocess.Popen[str]:
    """An apply that is interrupted when some of its tensors are finished."""
    environment = os.environ | ENVIRONMENT
    running = subprocess.Popen(command(big, output), stderr=subprocess.PIPE, text=True, env=environment, **options)
    journal = output.with_name(f".{output.name}.partial") / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert running.poll() is None
        time.sleep(0.002)
    running.send_signal(signal.SIGINT)
    return running


def test_an_interrupt_keeps_what_is_finished_and_the_same_command_completes(big: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(big, whole), check=True, capture_output=True)
    running = interrupted(big, output)
    started = time.monotonic()
    _, message = running.communicate()
    assert running.returncode == 130
    assert time.monotonic() - started < 5  # a second where nothing else runs
    assert "Traceback" not in message
    first, second = message.splitlines()
    assert re.match(r"Interrupted after \d[\d.]* MB of 134 MB: what is finished is kept in ", first)
    assert first.endswith(f" in '{tmp_path / '.out.partial'}'; '{output}' is untouched.")
    assert second.startswith("To resume: run the same command again.")
    assert not output.exists()
    subprocess.run(command(big, output), check=True, capture_output=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]
    for file in whole.iterdir():
        assert (output / file.name).read_bytes() == file.read_bytes()


def test_an_interrupt_before_anything_was_written_says_so(tmp_path: Path) -> None:
    code = """
import os, signal
from taskvec.cli import _vector_argument, main
from taskvec.cli._progress import Working, partial_of
from pathlib import Path
def stop(text):
    with Working("reading", "'out'", kept=partial_of(Path("out")), quiet=False):
        os.kill(os.getpid(), signal.SIGINT)
_vector_argument.what_is = stop
main()
"""
    command = [sys.executable, "-c", code, "extract", "base", "math", "-o", "out.tv.safetensors"]
    folder(tmp_path / "base", tensors(0))
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (130, "Interrupted: nothing of 'out' was written.\n")


PRESSED = """
import os, signal, sys
class Press:
    def find_spec(self, name, *_):
        if name == NAME:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
from _taskvec_command import main
main()
"""


@pytest.mark.parametrize("module", ["taskvec", "typer", "taskvec.cli._app"])
def test_an_interrupt_of_the_imports_is_no_traceback(module: str) -> None:
    command = [sys.executable, "-c", PRESSED.replace("NAME", repr(module)), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "Interrupted.\n")


def test_the_console_script_is_the_command() -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text("utf-8"))["project"]["scripts"]
    module, _, function = scripts["taskvec"].partition(":")
    command = [sys.executable, "-c", f"import {module}; {module}.{function}()", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"taskvec {tv.__version__}\n"


SLOW = """
import os, signal, time
from taskvec.cli import main
from taskvec.methods import merge_method
from taskvec.methods._method import Fold
def step(block, **_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
@merge_method(source="a test", folds=(Fold(step, lambda total, *_, **__: total),))
def slow(deltas, *, state):
    return deltas.sum(0)
main()
"""


def test_an_interrupt_in_the_middle_of_a_statistic_stops_at_once(big: Path, tmp_path: Path) -> None:
    inputs = [f"{name}={big / 'v.tv.safetensors'}" for name in ("a", "b")]
    arguments = ["merge", "--method", "slow", "--base", str(big / "base"), *inputs, "-o", str(tmp_path / "out")]
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", SLOW, *arguments], capture_output=True, text=True, check=False)
    assert time.monotonic() - started < 30
    assert (result.returncode, result.stderr) == (130, f"Interrupted: nothing of '{tmp_path / 'out'}' was written.\n")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_silent_where_nobody_looks(big: Path, tmp_path: Path) -> None:
    result = subprocess.run(command(big, tmp_path / "out"), capture_output=True, text=True, check=True)
    assert result.stderr == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_shown_on_a_terminal_unless_quiet(big: Path, tmp_path: Path, quiet: bool) -> None:
    shown = on_a_terminal(*command(big, tmp_path / "out")[3:], *(["--quiet"] * quiet))
    assert ("writing" in shown and "/134.2 MB" in shown) is not quiet


def test_a_full_disk_is_refused_and_what_is_finished_is_kept(big: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000_000, 40_000_000))

    output = tmp_path / "out"
    environment = os.environ | ENVIRONMENT
    result = subprocess.run(
        command(big, output), capture_output=True, text=True, check=False, preexec_fn=limit, env=environment
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: the disk is full")
    assert "\nFix: free some space." in result.stderr
    assert not output.exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = Path("/sys/taskvec.tv.safetensors")  # root may write wherever a file system allows it
    else:
        target = tmp_path / "closed" / "v.tv.safetensors"
        target.parent.mkdir(mode=0o500)
    folder(tmp_path / "base", tensors(0))
    folder(tmp_path / "math", tensors(1))
    result = process("extract", tmp_path / "base", tmp_path / "math", "-o", target)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: '{target}' cannot be written: ")
    assert "Traceback" not in result.stderr


def test_two_writers_of_one_output_do_not_meet(big: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = subprocess.Popen(command(big, output), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    while not journal.exists():
        assert first.poll() is None
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGSTOP)
    second = process(*command(big, output)[3:])
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0
    assert second.returncode == 1
    assert "another process is writing" in second.stderr
    assert (output / "model.safetensors").exists()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-1])
    result = process("info", tmp_path / "x.safetensors")
    assert result.returncode == 1
    assert "it is truncated" in result.stderr
