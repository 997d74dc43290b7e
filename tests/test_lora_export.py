"""Adapters that taskvec writes, loaded by PEFT itself: base + adapter gives the outputs of base + vector."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

import taskvec as tv
from cli_cases import call, called_json, refused
from peft_models import Convs, Embedded, bert, gpt2
from taskvec.adapters.writer import save_lora
from taskvec.errors import DestinationError, NonFiniteError, ParameterError, SchemaError
from vector_cases import factored, normal, tree

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),  # fan_in_fan_out, which it corrects by itself
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
GPT2 = {"transposed": ("*.c_attn.weight", "*.c_proj.weight", "*.c_fc.weight")}


def untied() -> nn.Module:
    model: nn.Module = gpt2()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def ids(high: int) -> torch.Tensor:
    return torch.randint(0, high, (2, 7), generator=torch.Generator().manual_seed(4))


def kernels(model: nn.Module) -> torch.Tensor:
    x = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(4))
    return model.one(x).flatten() if hasattr(model, "one") else model.base_model.model.one(x).flatten()


MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (bert, lambda m: m(input_ids=ids(31)).logits, {}),
    "gpt2": (untied, lambda m: m(input_ids=ids(29)).logits, GPT2),
    "convolutions": (Convs, kernels, {}),
    "embeddings": (
        Embedded,
        lambda m: (m if isinstance(m, Embedded) else m.base_model.model).table(ids(11)),
        {"embeddings": ("table.weight",)},
    ),
}


def moved(model: nn.Module, tmp_path: Path, **options: Any) -> tuple[tv.Checkpoint, Any]:
    """(the base, a tsv vector that moves every matrix and kernel but GPT-2's head, which is tied in real ones)."""
    before = {n: t.clone() for n, t in model.state_dict().items()}
    after = {}
    for i, (name, tensor) in enumerate(before.items()):
        moves = tensor.is_floating_point() and tensor.ndim > 1 and name != "lm_head.weight"
        after[name] = tensor + normal(*tensor.shape, seed=i, scale=0.3).to(tensor.dtype) if moves else tensor.clone()
    base = tv.Checkpoint.from_tensors(before)
    vector = tv.Checkpoint.from_tensors(after) - base
    chosen = {"energy": 0.6, "convolutions": "matrix", **options}
    path = vector.save(tmp_path / "v.tv.safetensors", codec="tsv", **chosen)
    return base, tv.TaskVector.open(path)


def adapted(model: nn.Module, folder: Path) -> nn.Module:
    """The model with the adapter, by PEFT; nothing may be missing or left over."""
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()
    held = {n for n in loaded.state_dict() if "lora_" in n}
    saved = set(load_file(folder / "adapter_model.safetensors"))
    assert {n.replace(".default", "") for n in held} == saved
    return loaded


def shifted(model: nn.Module, base: tv.Checkpoint, vector: tv.TaskVector) -> nn.Module:
    model = copy.deepcopy(model)
    point = base + vector
    model.load_state_dict({n: point[n] for n in base.names()}, strict=False)
    return model.eval()


@pytest.mark.parametrize("case", MODELS)
def test_base_plus_adapter_computes_what_base_plus_vector_does(case: str, tmp_path: Path) -> None:
    make, run, options = MODELS[case]
    model = make().eval()
    base, vector = moved(model, tmp_path)
    assert any(vector.factors(n) is not None for n in vector.names())
    save_lora(vector, tmp_path / "adapter", rank=5, **options)
    opened = tv.TaskVector.open(tmp_path / "adapter", base=base)
    with torch.no_grad():
        expected = run(shifted(model, base, opened))
        found = run(adapted(model, tmp_path / "adapter"))
        start = run(model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((expected - start).abs().max()) > 0.05


@pytest.mark.parametrize("case", ["bert", "gpt2"])
def test_factors_are_exported_as_they_are_kept(case: str, tmp_path: Path) -> None:
    """No rank given: each module has its own, the deltas agree to rounding, and PEFT computes the vector's outputs."""
    make, run, options = MODELS[case]
    model = make().eval()
    base, whole = moved(model, tmp_path, energy=0.5, dtype="int8", other="int8")
    only = [n for n in whole.names() if whole.factors(n) is not None]
    tensors = tv.TaskVector.from_tensors({n: whole[n] for n in only})
    vector = tv.TaskVector.open(tensors.save(tmp_path / "only.tv.safetensors", codec="tsv", energy=0.9999))
    assert all(vector.factors(n) is not None for n in only)
    folder = save_lora(vector, tmp_path / "adapter", **options)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert len(set(config["rank_pattern"].values())) > 1
    assert config["alpha_pattern"] == config["rank_pattern"]
    again = tv.TaskVector.open(folder, base=base)
    for name in only:
        torch.testing.assert_close(again[name], vector[name], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected, found = run(shifted(model, base, vector)), run(adapted(model, folder))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_rank_gives_the_best_approximation_of_that_rank(tmp_path: Path) -> None:
    vector = factored({"q.weight": (40, 30), "v.weight": (20, 50)}, rank=6)
    delta = normal(40, 30, seed=1)
    dense = tv.TaskVector.from_tensors({"q.weight": delta})
    for name, each in (("kept", vector), ("sum", vector + 0.5 * dense)):
        again = tv.TaskVector.open(save_lora(each, tmp_path / name, rank=3))
        for tensor in each.names():
            x = torch.from_numpy(each.values(tensor, 0, each.specs[tensor].numel)).reshape(each.specs[tensor].shape)
            s = torch.linalg.svdvals(x)
            assert float((again[tensor] - x).norm()) == pytest.approx(math.sqrt(float(s[3:].square().sum())), rel=1e-5)
    config = json.loads((tmp_path / "kept" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (3, 3, {})


def test_names_that_end_alike_get_their_own_ranks(tmp_path: Path) -> None:
    """PEFT takes the first pattern that fits the end of a name; `0.q` fits `0.0.q`, too."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("0", nn.ModuleDict({"q": nn.Linear(6, 5, bias=False)}))
            self.more = nn.ModuleDict({"0": nn.ModuleDict({"q": nn.Linear(6, 5, bias=False)})})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.get_submodule("0.q")(x) + 2 * self.get_submodule("more.0.q")(x)
            return found

    model = Inner()
    base = tv.Checkpoint.from_tensors(model.state_dict())
    vector = factored({"0.q.weight": (5, 6)}, rank=2) + factored({"more.0.q.weight": (5, 6)}, rank=3, seed=5)
    folder = save_lora(vector, tmp_path / "adapter")
    x = normal(4, 6, seed=8).float()
    with torch.no_grad():
        torch.testing.assert_close(adapted(model, folder)(x), shifted(model, base, vector)(x))


@pytest.mark.parametrize("name", ["q.bias", "norm.weight", "position"])
def test_what_lora_cannot_carry_is_refused_unless_dropped(name: str, tmp_path: Path) -> None:
    shape = (5, 4) if name == "position" else (5,)
    other = tv.TaskVector.from_tensors({name: normal(*shape, seed=1)})
    vector = factored({"q.weight": (40, 30)}) + other
    with pytest.raises(SchemaError, match=rf"moves '{name}' .*, which LoRA cannot carry\.\nFix: .*--drop-others"):
        save_lora(vector, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []
    assert tv.TaskVector.open(save_lora(vector, tmp_path / "adapter", drop_others=True)).names() == ["q.weight"]
    still = factored({"q.weight": (40, 30)}) + tv.TaskVector.from_tensors({name: torch.zeros(shape)})
    assert tv.TaskVector.open(save_lora(still, tmp_path / "still")).names() == ["q.weight"]


def test_refusals_come_before_any_output(tmp_path: Path) -> None:
    dense = tv.TaskVector.from_tensors({"q.weight": normal(8, 6, seed=1)})
    cases: list[tuple[tv.TaskVector, dict[str, Any], type[Exception], str]] = [
        (dense, {}, ParameterError, r"'q.weight' in .* is not kept as factors\.\nFix: give a rank"),
        (dense, {"rank": 0}, ParameterError, "rank=0 is not a positive whole number"),
        (dense, {"rank": True}, ParameterError, "rank=True is not"),
        (
            tv.TaskVector.from_tensors({"b": torch.ones(3)}),
            {"drop_others": True},
            SchemaError,
            "moves nothing that LoRA",
        ),
        (factored({"q.weight": (4, 3)}, scale=float("nan")), {}, NonFiniteError, "'q.weight' in .* has NaN, Inf"),
        (dense * 1e39, {"rank": 2}, NonFiniteError, "or values beyond 3e38"),
    ]
    for vector, options, error, message in cases:
        with pytest.raises(error, match=message):
            save_lora(vector, tmp_path / "adapter", **options)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "adapter").mkdir()
    with pytest.raises(DestinationError, match="exists already"):
        save_lora(dense, tmp_path / "adapter", rank=2)


def test_the_bytes_do_not_depend_on_threads(tmp_path: Path) -> None:
    vector = factored({f"m{i}.weight": (40, 30) for i in range(9)}, rank=6)
    found = [tree(save_lora(vector, tmp_path / f"{t}", rank=4, threads=t)) for t in (1, 3)]
    assert found[0] == found[1]
    assert sorted(found[0]) == ["adapter_config.json", "adapter_model.safetensors"]


def test_export_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vector = factored({"q.weight": (40, 30)}, rank=6) + tv.TaskVector.from_tensors({"q.bias": torch.ones(40)})
    vector.save("v.tv.safetensors", codec="tsv", density=0.1)
    assert "--drop-others" in refused("export", "v.tv.safetensors", "-o", "adapter")
    table = called_json("export", "v.tv.safetensors", "-o", "adapter", "--drop-others", "--base-name", "org/base")
    assert (table["kind"], table["rank"], table["base_name"], table["tensors"]) == ("adapter", 3, "org/base", 1)
    call("export", "v.tv.safetensors", "-o", "adapter", "--drop-others", "--rank", "2", "--force")
    assert called_json("info", "adapter")["rank"] == 2
