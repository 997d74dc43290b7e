"""The state of a fine-tuning on the disk, from which an interrupted one goes on as if nothing had happened."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch

from taskvec.errors import FormatError, ParameterError
from taskvec.ops.hashing import hash_of
from taskvec.suites import Encoder, Head, Split
from taskvec.tune.regime import Run
from taskvec.tune.settings import Settings


@final
class Saved:
    """One file: the parameters, the optimizer's state and the losses so far, and what run they belong to."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    def load(self, run: Run, optimizer: torch.optim.Optimizer) -> list[float]:
        """Put the run where it was left, and return its losses; none where there is no file.

        Raises:
            ParameterError: the file is of another run. FormatError: it is not such a file.
        """
        if not self._path.is_file():
            return []
        state = self._read()
        if state.get("key") != self._key:
            raise ParameterError(
                f"'{self._path}' holds the state of another fine-tuning (other model, task, regime or settings).",
                "give another file to resume from, or remove it.",
            )
        with torch.no_grad():
            for name, parameter in run.parameters.items():
                parameter.copy_(state["parameters"][name])
        optimizer.load_state_dict(state["optimizer"])
        return list(state["losses"])

    def _read(self) -> Mapping[str, Any]:
        try:
            state = torch.load(self._path, weights_only=True)
        except Exception as error:  # whatever the archive's bytes make the reader raise
            raise FormatError(
                f"'{self._path}' is not the state of a fine-tuning: {type(error).__name__}.", "remove it."
            ) from error
        if not isinstance(state, dict):
            raise FormatError(f"'{self._path}' is not the state of a fine-tuning.", "remove it.")
        return state

    def write(self, run: Run, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        """Replace the file in one step."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f"{self._path.name}.new")
        parameters = {name: each.detach() for name, each in run.parameters.items()}
        state = {"key": self._key, "parameters": parameters, "optimizer": optimizer.state_dict(), "losses": losses}
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


def key_of(model: Encoder, head: Head, split: Split, regime: str, settings: Settings) -> str:
    """What a run is: the whole base model, frozen tensors too, its data, its head, its regime and its settings."""
    own = model.module.state_dict()
    data = json.dumps([regime, asdict(settings), split.texts, split.labels, head.temperature, list(own)])
    tensors = (each.detach().contiguous().numpy().tobytes() for each in (*own.values(), head.embeddings))
    return hash_of("".join(hash_of(part) for part in (data.encode(), *tensors)).encode())
