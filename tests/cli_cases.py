"""Small models on disk and a way to call the command line, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from taskvec.cli import app

ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TASKVEC_DEBUG": ""}


def call(*arguments: object, code: int = 0) -> Any:
    """Run `taskvec` in this process and check its exit code; the result has stdout and stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env=ENVIRONMENT, prog_name="taskvec")
    assert result.exit_code == code, result.output
    return result


def called_json(*arguments: object) -> Any:
    """What a verb prints with --json; nothing else may be printed."""
    result = call(*arguments, "--json")
    assert result.stderr == ""
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    """The message of a call that must be refused: exit code 1, a cause and a fix on stderr, nothing on stdout."""
    result = call(*arguments, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "\nFix: " in result.stderr
    assert "Traceback" not in result.stderr
    return str(result.stderr)


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `taskvec` in a process of its own."""
    command = [sys.executable, "-m", "taskvec", *map(str, arguments)]
    environment = os.environ | ENVIRONMENT | options.pop("env", {})
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


def on_a_terminal(*arguments: object) -> str:
    """What `taskvec` shows on a terminal of 80 columns when bars do not wait."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    code = "from taskvec.cli import _progress, main; _progress._DELAY = 0.0; main()"
    line = [sys.executable, "-c", code, *map(str, arguments)]
    shown = b""
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=follower, env=environment) as running:
        os.close(follower)
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not data:
                break
            shown += data
    os.close(leader)
    assert running.returncode == 0, shown
    return shown.decode()


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """A tiny model: two matrices, a bias, a scalar, integers."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "layer.weight": random(8, 4).bfloat16(),
        "layer.bias": random(8).bfloat16(),
        "head.weight": random(3, 8).bfloat16(),
        "scale": random().bfloat16(),
        "positions": torch.arange(5),
    }


def folder(path: Path, table: Mapping[str, torch.Tensor]) -> Path:
    """A model folder with a config."""
    path.mkdir(parents=True)
    save_file(dict(table), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text('{"model_type": "tiny", "torch_dtype": "bfloat16"}\n')
    return path


def adapter(path: Path) -> Path:
    """A LoRA adapter of the tiny model."""
    path.mkdir()
    generator = torch.Generator().manual_seed(5)
    factors = {
        "base_model.model.layer.lora_A.weight": torch.randn(2, 4, generator=generator),
        "base_model.model.layer.lora_B.weight": torch.randn(8, 2, generator=generator),
    }
    save_file(factors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/tiny"}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path
