"""The six lines on the first screen of the README run as they stand."""

import re
from pathlib import Path

import taskvec as tv
from tiny_text import write_tiny_encoder

README = Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_readme_runs_where_the_demo_has_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tv.Checkpoint.open(write_tiny_encoder(tmp_path / "demo" / "base"))
    (tmp_path / "demo" / "tuned").mkdir()
    for i, name in enumerate(("scipy_area", "numpy_area"), 1):
        deltas = {n: 0.01 * i * base[n] for n, spec in base.specs.items() if spec.dtype.moves}
        (base + tv.TaskVector.from_tensors(deltas, base=base)).save(tmp_path / "demo" / "tuned" / name)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 6
    exec(compile(code, "README.md", "exec"), {})
    edited, name = tv.Checkpoint.open("edited"), "encoder.layer.0.output.dense.weight"
    assert edited[name].allclose((1 + 0.7 * 0.01 + 0.3 * 0.02) * base[name], rtol=1e-2)
