"""Real transformers vision models with random weights, and images of two colors, made on the spot."""

from pathlib import Path

import torch
import transformers
from PIL import Image

from taskvec.suites import base_source

SIZE = 16
COLORS = {"red": (200, 40, 40), "blue": (40, 40, 200), "green": (40, 200, 40)}


def write_tiny_vit(folder: Path) -> Path:
    """A two-layer ViT of width 32 for images of 16 × 16, with its processor."""
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=SIZE,
        patch_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    _processor("ViTImageProcessorPil").save_pretrained(folder)
    return folder


def write_tiny_clip(folder: Path) -> Path:
    """A CLIP with a vision and a text side of width 32 and the tokenizer of MiniLM."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_source())
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"projection_dim": 24}
    text = {
        **sizes,
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 32,
        "eos_token_id": 102,
        "bos_token_id": 101,
    }
    vision = {**sizes, "image_size": SIZE, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    _processor("CLIPImageProcessorPil").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _processor(name: str) -> transformers.BaseImageProcessor:
    edges = {"height": SIZE, "width": SIZE}
    return getattr(transformers, name)(size=edges, crop_size=edges)


def write_images(
    folder: Path, colors: tuple[str, ...] = ("red", "blue"), *, splits: dict[str, int] | None = None
) -> Path:
    """`folder/SPLIT/COLOR/N.png`: images of one color and some noise, no two alike."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (splits or {"train": 12, "val": 6, "test": 8}).items():
        for color in ("red", "blue"):
            home = folder / split / color
            home.mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(-30, 31, (SIZE, SIZE, 3), generator=generator)
                pixels = (torch.tensor(COLORS[color]) + noise).to(torch.uint8)
                Image.fromarray(pixels.numpy()).save(home / f"{i}.png")
    return folder
