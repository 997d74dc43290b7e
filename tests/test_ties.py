"""Tied tensors: recorded or repeated, in the base or the tuned model, they stay one tensor."""

import pytest
import torch
from safetensors.torch import load_model, save_file, save_model
from torch import nn

import taskvec  # noqa: F401  # the operators
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.ties import AlignedSource
from taskvec.errors import SchemaError


class Tied(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.emb = nn.Embedding(7, 4)
        self.mid = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight


def as_bin(model, path):
    torch.save(model.state_dict(), path.with_suffix(".bin"))
    return Checkpoint.open(path.with_suffix(".bin"))


def as_save_model(model, path):
    save_model(model, path.with_suffix(".safetensors"), metadata={"format": "pt"})
    return Checkpoint.open(path.with_suffix(".safetensors"))


def as_dropped(model, path):
    """Like transformers: one name is left out and nothing says so."""
    save_file({n: t for n, t in model.state_dict().items() if n != "head.weight"}, path.with_suffix(".safetensors"))
    return Checkpoint.open(path.with_suffix(".safetensors"))


def as_repeated(model, path):
    save_file({n: t.clone() for n, t in model.state_dict().items()}, path.with_suffix(".safetensors"))
    return Checkpoint.open(path.with_suffix(".safetensors"))


def as_memory(model, path):
    return Checkpoint.from_tensors(model.state_dict())


FORMS = [as_bin, as_save_model, as_dropped, as_repeated, as_memory]


@pytest.mark.parametrize("form", [as_bin, as_save_model, as_memory])
def test_a_recorded_tie_reads_through(form, tmp_path):
    opened, model = form(Tied(), tmp_path / "m"), Tied()
    (alias, kept), *rest = opened.source.ties.items()
    assert not rest
    assert {alias, kept} == {"emb.weight", "head.weight"}
    assert alias not in opened.names()
    assert torch.equal(opened[alias], model.emb.weight)
    assert opened.source.spec(alias) == opened.specs[kept]


@pytest.mark.parametrize("base_form", FORMS)
@pytest.mark.parametrize("tuned_form", FORMS)
def test_any_two_ways_of_saving_a_tied_model_have_a_difference_that_restores_the_tuned_one(
    base_form, tuned_form, tmp_path
):
    base, tuned = base_form(Tied(0), tmp_path / "base"), tuned_form(Tied(1), tmp_path / "tuned")
    vector = tuned - base
    result, expected = base + vector, Tied(1).state_dict()
    assert result.source.ties == base.source.ties
    assert result.names() == base.names()
    for name in [*result.names(), *result.source.ties]:
        assert torch.equal(result[name], expected[name])


def test_an_edited_tie_reads_through(tmp_path):
    base = as_bin(Tied(0), tmp_path / "base")
    result = base + 0.5 * (as_bin(Tied(1), tmp_path / "tuned") - base)
    assert torch.equal(result["head.weight"], result["emb.weight"])
    assert not torch.equal(result["head.weight"], base["head.weight"])
    assert (result.source.bits("head.weight", 3, 9) == result.source.bits("emb.weight", 3, 9)).all()


@pytest.mark.parametrize("form", [as_bin, as_save_model, as_memory])
def test_a_saved_edit_is_tied_as_its_base_was_and_loads_with_the_official_library(form, tmp_path):
    base = form(Tied(0), tmp_path / "base")
    (base + (form(Tied(1), tmp_path / "tuned") - base)).save(tmp_path / "out.safetensors")
    assert Checkpoint.open(tmp_path / "out.safetensors").source.ties == base.source.ties
    model = Tied(5)
    load_model(model, tmp_path / "out.safetensors")
    assert torch.equal(model.head.weight, Tied(1).head.weight)


@pytest.mark.parametrize("base_form", [as_bin, as_save_model])
def test_a_tie_that_was_broken_by_training_is_refused(base_form, tmp_path):
    model = Tied(1)
    model.head.weight = nn.Parameter(torch.randn(7, 4))
    base = base_form(Tied(0), tmp_path / "base")
    with pytest.raises(
        SchemaError, match=r"are tied in '.*base.*', and differ in '.*tuned.*'\.\nFix: save the base with"
    ):
        as_repeated(model, tmp_path / "tuned") - base


def test_an_unrecorded_tie_that_was_broken_is_refused_as_an_extra_tensor(tmp_path):
    model = Tied(1)
    model.head.weight = nn.Parameter(torch.randn(7, 4))
    with pytest.raises(SchemaError, match=r"tensor 'head\.weight' is in the tuned model but not in the base"):
        as_repeated(model, tmp_path / "tuned") - as_dropped(Tied(0), tmp_path / "base")


@pytest.mark.parametrize("extra_in", ["tuned", "base"])
def test_equal_constants_are_no_tie(extra_in):
    plain = {"norm": torch.ones(4), "w": torch.randn(4)}
    more = plain | {"norm2": torch.ones(4)}
    tuned, base = (more, plain) if extra_in == "tuned" else (plain, more)
    with pytest.raises(SchemaError, match="tensor 'norm2' is in the"):
        Checkpoint.from_tensors(tuned) - Checkpoint.from_tensors(base)


def test_a_repeat_that_could_be_either_of_two_tensors_is_refused():
    x = torch.randn(4)
    base = Checkpoint.from_tensors({"a": x.clone(), "b": x.clone(), "c": x.clone()})
    tuned = Checkpoint.from_tensors({"a": x + 1, "b": x + 2})
    with pytest.raises(SchemaError, match="tensor 'c' is in the base but not in the tuned model"):
        tuned - base


def test_three_names_for_one_tensor():
    shared = torch.randn(5, 3)
    base = Checkpoint.from_tensors({"shared": shared, "encoder": shared, "decoder": shared, "w": torch.randn(2)})
    tuned = Checkpoint.from_tensors({n: shared + 1 for n in ("shared", "encoder", "decoder")} | {"w": torch.randn(2)})
    assert len(tuned.names()) == 4
    vector = tuned - base
    assert vector.names() == ["shared", "w"]
    assert torch.equal((base + vector)["decoder"], shared + 1)


def test_models_with_the_same_names_are_compared_as_they_are(tmp_path):
    base, tuned = as_repeated(Tied(0), tmp_path / "a"), as_repeated(Tied(1), tmp_path / "b")
    leaf = (tuned - base).single()
    assert not isinstance(leaf.tuned.source, AlignedSource)


def test_a_tie_in_the_metadata_needs_both_sides_to_make_sense(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors", metadata={"w": "w", "x": "gone", "format": "pt"})
    assert Checkpoint.open(tmp_path).source.ties == {}


def test_a_tie_to_a_name_that_another_shard_holds_as_a_tensor_is_dropped(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "m-1.safetensors", metadata={"b": "a"})
    save_file({"b": torch.zeros(2)}, tmp_path / "m-2.safetensors")
    opened = Checkpoint.open(tmp_path)
    assert opened.source.ties == {}
    assert torch.equal(opened["b"], torch.zeros(2))
