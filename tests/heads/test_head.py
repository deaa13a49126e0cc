"""A head in its three forms: logits, plain module, tensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from nasimb.heads.gda import GdaSpec
from nasimb.heads.head import Head
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.ridge import RidgeSpec

FITTERS = {
    "ridge": lambda x, y: RidgeSpec().fit(x, y, 4, 0.1),
    "gda": lambda x, y: GdaSpec().fit(x, y, 4, 0.1),
    "logistic": lambda x, y: LogisticSpec().fit(x, y, 4, 0.1),
    "cosine": lambda x, y: LogisticSpec(loss="ldam").fit(x, y, 4, 0.0),  # type: ignore[arg-type]
}


def fitted(name: str) -> tuple[Head, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(40) % 3  # class 3 has no images
    features_ND = torch.randn(40, 5, generator=generator) * 3 + 10 * torch.randn(5, generator=generator)
    features_ND[:, :3] += 2 * nn.functional.one_hot(labels_N, 3)
    return FITTERS[name](features_ND, labels_N), features_ND


@pytest.mark.parametrize("name", FITTERS)
def test_the_module_gives_the_heads_logits(name: str) -> None:
    head, features_ND = fitted(name)
    module = head.to_module()
    assert type(module).__name__ == ("CosineHead" if name == "cosine" else "Linear")
    logits_NK = module(features_ND)
    assert logits_NK.dtype == torch.float32
    torch.testing.assert_close(logits_NK.double(), head.logits(features_ND), atol=1e-3, rtol=1e-4)
    assert (logits_NK.argmax(1) < 3).all()


@pytest.mark.parametrize("name", FITTERS)
def test_tensors_through_a_file_and_back(name: str) -> None:
    head, features_ND = fitted(name)
    again = Head.from_tensors(load(save(head.tensors())), name=head.name, setting=head.setting)
    assert torch.equal(head.logits(features_ND), again.logits(features_ND))
    assert again.scale == head.scale


@pytest.mark.parametrize("name", FITTERS)
def test_the_module_back_from_its_state(name: str) -> None:
    head, features_ND = fitted(name)
    module = head.to_module()
    state = load(save(module.state_dict()))
    again = Head.module_from(type(module).__name__, state)
    assert torch.equal(module(features_ND), again(features_ND))
    state.pop("bias")
    with pytest.raises(KeyError):
        Head.module_from(type(module).__name__, state)


def test_fits_do_not_keep_gradients() -> None:
    head, _ = fitted("logistic")
    assert not any(parameter.requires_grad for parameter in head.to_module().parameters())
