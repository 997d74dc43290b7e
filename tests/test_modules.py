"""Plain modules as encoders."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import taskvec as tv
from plain_models import WORDS, counts, mlp, seeded
from taskvec.errors import DestinationError, NonFiniteError, ParameterError, SchemaError
from taskvec.suites import ModuleEncoder


def test_features_are_the_modules_and_given_parameters_replace_its_own() -> None:
    encoder, other = mlp(seed=1), mlp(seed=2)
    batch = encoder.batch(WORDS)
    torch.testing.assert_close(encoder.features(batch), encoder.module(batch["input"]))
    moved = encoder.features(batch, params=dict(other.module.named_parameters()))
    torch.testing.assert_close(moved, other.features(batch))
    pooled = replace(encoder, pool=lambda output, batch: output[:, :1] * batch["input"])
    torch.testing.assert_close(pooled.features(batch), encoder.features(batch)[:, :1] * batch["input"])
    unit = encoder.encode(WORDS)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(len(WORDS)))


def test_it_is_saved_under_its_own_names_and_takes_the_weights_back(tmp_path: Path) -> None:
    encoder, other = mlp(seed=1), mlp(seed=2)
    saved = tv.Checkpoint.open(encoder.save(tmp_path / "deep" / "model"))
    assert set(saved.specs) == set(encoder.module.state_dict())
    again = other.with_weights(saved)
    assert torch.equal(again.encode(WORDS), encoder.encode(WORDS))
    assert not torch.equal(other.encode(WORDS), encoder.encode(WORDS))
    with pytest.raises(DestinationError, match="exists already"):
        encoder.save(tmp_path / "deep" / "model")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model"]
    with pytest.raises(SchemaError, match=r"the encoder needs 'weight' with shape \(2, 8\)"):
        ModuleEncoder(module=seeded(nn.Linear(8, 2)), read=counts()).with_weights(saved)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ParameterError, match="the model Sequential reads no texts, so names cannot become a head"):
        mlp().embed(["a phrase"])

    class Two(nn.Linear):
        def forward(self, input: torch.Tensor) -> object:
            return super().forward(input), input

    odd = ModuleEncoder(module=seeded(Two(8, 2)), read=counts())
    with pytest.raises(ParameterError, match=r"the module returns tuple, not a tensor\.\nFix: give pool="):
        odd.encode(WORDS)
    broken = mlp()
    broken.module[0].weight.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the module Sequential gives features that are not finite"):
        broken.encode(WORDS)
