"""Converted models are the same models: equal outputs where that is promised, and nothing lost in silence."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from nasimb.errors import InputError
from nasimb.nn import convert_norm
from nasimb.nn.norms import NORMS
from nasimb.nn.norms.nbn import NormalisedBatchNorm2d

PLACES = {
    "resnet18": "last",
    "resnet50": "last-stage",
    "mobilenet_v3_small": "last",
    "regnet_y_400mf": "last",
    "densenet121": "all",
}


def learned(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that no norm starts with, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) * 1.2 - 0.2)
            norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator) * 0.3)
            norm.running_mean.copy_(torch.randn(norm.bias.shape, generator=generator) * 0.1)
            norm.running_var.copy_(torch.rand(norm.bias.shape, generator=generator) + 0.5)
            norm.num_batches_tracked.fill_(7)
    return model.eval()


def images(batch: int = 2, size: int = 64) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    return model(images())


def assert_equal_outputs(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))


def refused(model: nn.Module, norm: Any = "nbn", **options: Any) -> str:
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(InputError) as caught:
        convert_norm(model, norm, **options)
    assert before == {name: id(module) for name, module in model.named_modules()}
    return str(caught.value)


@pytest.mark.parametrize("name", PLACES)
def test_a_network_converts_trains_and_converts_back(name: str) -> None:
    model = learned(models.get_model(name, weights=None))
    expected, where = outputs(model), PLACES[name]
    names = convert_norm(model, "nbn", where=where)
    layers = [model.get_submodule(layer) for layer in names]
    assert layers
    assert all(type(layer) is NormalisedBatchNorm2d for layer in layers)
    assert all(int(layer.num_batches_tracked) == 7 for layer in layers)
    assert_equal_outputs(outputs(model), expected)

    again = models.get_model(name, weights=None)
    assert convert_norm(again, "nbn", where=where) == names
    again.load_state_dict(model.state_dict())
    assert torch.equal(outputs(again.eval()), outputs(model))

    trained = copy.deepcopy(model).train()
    before = {key: value.clone() for key, value in trained.named_parameters()}
    optimiser = torch.optim.SGD(trained.parameters(), lr=1.0)
    loss = F.cross_entropy(trained(images(4, 32 if name == "resnet50" else 64)), torch.arange(4))
    loss.backward()
    assert math.isfinite(loss.item())
    optimiser.step()
    changed = {key for key, value in trained.named_parameters() if not torch.equal(value, before[key])}
    # Biases too have gradients, but of zero where every path leads through a 1x1 convolution to a batch norm.
    assert {f"{layer}.weight" for layer in names} <= changed
    assert all(trained.get_submodule(layer).scale.grad.item() != 0 for layer in names)
    assert all(trained.get_submodule(layer).bias.grad is not None for layer in names)

    assert convert_norm(model, "bn", where=where) == names
    assert not any(isinstance(module, NormalisedBatchNorm2d) for module in model.modules())
    assert_equal_outputs(outputs(model), expected)


def test_the_last_stage_of_resnet50_is_what_the_authors_of_nbn_normalise() -> None:
    model = models.resnet50()
    assert convert_norm(model, "nbn", where="last-stage") == [
        "layer4.0.bn3", "layer4.0.downsample.1", "layer4.1.bn3", "layer4.2.bn3",
    ]  # fmt: skip


def test_the_last_norms_of_resnet50_are_those_before_the_additions() -> None:
    blocks = (3, 4, 6, 3)
    expected = {f"layer{stage}.{block}.bn3" for stage in range(1, 5) for block in range(blocks[stage - 1])}
    expected |= {f"layer{stage}.0.downsample.1" for stage in range(1, 5)}
    assert set(convert_norm(models.resnet50(), "nbn")) == expected


def test_all_are_all() -> None:
    model = models.mobilenet_v3_small()
    expected = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert convert_norm(model, "gn", where="all") == expected
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_takes_the_place_and_trains(name: str) -> None:
    model = learned(small())
    weight, bias = model[4].weight.clone(), model[4].bias.clone()
    expected = outputs(model)
    assert convert_norm(model, name, where=["4"]) == ([] if name == "bn" else ["4"])
    if name in ("bn", "nbn", "ghost_bn", "sync_bn"):
        assert_equal_outputs(outputs(model), expected)
    else:
        assert not torch.allclose(outputs(model), expected)
    assert torch.equal(model[4].weight, weight)
    assert torch.equal(model[4].bias, bias)
    model.train()(images()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model[4].parameters())


def test_ghost_and_synchronised_norms_convert_back_bit_for_bit() -> None:
    model = learned(small())
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    for norm in ({"name": "ghost_bn", "ghost_batch": 4}, "sync_bn", "bn"):
        assert convert_norm(model, norm, where="all") == ["1", "4"]
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert type(model[1]) is nn.BatchNorm2d


def test_a_shared_layer_stays_shared() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.ReLU(), nn.ModuleDict({"inner": norm}))
    assert convert_norm(model, "nbn", where=["2.inner", "0"]) == ["2.inner"]
    assert type(model[0]) is NormalisedBatchNorm2d
    assert model[2]["inner"] is model[0]


def test_options_of_the_norm_are_read_as_in_a_configuration() -> None:
    model = small()
    convert_norm(model, {"name": "gn", "group_size": 4}, where=["1"])
    assert model[1].num_groups == 2
    assert "normalized" in refused(small(), {"name": "nbn", "bias": "normalized"}, where="all")
    assert "'nbn'" in refused(small(), "nbm", where="all")


def test_the_rest_of_the_model_is_left_alone() -> None:
    model = learned(small()).train()
    model[1].eval()
    others = [model[0], model[2], model[3], model[4]]
    convert_norm(model, "nbn", where=["1"])
    assert [model[0], model[2], model[3], model[4]] == others
    assert [module.training for module in model] == [True, False, True, True, True]
    resnet = models.resnet18()
    modes = [module.training for module in resnet.modules()]
    convert_norm(resnet, "nbn")
    assert [module.training for module in resnet.modules()] == modes


def test_fresh_layers_start_as_their_options_say() -> None:
    options = {"name": "nbn", "bias": "normalised", "start": "one"}
    model = learned(small())
    assert "start: one" in refused(model, options, where="all")
    convert_norm(model, options, where="all", keep=False)
    assert model[1].scale.item() == 1.0
    torch.testing.assert_close(model[1].bias.norm(), torch.tensor(1.0))
    assert not torch.allclose(model[1].bias[:4], model[4].bias)
    assert torch.equal(model[1].running_mean, torch.zeros(8))
    assert not model[1].training


def test_where_there_is_no_last_norm_a_sentence_says_so() -> None:
    for model in (models.densenet121(), small()):
        assert 'where="all"' in refused(model)
    assert "without any" in refused(nn.Sequential(nn.Conv2d(3, 3, 1)), where="all")
    assert "inside the model" in refused(nn.BatchNorm2d(3), where="all")
    assert "last-stage" in refused(small(), where="last_stage")


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.norm(x) if x.sum() > 0 else x

    assert "torch.fx" in refused(Branching())
    assert convert_norm(Branching(), "nbn", where="all") == ["norm"]


def test_wrong_names_are_refused() -> None:
    assert "Did you mean 'layer4.1.bn2'?" in refused(models.resnet18(), where=["layer4.1.bn1", "layer4.1.nb2"])
    assert "a Conv2d" in refused(small(), where=["0"])
    assert "empty" in refused(small(), where=[])


def test_contradictions_are_refused() -> None:
    assert "where: all" in refused(models.resnet18(), {"name": "gn", "where": "all"}, where="last")
    assert "scale: shared" in refused(models.resnet18(), {"name": "nbn", "scale": "shared"})


def test_shared_parameters_are_refused() -> None:
    model = small()
    model.append(nn.BatchNorm2d(4))
    model[5].weight = model[4].weight
    assert "4" in refused(model, where=["4"])
    assert convert_norm(model, "nbn", where=["1"]) == ["1"]
