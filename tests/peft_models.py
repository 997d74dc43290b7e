"""Small random models and the LoRA adapters that PEFT itself makes of them."""

import copy
import json

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from taskvec.adapters.reader import open_adapter
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.vector import TaskVector


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=31, num_labels=3
    )
    return transformers.BertForSequenceClassification(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=29, n_positions=8)
    return transformers.GPT2LMHeadModel(config).eval()


class Convs(nn.Module):
    def __init__(self, groups=1):
        super().__init__()
        self.one = nn.Conv1d(3, 4, 3)
        self.two = nn.Conv2d(4, 6, (3, 2), groups=groups)
        self.point = nn.Conv2d(6, 5, 1)
        self.three = nn.Conv3d(2, 3, (2, 3, 1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2)
        self.out = nn.Linear(8, 8)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.out = nn.Linear(6, 6)


def randomised(model, seed=1):
    """Random factors (B starts at 0), random saved modules and biases."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "lora_" in name:
            parameter.data = torch.randn_like(parameter)
    return model


def saved(base, tmp_path, *, random=True, dtype=None, safetensors=True, **options):
    """(base as a Checkpoint, folder of the adapter, merged weights by PEFT)."""
    before = Checkpoint.from_tensors(copy.deepcopy(base).state_dict())
    model = get_peft_model(base, LoraConfig(**{"r": 4, "lora_alpha": 6, **options}))
    if dtype is not None:
        model = model.to(dtype)
    model = randomised(model) if random else model
    model.save_pretrained(tmp_path / "adapter", safe_serialization=safetensors)
    return before, tmp_path / "adapter", model


def merged(model):
    return model.merge_and_unload().state_dict()


def assert_merges(before, folder, model):
    """base + adapter holds PEFT's merged weights, and moves nothing that PEFT does not move."""
    vector = TaskVector(((1.0, open_adapter(folder, before)),))
    result, expected = before + vector, merged(model)
    moved = set()
    for name in before.names():
        torch.testing.assert_close(result[name], expected[name], rtol=2e-6, atol=2e-6)
        if not torch.equal(expected[name], before[name]):
            moved.add(name)
    assert moved
    assert moved <= set(vector.names())
    return vector


def edit(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
