"""Methods of other packages: one file and its oracle, registered through an entry point, held to the same contract."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

METHOD = '''
"""Midrange: the middle between the smallest and the largest delta."""
from jaxtyping import Float
from torch import Tensor

from taskvec.methods import merge_method


@merge_method(source="an example", laws={"permutation", "homogeneous", "zero", "idempotent"})
def midrange(deltas: Float[Tensor, "task *shape"]) -> Float[Tensor, "*shape"]:
    """The mean of the smallest and the largest delta, entry by entry.

    Differs from the paper: nothing.
    """
    return (deltas.amin(0) + deltas.amax(0)) / 2
'''
ORACLE = """
def reference(stacks):
    return {name: (x.min(0) + x.max(0)) / 2 for name, x in stacks.items()}
"""
USE = """
import torch, taskvec as tv
from taskvec.testing import check_method
from oracle import reference

assert "midrange" in tv.methods.names()
assert tv.methods.get("midrange").source == "an example"
vectors = [tv.TaskVector.from_tensors({"w": torch.tensor(x)}) for x in ([1.0, 2.0], [3.0, -2.0], [2.0, 9.0])]
assert tv.merge("midrange", vectors)["w"].tolist() == [2.0, 3.5]
check_method("midrange", reference)
"""


def package(folder: Path, *, method: str = METHOD, entry: str = "midrange = outside_method:midrange") -> Path:
    """A package as an installer would leave it: the module, and its metadata with the entry point."""
    info = folder / "outside_method-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "outside_method.py").write_text(method)
    (folder / "oracle.py").write_text(ORACLE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[taskvec.methods]\n{entry}\n")
    return folder


def run(folder: Path, code: str) -> subprocess.CompletedProcess:
    start = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_method_of_another_package_is_one_file_and_its_oracle(tmp_path):
    done = run(package(tmp_path), USE)
    assert done.returncode == 0, done.stderr


def test_an_entry_point_may_name_a_module(tmp_path):
    done = run(package(tmp_path, entry="anything = outside_method"), USE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("method", "entry", "message"),
    [
        ("import nowhere_to_be_found", "midrange = outside_method:midrange", "ModuleNotFoundError"),
        (METHOD, "midrange = outside_method:renamed", "AttributeError"),
        (
            METHOD.replace("midrange", "ties"),
            "ties = outside_method:ties",
            "a merge method named 'ties' exists already",
        ),
    ],
)
def test_a_package_that_does_not_load_is_named(method, entry, message, tmp_path):
    code = """
        import taskvec as tv
        from taskvec.errors import ParameterError
        assert tv.methods.get("average").name == "average"  # ours do not need it
        try:
            tv.methods.names()
        except ParameterError as error:
            print(error)
    """
    done = run(package(tmp_path, method=method, entry=entry), code)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout
    assert "package outside-method) does not load" in done.stdout
    assert done.stdout.rstrip().endswith("Fix: repair or uninstall the package outside-method.")
