"""Inputs cut into batches of similar length, and the logits of a whole split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.suites.encoder import Batch, Encoder
from taskvec.suites.head import Head


@final
@dataclass(frozen=True, slots=True)
class Bucketed:
    """Batches of similar length and, for each, the positions of its inputs in the original order."""

    batches: tuple[Batch, ...]
    positions: tuple[Tensor, ...]


def bucketed(encoder: Encoder, inputs: Sequence[str], *, batch_size: int = 64) -> Bucketed:
    """`inputs` as batches, shortest texts first, each padded only to its own longest."""
    order = sorted(range(len(inputs)), key=lambda i: (len(inputs[i]), i))
    cuts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return Bucketed(
        tuple(encoder.batch([inputs[i] for i in cut]) for cut in cuts), tuple(torch.tensor(cut) for cut in cuts)
    )


def logits_of(
    head: Head, prepared: Bucketed, features: Callable[[Batch], Tensor], *, autocast: bool = False
) -> Float[Tensor, "input class"]:
    """Logits in the original order of the inputs, without gradients; `autocast` runs the encoder in bfloat16."""
    parts = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for batch in prepared.batches:
            parts.append(features(batch).float())
    with torch.inference_mode():
        ordered = torch.empty_like(torch.cat(parts))
        ordered[torch.cat(prepared.positions)] = torch.cat(parts)
        return head.logits(ordered)
