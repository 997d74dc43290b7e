"""Adapters that taskvec does not understand are refused by the name of what they use."""

import pytest
import torch
from torch import nn

from peft_models import Attention, Convs, bert, edit, merged, rewrite, saved
from taskvec.adapters.reader import open_adapter
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import FormatError, SchemaError
from taskvec.vector import TaskVector

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),  # it warns of what the cases do on purpose
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (dict(use_dora=True), r"DoRA \(use_dora\)"),
        (dict(lora_bias=True), r"biases of B \(lora_bias\)"),
        (dict(trainable_token_indices={"word_embeddings": [1, 2]}), r"trainable tokens \(trainable_token_indices\)"),
        (dict(init_lora_weights="pissa"), r"init_lora_weights='pissa', which changed the base's own weights"),
        (dict(init_lora_weights="olora"), r"init_lora_weights='olora'"),
    ],
)
def test_what_peft_saved_with_an_unsupported_feature_is_refused_by_name(options, name, tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["query"], **options)
    with pytest.raises(FormatError, match=name):
        open_adapter(folder, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(peft_type="VERA"), "PEFT adapter of the type 'VERA'; only LORA"),
        (dict(peft_type=None), "PEFT adapter of the type None"),
        (dict(layer_replication=[[0, 2]]), r"layer replication \(layer_replication\)"),
        (dict(target_parameters=["experts.up"]), r"LoRA on parameters \(target_parameters\)"),
        (dict(alora_invocation_tokens=[1]), "aLoRA"),
        (dict(use_qalora=True), "QALoRA"),
        (dict(megatron_config={"a": 1}), "Megatron"),
        (dict(something_new=True), "uses 'something_new', which is not supported"),
        (dict(r=0), "r = '0', which is not a positive whole number"),
        (dict(r=8), r"module '\S+' in .* has the factors .* and its rank is 8"),
        (dict(lora_alpha="six"), "lora_alpha = 'six', which is not a number"),
        (dict(rank_pattern=[1]), "rank_pattern that is not a table"),
        (dict(rank_pattern={"(": 1}), r"rank_pattern '\(', which is not a regular expression"),
        (dict(rank_pattern={"q": -1}), r"rank_pattern\['q'\] = '-1'"),
        (dict(init_lora_weights=3), "init_lora_weights=3"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(values, message, tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["query"])
    edit(folder, **values)
    with pytest.raises(FormatError, match=message):
        open_adapter(folder, before)


@pytest.mark.parametrize("options", [dict(bias="all"), dict(modules_to_save=["classifier"])])
def test_whole_tensors_need_the_base(options, tmp_path):
    _, folder, _ = saved(bert(), tmp_path, target_modules=["query"], **options)
    with pytest.raises(SchemaError, match=r"carries the whole tensor '\S+' .*\n?.*base=base"):
        open_adapter(folder)


def test_whole_tensors_bind_the_vector_to_their_base(tmp_path):
    before, folder, _ = saved(bert(), tmp_path, target_modules=["query"], bias="all")
    vector = TaskVector(((1.0, open_adapter(folder, before)),))
    other = Checkpoint.from_tensors(
        {n: before[n] + 1 if before[n].is_floating_point() else before[n] for n in before.names()}
    )
    with pytest.raises(SchemaError, match="was cut from another base"):
        (other + vector)[vector.names()[0]]


def test_a_factor_without_its_partner_is_refused(tmp_path):
    _, folder, _ = saved(bert(), tmp_path, target_modules=["query"])
    rewrite(folder, lambda tensors: tensors.pop(next(n for n in tensors if "lora_B" in n)))
    with pytest.raises(FormatError, match="has only one of its two factors"):
        open_adapter(folder)


def test_an_unknown_kind_of_factor_is_refused(tmp_path):
    _, folder, _ = saved(bert(), tmp_path, target_modules=["query"])
    rewrite(folder, lambda tensors: tensors.update({"base_model.model.x.lora_C.weight": torch.ones(2)}))
    with pytest.raises(FormatError, match=r"holds 'base_model\.model\.x\.lora_C\.weight', which is not supported"):
        open_adapter(folder)


def test_an_adapter_without_weights_is_refused(tmp_path):
    _, folder, _ = saved(bert(), tmp_path, target_modules=["query"])
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"has an adapter_config.json and no adapter_model.safetensors"):
        open_adapter(folder)


def test_an_integer_buffer_that_differs_from_the_base_is_refused(tmp_path):
    base = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before, folder, _ = saved(base, tmp_path, target_modules=["0"], modules_to_save=["1"])
    leaf = open_adapter(folder, before)
    leaf.check()
    rewrite(folder, lambda tensors: tensors.update({"base_model.model.1.num_batches_tracked": torch.tensor(9)}))
    with pytest.raises(SchemaError, match=r"'1\.num_batches_tracked' .* differs from the base's and cannot move"):
        open_adapter(folder, before).check()


def test_a_grouped_convolution_is_refused(tmp_path):
    before, folder, _ = saved(Convs(groups=2), tmp_path, target_modules=["two"])
    with pytest.raises(FormatError, match=r"module 'two' in .* is a grouped convolution, which is not supported"):
        open_adapter(folder, before)


def test_multihead_attention_is_refused_because_peft_applies_its_output_projection_twice(tmp_path):
    before, folder, model = saved(Attention(), tmp_path, target_modules=["attn"])
    delta = model.base_model.model.attn.base_layer.out_proj.get_delta_weight("default").detach().clone()
    moved = merged(model)["attn.out_proj.weight"] - before["attn.out_proj.weight"]
    torch.testing.assert_close(moved, 2 * delta, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        FormatError, match=r"out_proj' in .* is inside a torch MultiheadAttention, which is not supported"
    ):
        open_adapter(folder, before)
