"""What is merged loads again in transformers: no key missing or unexpected, ties tied, the numbers of a reference."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import taskvec as tv
from cli_cases import call
from library_models import (
    FAMILIES,
    METHODS,
    TASKS,
    check_parameters,
    expected,
    merged,
    parameters_of,
    seeded,
    tensors_in,
    with_parameters,
    write_family,
)
from vector_cases import tree


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Base and fine-tunes of every family."""
    root = tmp_path_factory.mktemp("families")
    return {name: write_family(family, root / name) for name, family in FAMILIES.items()}


def load(family, folder, **options):
    """What the library loads, refusing keys that are missing, unexpected or of another shape."""
    kind = type(seeded(FAMILIES[family].make))
    model, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def shared(model):
    """The groups of names that share one parameter."""
    groups = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(parameter.data_ptr(), set()).add(name)
    return sorted(map(sorted, (g for g in groups.values() if len(g) > 1)))


def same_outputs(family, model, other):
    """Whether two models say the same of the family's inputs, up to float32."""
    inputs = FAMILIES[family].inputs()
    with torch.no_grad():
        found, wanted = (tensors_in(m(**inputs)) for m in (model, other))
    assert len(found) == len(wanted) > 0
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_loads_in_the_library_and_has_the_parameters_and_outputs_of_the_reference(
    family, method, folders, tmp_path
):
    root = folders[family]
    base, *tuned = (parameters_of(load(family, root / name)) for name in ("base", *TASKS))
    wanted = expected(method, base, dict(zip(TASKS, tuned, strict=True)))
    model = load(family, merged(method, root).save(tmp_path / "merged"))
    check_parameters(method, model, wanted, base)
    assert shared(model) == shared(seeded(FAMILIES[family].make))
    assert same_outputs(family, model, with_parameters(load(family, root / "base"), wanted))
    assert not same_outputs(family, model, load(family, root / "base"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_line_writes_the_same_model(family, folders, tmp_path):
    root = folders[family]
    tuned = [root / task for task in TASKS]
    call("merge", "--method", "ties", "--base", root / "base", *tuned, "--set", "density=0.3", "-o", tmp_path / "cli")
    written = merged("ties", root).save(tmp_path / "python")
    assert tv.Checkpoint.open(tmp_path / "cli").fingerprint() == tv.Checkpoint.open(written).fingerprint()
    assert tree(tmp_path / "cli").keys() == tree(written).keys() == tree(root / "base").keys() | {"README.md"}
    load(family, tmp_path / "cli")


def test_tied_embeddings_are_written_once(folders, tmp_path):
    written = merged("average", folders["t5"]).save(tmp_path / "merged")
    with safe_open(written / "model.safetensors", "pt") as file:
        assert [n for n in file.keys() if "embed" in n or "head" in n or n == "shared.weight"] == ["shared.weight"]  # noqa: SIM118


def test_a_torch_file_that_repeats_tied_names_gives_a_model_that_loads(folders, tmp_path):
    root = tmp_path / "t5"
    shutil.copytree(folders["t5"], root)
    (root / "base" / "model.safetensors").unlink()
    torch.save(seeded(FAMILIES["t5"].make).state_dict(), root / "base" / "pytorch_model.bin")
    model = load("t5", merged("average", root).save(tmp_path / "merged"))
    same = load("t5", merged("average", folders["t5"]).save(tmp_path / "plain"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert shared(model) == shared(same) != []


def test_shards_are_found_by_the_library(folders, tmp_path):
    written = merged("task_arithmetic", folders["clip"]).save(tmp_path / "merged", shard_size=20_000)
    assert len(list(written.glob("*.safetensors"))) > 2
    model = load("clip", written)
    whole = load("clip", merged("task_arithmetic", folders["clip"]).save(tmp_path / "whole"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def test_half_precision_models_stay_so_and_are_rounded_once(tmp_path):
    root = write_family(FAMILIES["whisper"], tmp_path, dtype=torch.bfloat16)
    base, *tuned = (parameters_of(load("whisper", root / name, dtype="auto")) for name in ("base", *TASKS))
    wanted = expected("average", base, dict(zip(TASKS, tuned, strict=True)))
    model = load("whisper", merged("average", root).save(tmp_path / "merged"), dtype="auto")
    assert model.dtype == torch.bfloat16
    for name, found in parameters_of(model).items():
        half_a_step = torch.ldexp(torch.ones_like(wanted[name]), torch.frexp(wanted[name]).exponent - 9)
        assert ((found.double() - wanted[name]).abs() <= half_a_step * (1 + 1e-9)).all(), name


def test_a_variant_keeps_its_name(folders, tmp_path):
    root = tmp_path / "bert"
    for name in ("base", *TASKS):
        load("bert", folders["bert"] / name).half().save_pretrained(root / name, variant="fp16")
    written = merged("average", root).save(tmp_path / "merged")
    assert "model.fp16.safetensors" in tree(written)
    model = load("bert", written, variant="fp16", dtype="auto")
    assert model.dtype == torch.float16
    assert load_file(written / "model.fp16.safetensors").keys() == tv.Checkpoint.open(root / "base").specs.keys()


@pytest.mark.parametrize("cut", ["the base's shards", 9_000])
def test_a_variant_in_shards_keeps_its_name(cut, folders, tmp_path):
    root = tmp_path / "bert"
    for name in ("base", *TASKS):
        model = load("bert", folders["bert"] / name).half()
        model.save_pretrained(root / name, variant="fp16", max_shard_size="8KB")
    assert (root / "base" / "model.safetensors.index.fp16.json").is_file()
    written = merged("average", root).save(tmp_path / "merged", shard_size=cut if isinstance(cut, int) else None)
    model = load("bert", written, variant="fp16", dtype="auto")
    assert model.dtype == torch.float16
    assert not list(written.glob("*.safetensors.index.json"))


def test_a_plain_file_is_preferred_to_the_shards_of_a_variant(folders, tmp_path):
    root = tmp_path / "base"
    shutil.copytree(folders["bert"] / "base", root)
    load("bert", folders["bert"] / "one").half().save_pretrained(root, variant="fp16", max_shard_size="8KB")
    opened = tv.Checkpoint.open(root)
    assert list(opened.source.home.shards) == ["model.safetensors"]
    assert opened.fingerprint() == tv.Checkpoint.open(folders["bert"] / "base").fingerprint()
    assert {n for n in tree(opened.save(tmp_path / "copy")) if "model" in n} == {"model.safetensors"}
