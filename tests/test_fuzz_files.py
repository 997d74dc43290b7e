"""Thousands of mutated headers, indexes and torch files: whatever is wrong, the error is one of ours."""

import json
import random
import struct

import pytest
import torch
from safetensors import safe_open

from raw_files import entry, good, indexed, raw
from taskvec import codecs
from taskvec.adapters.reader import open_adapter
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import TaskVecError
from taskvec.vector import TaskVector
from vector_cases import factored, normal


def mutated(text: bytes, rng: random.Random) -> bytes:
    """`text` with a few edits: bytes changed, cut, repeated, or replaced by words that the formats know."""
    words = [
        b"-1",
        b"18446744073709551616",
        b"null",
        b"true",
        b"1e9",
        b'"F32"',
        b"[]",
        b"{}",
        b'"../x"',
        b"\\ud800",
        b'"',
    ]
    data = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 1:
            del data[at : min(end, at + 12)]
        elif kind == 2:
            data[at:at] = data[at : min(end, at + 40)]
        elif kind == 3:
            data[at : at + rng.randint(0, 6)] = rng.choice(words)
        else:
            data[at:at] = rng.choice(words)
    return bytes(data)


def try_to_read(path) -> bool:
    """Open and read everything; only an error raised on purpose may come out."""
    try:
        opened = Checkpoint.open(path)
        for name, spec in opened.specs.items():
            if spec.dtype.itemsize:
                opened.source.bits(name, 0, spec.numel)
        opened.layout()
    except TaskVecError:
        return False
    return True


def test_no_mutated_header_raises_anything_but_our_own_errors(tmp_path):
    rng = random.Random(0)
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry(0, 8),
        "b.c": entry(8, 20, [3, 1]),
        "n": entry(20, 28, [], "I64"),
    }
    text, path = json.dumps(header).encode(), tmp_path / "x.safetensors"
    accepted = 0
    for _ in range(3000):
        changed = mutated(text, rng)
        length = len(changed) if rng.random() < 0.9 else rng.choice([0, 1, len(changed) - 1, 2**32, 2**64 - 1])
        path.write_bytes(struct.pack("<Q", max(length, 0)) + changed + bytes(rng.choice([28, 28, 28, 27, 29, 0])))
        if try_to_read(path):
            accepted += 1
            with safe_open(path, "np") as official:  # what we accept, the official library accepts
                assert set(official.keys()) == set(Checkpoint.open(path).names())
    assert 0 < accepted < 3000


def test_no_mutated_index_raises_anything_but_our_own_errors(tmp_path):
    rng = random.Random(1)
    for shard, names in (("m-1.safetensors", "ab"), ("m-2.safetensors", "c")):
        good(tmp_path / shard, *names)
    table = {
        "metadata": {"total_size": 24},
        "weight_map": dict(zip("abc", ["m-1.safetensors"] * 2 + ["m-2.safetensors"], strict=True)),
    }
    text = json.dumps(table).encode()
    accepted = sum(try_to_read(indexed(tmp_path, mutated(text, rng))) for _ in range(1000))
    assert 0 < accepted < 1000


def test_no_mutated_torch_file_raises_anything_but_our_own_errors(tmp_path):
    rng = random.Random(2)
    path = tmp_path / "m.pt"
    for legacy in (False, True):
        torch.save({"w": torch.ones(3), "v": torch.ones(2, 2).t()}, path, _use_new_zipfile_serialization=not legacy)
        text = path.read_bytes()
        for _ in range(150):
            path.write_bytes(mutated(text, rng))
            try_to_read(path)


def test_no_mutated_adapter_raises_anything_but_our_own_errors(tmp_path):
    rng = random.Random(3)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"q": 2}, "alpha_pattern": {"0.q": 1.5}}
    header = {"m.q.lora_A.weight": entry(0, 24, [2, 3]), "m.q.lora_B.weight": entry(24, 56, [4, 2])}
    base = Checkpoint.from_tensors({"m.q.weight": torch.zeros(4, 3)})
    weights, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    accepted = 0
    for _ in range(600):
        raw(weights, mutated(json.dumps(header).encode(), rng) if rng.random() < 0.5 else header, bytes(56))
        settings.write_bytes(
            mutated(json.dumps(config).encode(), rng) if rng.random() < 0.5 else json.dumps(config).encode()
        )
        try:
            leaf = open_adapter(tmp_path, rng.choice([base, None]))
            accepted += sum(leaf.factors(name).left.shape[0] == 4 for name in leaf.specs) > 0
        except TaskVecError:
            continue
    assert 0 < accepted < 600


def test_no_mutated_layout_raises_anything_but_our_own_errors(tmp_path):
    rng = random.Random(4)
    text, path = b"splits:\n  'a*': rows 2\nroles:\n  a: matrix\n  b: skip\n", tmp_path / "l.yml"
    checkpoint = Checkpoint.from_tensors({"a": torch.zeros(4, 3), "b": torch.zeros(2)})
    accepted = 0
    for _ in range(1000):
        path.write_bytes(mutated(text, rng))
        try:
            accepted += len(checkpoint.layout(path)) == 2
        except TaskVecError:
            continue
    assert 0 < accepted < 1000


def parameters(codec):
    return {"tsv": [{"density": 0.3}, {"density": 0.3, "dtype": "int8", "splits": "fused-qkv"}]}.get(codec, [{}])


def altered(table, rng):
    """The JSON of a table of tensors with one field of one entry, or one part, replaced by something else."""
    table = json.loads(json.dumps(table))
    place = table[rng.choice(sorted(table))]
    if rng.random() < 0.3 and place["parts"]:
        place = place["parts"]
    odd = [-1, 0, 1, 2**64, 1e400, None, True, "F32", "rows 2", "columns 3", "w", [], [1, 1], [24, 8], {}, "1e5"]
    place[rng.choice([*place, "split", "group", "comment"])] = rng.choice(odd)
    return json.dumps(table)


@pytest.mark.parametrize(("codec", "options"), [(c, o) for c in codecs.names() for o in parameters(c)])
def test_no_mutated_table_of_a_vector_raises_anything_but_our_own_errors(codec, options, tmp_path):
    rng = random.Random(5)
    matrices = {"qkv.weight": (24, 8), "w": (9, 12)}
    vector = factored(matrices) if codec == "lora" else None
    if vector is None:
        tensors = {n: normal(*s, seed=1).float() for n, s in (*matrices.items(), ("bias", (5,)))}
        base = Checkpoint.from_tensors({n: 0.5 * t for n, t in tensors.items()})
        vector = Checkpoint.from_tensors(tensors) - base
    path = vector.save(tmp_path / "v.tv.safetensors", codec=codec, **options)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    table = header["__metadata__"]["taskvec_tensors"]
    accepted = 0
    for _ in range(300):
        text = altered(json.loads(table), rng)
        if rng.random() < 0.3:
            text = mutated(table.encode(), rng).decode("utf-8", errors="replace")
        raw(path, {**header, "__metadata__": {**header["__metadata__"], "taskvec_tensors": text}}, data)
        try:
            opened = TaskVector.open(path)
            for name, spec in opened.specs.items():
                opened.values(name, 0, min(spec.numel, 1 << 20))
            accepted += 1
        except TaskVecError:
            continue
    assert 0 < accepted < 300
