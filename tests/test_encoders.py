"""Text encoders and frozen heads."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from taskvec.errors import DestinationError, FormatError, NonFiniteError, ParameterError, SchemaError
from taskvec.suites import TextEncoder, base_source, bucketed, class_name_head, heads_of, logits_of
from taskvec.suites.encoder import HUB_BASE
from taskvec.suites.folder import complete_folder
from tiny_text import open_tiny, tiny_suite, write_tiny_encoder

TEXTS = ("a red dog", "one green and rather long sentence about a cat that sleeps", "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return open_tiny(folder)


def test_the_packaged_base_is_found_and_its_saved_copy_has_the_same_names_dtypes_and_bits(tmp_path: Path) -> None:
    assert base_source() != HUB_BASE
    base = TextEncoder.open()
    saved = load_file(base.save(tmp_path / "copy") / "model.safetensors")
    original = load_file(Path(base_source()) / "model.safetensors")
    assert list(saved) == list(original)
    assert all(torch.equal(saved[name], original[name]) and saved[name].dtype == original[name].dtype for name in saved)


def test_a_saved_folder_opens_with_transformers_alone(encoder: TextEncoder, tmp_path: Path) -> None:
    saved = encoder.save(tmp_path / "deep" / "copy")
    assert transformers.AutoTokenizer.from_pretrained(saved)("a dog").input_ids == encoder.tokenizer("a dog").input_ids
    module = transformers.AutoModel.from_pretrained(saved)
    again = TextEncoder(module=module.eval(), tokenizer=encoder.tokenizer, folder=saved)
    assert torch.equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert [path.name for path in saved.parent.iterdir()] == ["copy"]


def test_saving_over_something_is_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match=r"exists already\.\nFix: "):
        encoder.save(tmp_path)


def test_tensors_that_transformers_leaves_out_are_carried_over(folder: Path, tmp_path: Path) -> None:
    original, written = tmp_path / "original", tmp_path / "written"
    for each in (original, written):
        each.mkdir()
    save_file({"w": torch.ones(2), "position_ids": torch.arange(3)}, original / "model.safetensors")
    save_file({"w": torch.zeros(2), "extra": torch.zeros(1)}, written / "model.safetensors")
    (original / "pooling.json").write_text("{}")
    complete_folder(written, original)
    saved = load_file(written / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in saved.items()} == {"w": [0, 0], "position_ids": [0, 1, 2]}
    assert (written / "pooling.json").read_text() == "{}"


def test_a_copy_with_entirely_other_names_is_refused(tmp_path: Path) -> None:
    for each, name in (("a", "w"), ("b", "v")):
        (tmp_path / each).mkdir()
        save_file({name: torch.ones(2)}, tmp_path / each / "model.safetensors")
    with pytest.raises(SchemaError, match=r"no tensor is named as in .*: 'w' was written"):
        complete_folder(tmp_path / "a", tmp_path / "b")


def test_a_sharded_copy_with_other_names_is_refused(tmp_path: Path) -> None:
    for each in ("a", "b"):
        (tmp_path / each).mkdir()
        save_file({"w": torch.ones(2)}, tmp_path / each / "model-1.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "a" / "model-2.safetensors")
    with pytest.raises(SchemaError, match="the tensor 'x' is only in one of"):
        complete_folder(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("source", ["no/such/folder", "-bad id-"])
def test_a_source_that_is_neither_folder_nor_hub_id_is_refused(source: str) -> None:
    with pytest.raises(FormatError, match=rf"'{source}' is neither a folder nor a hub id that can be fetched"):
        TextEncoder.open(source)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not a model that transformers can open"):
        TextEncoder.open(tmp_path)


@pytest.mark.filterwarnings("default")  # transformers tells about the missing tensor
def test_a_tensor_that_the_files_lack_cannot_pass_for_a_result(folder: Path, tmp_path: Path) -> None:
    broken = open_tiny(folder).save(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"gives features that are not finite\.\nFix: "):
        TextEncoder.open(broken).encode(TEXTS)


def test_a_feature_does_not_depend_on_its_neighbors_in_the_batch(encoder: TextEncoder) -> None:
    together = encoder.encode(TEXTS)
    torch.testing.assert_close(together, torch.cat([encoder.encode([text]) for text in TEXTS]), rtol=0, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))


def test_texts_are_cut_at_48_tokens(encoder: TextEncoder) -> None:
    assert encoder.batch(["dog " * 100, "cat"])["input_ids"].shape == (2, 48)


def test_given_parameters_replace_the_modules_own(encoder: TextEncoder) -> None:
    params = {name: 1.5 * value.detach() for name, value in encoder.module.named_parameters()}
    other = encoder.duplicate()
    other.module.load_state_dict(params, strict=False)
    batch = encoder.batch(TEXTS)
    with torch.no_grad():
        assert torch.equal(encoder.features(batch, params=params), other.features(batch))
        assert not torch.equal(encoder.features(batch), other.features(batch))


def test_logits_are_temperature_times_cosine_in_the_original_order(encoder: TextEncoder, folder: Path) -> None:
    task = tiny_suite(folder).tasks[0]
    head = class_name_head(encoder, task, temperature=7.0)
    logits = logits_of(head, bucketed(encoder, TEXTS, batch_size=2), encoder.features)
    expected = 7.0 * encoder.encode(TEXTS) @ encoder.encode(task.phrases).T
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_heads_come_from_the_suites_base_model(encoder: TextEncoder, folder: Path) -> None:
    suite = tiny_suite(folder)
    opened, given = heads_of(suite), heads_of(suite, base=encoder)
    assert list(opened) == ["color", "animal"]
    assert all(torch.equal(opened[name].embeddings, given[name].embeddings) for name in opened)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_must_be_a_positive_number(encoder: TextEncoder, folder: Path, temperature: float) -> None:
    with pytest.raises(ParameterError, match=f"temperature={temperature} is not a positive number"):
        class_name_head(encoder, tiny_suite(folder).tasks[0], temperature=temperature)
