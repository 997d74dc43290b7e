"""Models of several folders load again in sentence-transformers and diffusers after a merge."""

import json

import pytest
import torch
import transformers

import taskvec as tv
from cli_cases import call
from library_models import METHODS, TASKS, TEXTS, check_parameters, disturb, expected, merged, parameters_of, seeded
from taskvec.suites import base_source
from vector_cases import tree

diffusers = pytest.importorskip("diffusers")
sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
diffusers.utils.logging.disable_progress_bar()

SENTENCES = ["one two three", "a task vector", "nothing of the kind at all"]


def encoder_in(folder):
    """A tiny BERT with the tokenizer of MiniLM, as transformers writes it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_source())
    config = transformers.BertConfig(**TEXTS | {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 64})
    seeded(lambda: transformers.BertModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentence_model(bert):
    """Transformer, pooling and a dense layer, which has weights of its own in a folder of its own."""
    transformer = modules.Transformer(str(bert), max_seq_length=32)
    pooling = modules.Pooling(transformer.get_embedding_dimension())
    dense = seeded(lambda: modules.Dense(pooling.get_embedding_dimension(), 8))
    return sentence_transformers.SentenceTransformer(modules=[transformer, pooling, dense], device="cpu")


def numbered(folder):
    """Move what lies in the root of a model into 0_Transformer, as sentence-transformers used to."""
    table = json.loads((folder / "modules.json").read_text())
    (folder / "0_Transformer").mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            file.rename(folder / "0_Transformer" / file.name)
    table[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(table))


@pytest.fixture(scope="module", params=["weights in the root", "numbered folders"])
def sentences(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("sentences")
    bert = encoder_in(root / "bert")
    for seed, name in enumerate(("base", *TASKS)):
        model = sentence_model(bert)
        if name != "base":
            disturb(model, seed)
        model.save(str(root / name), create_model_card=False)
        if request.param == "numbered folders":
            numbered(root / name)
    return root


def open_sentences(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.mark.parametrize("method", METHODS)
def test_sentence_transformers_load_and_encode(sentences, method, tmp_path):
    base, *tuned = (parameters_of(open_sentences(sentences / name)) for name in ("base", *TASKS))
    wanted = expected(method, base, dict(zip(TASKS, tuned, strict=True)))
    written = merged(method, sentences).save(tmp_path / "merged")
    assert tree(written).keys() == tree(sentences / "base").keys() | {"README.md"}
    model = open_sentences(written)
    check_parameters(method, model, wanted, base)
    other = open_sentences(sentences / "base")
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(wanted[name])
    assert abs(model.encode(SENTENCES) - other.encode(SENTENCES)).max() < 1e-5
    assert abs(model.encode(SENTENCES) - open_sentences(sentences / "base").encode(SENTENCES)).max() > 1e-4


def write_vocabulary(folder):
    """The files of a CLIP tokenizer that knows letters."""
    folder.mkdir()
    letters = [f"{c}{end}" for c in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=16)


def pipeline(tokenizer):
    """A diffusion pipeline of tiny parts."""
    text = TEXTS | {"bos_token_id": 52, "eos_token_id": 53, "projection_dim": 16}
    unet = seeded(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
            attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip
    vae = seeded(
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, sample_size=16,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        )
    )  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=seeded(lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**text))),
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


PARTS = ("unet", "vae", "text_encoder")


def write_pipelines(root, **options):
    tokenizer = write_vocabulary(root / "vocabulary")
    for seed, name in enumerate(("base", *TASKS)):
        pipe = pipeline(tokenizer)
        for i, part in enumerate(PARTS):
            if name != "base":
                disturb(getattr(pipe, part), 10 * seed + i)
        pipe.save_pretrained(root / name, **options)
    return root


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    return write_pipelines(tmp_path_factory.mktemp("diffusion"))


def open_pipeline(folder, **options):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def all_parameters(pipe):
    return {f"{part}.{n}": p for part in PARTS for n, p in parameters_of(getattr(pipe, part)).items()}


def picture(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe("abc", height=16, width=16, num_inference_steps=2, generator=generator, output_type="pt").images


class Whole(torch.nn.Module):
    """The parts of a pipeline as one module."""

    def __init__(self, pipe):
        super().__init__()
        for part in PARTS:
            self.add_module(part, getattr(pipe, part))


def check_pipeline(method, root, pipe, **options):
    base, *tuned = (all_parameters(open_pipeline(root / name, **options)) for name in ("base", *TASKS))
    wanted = expected(method, base, dict(zip(TASKS, tuned, strict=True)))
    check_parameters(method, Whole(pipe), wanted, base)
    other = open_pipeline(root / "base", **options)
    with torch.no_grad():
        for name, parameter in Whole(other).named_parameters():
            parameter.copy_(wanted[name])
    assert torch.allclose(picture(pipe), picture(other), atol=1e-4)
    assert not torch.allclose(picture(pipe), picture(open_pipeline(root / "base", **options)), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_diffusers_load_and_draw(diffusion, method, tmp_path):
    written = merged(method, diffusion).save(tmp_path / "merged")
    assert tree(written).keys() == tree(diffusion / "base").keys() | {"README.md"}
    check_pipeline(method, diffusion, open_pipeline(written))
    for part in PARTS:
        kind = type(getattr(pipeline(None), part))
        _, info = kind.from_pretrained(written, subfolder=part, output_loading_info=True)
        assert not any(info.values()), info


def test_the_command_line_writes_the_same_pipeline(diffusion, tmp_path):
    tuned = [diffusion / task for task in TASKS]
    call("merge", "--method", "average", "--base", diffusion / "base", *tuned, "-o", tmp_path / "cli")
    written = merged("average", diffusion).save(tmp_path / "python")
    assert tv.Checkpoint.open(tmp_path / "cli").fingerprint() == tv.Checkpoint.open(written).fingerprint()
    check_pipeline("average", diffusion, open_pipeline(tmp_path / "cli"))


def test_torch_files_of_a_pipeline_become_safetensors_that_load(tmp_path):
    root = write_pipelines(tmp_path, safe_serialization=False)
    assert (root / "base" / "unet" / "diffusion_pytorch_model.bin").is_file()
    written = merged("average", root).save(tmp_path / "merged")
    assert {n for n in tree(written) if n.startswith("unet")} == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    check_pipeline("average", root, open_pipeline(written, use_safetensors=True))


@pytest.mark.parametrize("cut", [None, "40KB"])
def test_the_variant_of_a_pipeline_keeps_its_names(cut, tmp_path):
    root = write_pipelines(tmp_path, variant="fp16", **({"max_shard_size": cut} if cut else {}))
    written = merged("average", root).save(tmp_path / "merged")
    assert tree(written).keys() == tree(root / "base").keys() | {"README.md"}
    check_pipeline("average", root, open_pipeline(written, variant="fp16"), variant="fp16")
