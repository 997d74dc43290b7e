"""LoRA adapters made by PEFT itself: every delta and every merged weight equals PEFT's own."""

import math

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from peft_models import Convs, Embedded, assert_merges, bert, edit, gpt2, merged, saved
from taskvec.adapters.config import AdapterConfig
from taskvec.adapters.reader import open_adapter
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import SchemaError, SpaceError
from taskvec.vector import TaskVector

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),  # it warns of what the cases do on purpose
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

CASES = {
    "linear": dict(target_modules=["query", "value"]),
    "rslora": dict(target_modules=["query", "dense"], use_rslora=True),
    "patterns": dict(
        target_modules=["query", "key", "dense"],
        rank_pattern={"layer.0.attention.self.query": 2, r".*\.1\..*query": 7, "key": 3},
        alpha_pattern={"^bert.encoder.layer.1.attention.self.query": 11, "output.dense": 0.5},
    ),
    "rslora_patterns": dict(
        target_modules=["query"],
        use_rslora=True,
        rank_pattern={"0.attention.self.query": 9},
        alpha_pattern={"query": 3},
    ),
    "biases_all": dict(target_modules=["query"], bias="all"),
    "biases_lora_only": dict(target_modules=["query", "dense"], bias="lora_only"),
    "modules_to_save": dict(target_modules=["query"], modules_to_save=["classifier", "pooler"]),
    "task_type": dict(target_modules=["query"], task_type="SEQ_CLS"),
    "embedding": dict(target_modules=["word_embeddings", "query"]),
    "orthogonal": dict(target_modules=["query"], init_lora_weights="orthogonal"),
}


@pytest.mark.parametrize("case", CASES)
def test_base_plus_adapter_is_what_peft_merges(case, tmp_path):
    assert_merges(*saved(bert(), tmp_path, **CASES[case]))


@pytest.mark.parametrize("case", ["linear", "modules_to_save"])
def test_an_adapter_in_a_torch_file_is_read_alike(case, tmp_path):
    before, folder, model = saved(bert(), tmp_path, **CASES[case])
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert_merges(before, folder, model)


@pytest.mark.parametrize("case", ["linear", "rslora", "patterns", "embedding"])
def test_each_delta_is_pefts_delta_weight(case, tmp_path):
    before, folder, model = saved(bert(), tmp_path, **CASES[case])
    vector = TaskVector(((1.0, open_adapter(folder, before)),))
    checked = 0
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            expected = module.get_delta_weight("default")
            torch.testing.assert_close(vector[f"{name}.weight"], expected, rtol=2e-6, atol=2e-6)
            checked += 1
    assert checked


def test_conv1d_of_gpt2_is_transposed_square_or_not(tmp_path):
    before, folder, model = saved(gpt2(), tmp_path, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    vector = assert_merges(before, folder, model)
    assert vector["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)
    assert "transformer.h.0.attn.c_proj.weight" in vector.names()


def test_shapes_decide_the_orientation_when_the_file_says_the_opposite(tmp_path):
    before, folder, model = saved(gpt2(), tmp_path, target_modules=["c_attn"], fan_in_fan_out=True)
    edit(folder, fan_in_fan_out=False)
    assert_merges(before, folder, model)


def test_a_square_matrix_whose_orientation_the_shapes_contradict_is_refused(tmp_path):
    before, folder, _ = saved(gpt2(), tmp_path, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True)
    edit(folder, fan_in_fan_out=False)
    with pytest.raises(SchemaError, match=r"c_proj.weight' is square, and .*fan_in_fan_out=False"):
        open_adapter(folder, before)


def test_kernels_of_one_two_and_three_dimensions(tmp_path):
    assert_merges(*saved(Convs(), tmp_path, target_modules=["one", "two", "point", "three"]))


def test_an_embedding_is_transposed(tmp_path):
    assert_merges(*saved(Embedded(), tmp_path, target_modules=["table", "out"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_factors_are_multiplied_in_float64(dtype, tmp_path):
    before, folder, model = saved(Embedded(), tmp_path, dtype=dtype, target_modules=["table", "out"], use_rslora=True)
    vector = TaskVector(((1.0, open_adapter(folder, before)),))
    for name, module in (("out", model.base_model.model.out), ("table", model.base_model.model.table)):
        torch.testing.assert_close(
            vector[f"{name}.weight"].to(dtype), module.get_delta_weight("default"), rtol=0.01, atol=0.01
        )


def test_an_untrained_adapter_moves_nothing_at_all(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, random=False, target_modules=["query", "word_embeddings"])
    vector = TaskVector(((1.0, open_adapter(folder, before)),))
    assert vector.norm() == 0.0
    assert all(torch.equal((before + vector)[n], before[n]) for n in before.names())


def test_opening_an_adapter_reads_no_tensor_and_needs_no_base(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["query"])
    alone = open_adapter(folder)
    assert alone.base is None
    assert {n: s.shape for n, s in alone.specs.items()} == {
        f"bert.encoder.layer.{i}.attention.self.query.weight": (16, 16) for i in (0, 1)
    }
    name = next(iter(alone.specs))
    assert torch.equal(TaskVector(((1.0, alone),))[name], TaskVector(((1.0, open_adapter(folder, before)),))[name])


def test_any_cut_of_a_tensor_gives_the_same_bits(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["intermediate.dense"], r=5)
    leaf = open_adapter(folder, before)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    size = before.specs[name].numel
    whole = np.zeros(size)
    leaf.add_to(whole, 0.3, name, 0)
    rng = np.random.default_rng(0)
    for start, stop in np.sort(rng.integers(0, size + 1, (50, 2))):
        part = np.zeros(stop - start)
        leaf.add_to(part, 0.3, name, int(start))
        assert np.array_equal(part, whole[start:stop])


def test_the_factors_multiply_to_the_delta(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["dense"], modules_to_save=["classifier"])
    leaf = open_adapter(folder, before)
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    left, right = leaf.factors(name)
    assert (left.shape, right.shape) == ((24, 4), (4, 16))
    torch.testing.assert_close(torch.from_numpy(left @ right).float(), TaskVector(((1.0, leaf),))[name])
    assert leaf.factors("classifier.weight") is None


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda n: "model." + n, lambda n: n.removeprefix("bert.")])
def test_one_prefix_is_added_or_removed_throughout(change, tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["query", "dense"])
    renamed = Checkpoint.from_tensors({change(n): before[n] for n in before.names()})
    names = open_adapter(folder, renamed).specs
    assert list(names) == [change(n) for n in open_adapter(folder, before).specs]


def test_names_that_fit_in_two_ways_are_refused(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["query"])
    twice = Checkpoint.from_tensors({p + n: before[n].clone() for n in before.names() for p in ("a.", "b.")})
    with pytest.raises(SchemaError, match=r"fit the model in memory in several ways: prefix \+'a\.', \+'b\.'"):
        open_adapter(folder, twice)


def test_a_base_that_lacks_a_tensor_is_refused(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["query"], modules_to_save=["classifier"])
    less = Checkpoint.from_tensors({n: before[n] for n in before.names() if not n.startswith("classifier")})
    with pytest.raises(SchemaError, match=r"moves 'classifier\.\w+', which the model in memory does not have"):
        open_adapter(folder, less)


def test_a_tied_name_is_refused(tmp_path):
    model = gpt2()
    before, folder, _ = saved(model, tmp_path, target_modules=["lm_head"])
    assert before.source.ties == {"lm_head.weight": "transformer.wte.weight"}
    with pytest.raises(SchemaError, match=r"moves 'lm_head\.weight', which is tied to 'transformer\.wte\.weight'"):
        open_adapter(folder, before)


def test_another_size_is_refused(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["intermediate.dense"])
    other = Checkpoint.from_tensors(
        {n: before[n][..., :9].clone() if before[n].dim() else before[n] for n in before.names()}
    )
    with pytest.raises(SchemaError, match=r"has 'bert\.\S+' as F32\[24, 16\]; in the base it is F32\[24, 9\]"):
        open_adapter(folder, other)


# --- base+adapter --------------------------------------------------------------------------------------------------


def test_base_plus_adapter_opens_as_a_checkpoint(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path / "base")
    _, folder, peft_model = saved(model, tmp_path, target_modules=["query"], modules_to_save=["classifier"])
    point = Checkpoint.open(f"{tmp_path / 'base'}+{folder}")
    expected = merged(PeftModel.from_pretrained(bert(), folder))
    for name in point.names():
        torch.testing.assert_close(point[name], expected[name], rtol=2e-6, atol=2e-6)
    del peft_model


def test_an_adapter_alone_is_not_a_checkpoint(tmp_path):
    _, folder, _ = saved(bert(), tmp_path, target_modules=["query"])
    with pytest.raises(SpaceError, match=r"is a LoRA adapter: a displacement.*\n?.*base\+.*TaskVector\.open"):
        Checkpoint.open(folder)


def test_scales_follow_alpha_and_rank(tmp_path):
    _, folder, _ = saved(
        bert(),
        tmp_path,
        target_modules=["query"],
        **{"use_rslora": True, "alpha_pattern": {"0.attention.self.query": 5}},
    )
    config = AdapterConfig.read(folder)
    assert config.scale_of("layer.0.attention.self.query") == 5 / math.sqrt(4)
    assert config.scale_of("layer.10.attention.self.query") == 6 / math.sqrt(4)


def test_a_saved_edit_computes_what_pefts_model_computes(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path / "base")
    _, folder, tuned = saved(
        model, tmp_path, target_modules=["query", "dense"], modules_to_save=["classifier"], use_rslora=True
    )
    tuned.eval()
    Checkpoint.open(f"{tmp_path / 'base'}+{folder}").save(tmp_path / "out")
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        ours = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out").eval()(tokens).logits
        torch.testing.assert_close(ours, tuned(tokens).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours, bert()(tokens).logits, atol=1e-2)
