"""What is loaded when: importing the package, and asking the command line for help, load nothing heavy."""

import json
import os
import subprocess
import sys

import pytest

from source_tree import ROOT

HEAVY = ["torch", "transformers", "numpy", "numba", "safetensors", "huggingface_hub", "datasets", "peft", "pydantic"]


def loaded_after(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stderr.strip().splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import taskvec",
        "import taskvec as tv; tv.Checkpoint, tv.TaskVector, tv.__version__, dir(tv)",
        "from taskvec.expression import parse; parse('0.7*math - toxic').coefficients()",
        "from taskvec.ops.dtypes import dtype_of; dtype_of('bf16')",
    ],
)
def test_importing_the_package_loads_nothing_heavy(code):
    assert loaded_after(code) == []


def test_opening_a_checkpoint_and_reading_its_specs_loads_no_torch(tmp_path):
    import safetensors.torch
    import torch

    safetensors.torch.save_file({"w": torch.ones(2, 3)}, tmp_path / "m.safetensors")
    code = f"import taskvec; assert taskvec.Checkpoint.open({str(tmp_path / 'm.safetensors')!r}).names() == ['w']"
    assert not {"torch", "transformers", "numba"} & set(loaded_after(code))


def test_asking_the_command_line_for_help_loads_nothing_heavy():
    code = (
        "import contextlib, io\n"
        "from taskvec.cli import main\n"
        "sys.argv = ['taskvec', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "assert 'extract' in text.getvalue()"
    )
    assert loaded_after(code) == []


@pytest.mark.parametrize(
    "line",
    [
        "linear --set coefficients=0.5 --dialect mergekit {0} {1}",
        "slerp --set t=0.3 {0} {1}",
        "task_arithmetic --set coefficients=0.4 --base {0} {1} {2}",
        "ties --base {0} {1} {2}",
        "dare_ties --base {0} {1} {2}",
        "breadcrumbs_ties --base {0} {1} {2}",
    ],
)
def test_a_merge_by_compiled_loops_loads_no_torch(tmp_path, line):
    """Loading it takes longer than merging a small model."""
    import safetensors.torch
    import torch

    models = [str(tmp_path / f"{i}.safetensors") for i in range(3)]
    for number, path in enumerate(models):
        safetensors.torch.save_file({"w": torch.randn(8, 4, generator=torch.Generator().manual_seed(number))}, path)
    words = [*line.format(*models).split(), "-o", str(tmp_path / "out.safetensors"), "--quiet"]
    code = (
        "import contextlib\n"
        "from taskvec.cli import main\n"
        f"sys.argv = ['taskvec', 'merge', '--method', *{words!r}]\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main()"
    )
    assert "torch" not in loaded_after(code)
    assert (tmp_path / "out.safetensors").is_file()


def test_the_probe_sees_what_is_loaded():
    assert loaded_after("import numpy") == ["numpy"]
