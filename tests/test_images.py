"""Image encoders and tasks from folders of images."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import taskvec as tv
from taskvec.errors import FormatError, ParameterError, SchemaError
from taskvec.suites import ImageEncoder, class_name_head, prototype_head
from taskvec.suites.image_folder import read_images
from tiny_images import write_images, write_tiny_clip, write_tiny_vit
from tiny_text import write_tiny_encoder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vit(tmp_path_factory.mktemp("vit") / "base")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip") / "base")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("pictures"))


def paths(folder: Path) -> list[str]:
    return [str(folder / "test" / color / f"{i}.png") for i, color in ((0, "red"), (1, "blue"), (2, "red"))]


def test_the_feature_of_a_vit_is_its_class_token(vit: Path, pictures: Path) -> None:
    encoder = ImageEncoder.open(vit)
    batch = encoder.batch(paths(pictures))
    assert {name: tuple(x.shape) for name, x in batch.items()} == {"pixel_values": (3, 3, 16, 16)}
    module = transformers.ViTModel.from_pretrained(vit, add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = module(**batch).last_hidden_state[:, 0]
        torch.testing.assert_close(encoder.features(batch), expected)
    params = {n: 1.5 * p.detach() for n, p in encoder.module.named_parameters()}
    other = encoder.duplicate()
    other.module.load_state_dict(params)
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(batch, params=params), other.features(batch))
    alone = torch.cat([encoder.encode([p]) for p in paths(pictures)])
    torch.testing.assert_close(encoder.encode(paths(pictures)), alone, rtol=0, atol=1e-5)


def test_a_saved_vision_model_has_the_names_and_bits_of_the_original(vit: Path, clip: Path, tmp_path: Path) -> None:
    for source in (vit, clip):
        encoder = ImageEncoder.open(source)
        saved = encoder.save(tmp_path / source.parent.name)
        one, two = (load_file(each / "model.safetensors") for each in (source, saved))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[n], two[n]) for n in one)
        assert (saved / "config.json").read_text() == (source / "config.json").read_text() or source == vit
        assert tv.Checkpoint.open(saved).fingerprint() == tv.Checkpoint.open(source).fingerprint()
        moved = encoder.with_weights(tv.Checkpoint.open(saved))
        assert all(torch.equal(t, moved.module.state_dict()[n]) for n, t in encoder.module.state_dict().items())
    transformers.CLIPModel.from_pretrained(saved)


def test_the_feature_of_a_clip_is_its_embedding_and_its_text_side_makes_heads(clip: Path, pictures: Path) -> None:
    encoder = ImageEncoder.open(clip)
    whole = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    batch, phrases = encoder.batch(paths(pictures)), ["a red thing", "something blue and long"]
    with torch.no_grad():
        output = whole(**batch, **tokenizer(phrases, padding=True, return_tensors="pt"))
    torch.testing.assert_close(encoder.encode(paths(pictures)), output.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.embed(phrases), output.text_embeds, rtol=0, atol=1e-5)
    task = read_images("color", pictures, classes=["red", "blue"], phrases=phrases)
    head = class_name_head(encoder, task, temperature=5.0)
    torch.testing.assert_close(head.embeddings, output.text_embeds, rtol=0, atol=1e-5)


def test_a_text_side_that_moved_is_refused(clip: Path, tmp_path: Path) -> None:
    encoder = ImageEncoder.open(clip)
    tensors = load_file(encoder.save(tmp_path / "moved") / "model.safetensors")
    tensors["text_projection.weight"] += 1.0
    save_file(tensors, tmp_path / "moved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SchemaError, match=r"has the tensor 'text_projection.weight', which the encoder does not have"):
        encoder.with_weights(tv.Checkpoint.open(tmp_path / "moved"))


def test_prototypes_are_the_mean_directions_of_a_few_training_images(vit: Path, pictures: Path) -> None:
    encoder, task = ImageEncoder.open(vit), read_images("color", pictures)
    head = prototype_head(encoder, task, temperature=7.0, examples=3)
    train = task.split("train")
    for label in (0, 1):
        chosen = [p for p, y in zip(train.texts, train.labels, strict=True) if y == label][:3]
        mean = encoder.encode(chosen).mean(0)
        torch.testing.assert_close(head.embeddings[label], mean / mean.norm())
    assert head.temperature == 7.0
    with pytest.raises(ParameterError, match="temperature=0 with examples=3 is out of its range"):
        prototype_head(encoder, task, temperature=0, examples=3)
    with pytest.raises(ParameterError, match="reads no texts, so names cannot become a head"):
        class_name_head(encoder, task, temperature=7.0)
    more = read_images("color", pictures, classes=["red", "blue", "green"])
    with pytest.raises(ParameterError, match="class 'green' of task 'color' has no training input"):
        prototype_head(encoder, more, temperature=7.0)


def test_what_is_no_vision_model_or_image_is_refused(vit: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not a vision model that transformers can open"):
        ImageEncoder.open(write_tiny_encoder(tmp_path / "text"))
    tensors = {f"vit.{n}": t for n, t in load_file(vit / "model.safetensors").items()}
    other = ImageEncoder.open(vit).save(tmp_path / "other")
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        SchemaError, match=r"name their tensors like 'vit\..*Fix: save the vision model alone|name their"
    ):
        ImageEncoder.open(other)
    (tmp_path / "broken.png").write_bytes(b"no image")
    for path in (tmp_path / "broken.png", tmp_path / "gone.png"):
        with pytest.raises(FormatError, match=r"\.png' cannot be read as an image"):
            ImageEncoder.open(vit).batch([str(path)])


# --- folders


def test_a_folder_of_images_is_a_task(pictures: Path) -> None:
    task = read_images("color", pictures)
    assert task.classes == task.phrases == ("blue", "red")
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 24, "val": 12, "test": 16}
    for name, split in task.splits.items():
        for path, label in zip(split.texts, split.labels, strict=True):
            assert Path(path).parent == pictures / name / task.classes[label]
    assert read_images("color", pictures) == task
    assert task.split("train").texts != tuple(sorted(task.split("train").texts))
    named = read_images("color", pictures, classes=["red", "blue"], phrases=["warm", "cold"])
    assert (named.classes, named.phrases) == (("red", "blue"), ("warm", "cold"))
    assert named.version == task.version


def test_other_images_are_another_version_and_a_tenth_is_held_out(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "t", splits={"train": 100, "test": 2})
    task = read_images("t", folder)
    assert 5 < len(task.split("val")) < 40
    assert len(task.split("val")) + len(task.split("train")) == 200
    assert not set(task.split("val").texts) & set(task.split("train").texts)
    (folder / "test" / "red" / "0.png").unlink()
    assert read_images("t", folder).version != task.version


def test_folders_that_are_no_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no 'train' images: .*\nFix: put images into '.*train/CLASS/'"):
        read_images("t", tmp_path)
    folder = write_images(tmp_path / "t", splits={"train": 3, "val": 1, "test": 1})
    with pytest.raises(ParameterError, match=r"/red' is not the folder of a class of task 't'; they are \['blue'\]"):
        read_images("t", folder, classes=["blue"])
    (folder / ".hidden").write_text("")
    (folder / "test" / "red" / "notes.txt").write_text("")
    with pytest.raises(FormatError, match=r"notes.txt' is not an image of a known kind\.\nFix: known: \.png"):
        read_images("t", folder)
    (folder / "test" / "red" / "notes.txt").unlink()
    for color in ("red", "blue"):
        (folder / "val" / color / "0.png").unlink()
    with pytest.raises(ParameterError, match="the split 'val' of task 't' has no image"):
        read_images("t", folder)
