"""How often a merge that is written computes its tensors."""

from pathlib import Path

import pytest

import taskvec as tv
from merge_cases import model_folders
from taskvec.engine.merging import Merging


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic"])
def test_a_written_merge_is_computed_once(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its hash nor its recipe reads it again."""
    model_folders(tmp_path)
    base, math, code = (tv.Checkpoint.open(tmp_path / name) for name in ("base", "math", "code"))
    if method == "task_arithmetic":
        merged = base + tv.merge(method, {"math": math - base, "code": code - base})
    else:
        merged = tv.merge(method, {"math": math, "code": code}, **({"t": 0.3} if method == "slerp" else {}))
    computed: dict[str, int] = {}
    add_to = Merging.add_to

    def counted(self, total, coefficient, name, start):
        computed[name] = computed.get(name, 0) + total.size
        add_to(self, total, coefficient, name, start)

    monkeypatch.setattr(Merging, "add_to", counted)
    merged.save(tmp_path / "out")
    assert computed == {n: s.numel for n, s in base.specs.items() if s.dtype.moves}
