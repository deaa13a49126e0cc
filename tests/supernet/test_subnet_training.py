"""A subnet trained fully: it learns, what it does not use stays out of it, and it goes on bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.errors import InputError, ResumeError
from nasimb.losses import LOSSES, parse_loss
from nasimb.space import SearchSpace, Stage, Subnet
from nasimb.supernet import build_supernet
from nasimb.supernet.base import Supernet
from nasimb.supernet.pixels import pixel_mean_and_std
from nasimb.supernet.sampling import generator_for
from nasimb.supernet.subnet_training import SubnetRecipe, SubnetTraining

CPU = torch.device("cpu")
SPACE = SearchSpace(
    name="tiny", backbone="resnet", stem_width=4, resolutions=(8,), taps=(1, 2),
    stages=(
        Stage(depths=(1, 2), widths=(4, 8), kernel_sizes=(3,), norms=("bn", "nbn"), stride=1),
        Stage(depths=(1,), widths=(8, 12), kernel_sizes=(3, 5), norms=("bn", "nbn"), stride=2),
    ),
)  # fmt: skip
SUBNET = replace(SPACE.smallest(), widths=(8, 12), norms=("nbn", "nbn"), taps=2)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return parse_dataset({"name": "digits", "digits": (0, 1, 4), "test_per_class": 1}).load(LoadRequest(size=8)).train


def supernet_of(images: ImageSet) -> Supernet:
    return build_supernet(SPACE, 1, images.num_classes, *pixel_mean_and_std(images), generator_for(0, 0))


def training(
    images: ImageSet, loss: str = "cross_entropy", *, subnet: Subnet = SUBNET, seed: int = 0, **recipe: float
) -> SubnetTraining:
    return SubnetTraining(
        supernet_of(images), subnet, images, parse_loss(loss), SubnetRecipe(batch_size=32, **recipe),
        seed=seed, device=CPU, flip=False, fresh=True,
    )  # fmt: skip


def run(made: SubnetTraining, steps: int, of: int) -> SubnetTraining:
    while made.steps_done < steps:
        made.step(made.steps_done / of)
    return made


def pixels(images: ImageSet) -> Tensor:
    return images.store.read(images.indices_N, CPU)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_learns(digits: ImageSet, loss: str) -> None:
    made = run(training(digits, loss), 40, 40)
    backbone, weight_KD, bias_K = made.network(1000)
    features_ND = backbone(pixels(digits))
    if made.loss.cosine:
        features_ND, weight_KD = nn.functional.normalize(features_ND), nn.functional.normalize(weight_KD)
    right_N = (features_ND @ weight_KD.T + bias_K).argmax(1) == digits.labels_N
    assert right_N.float().mean() > 0.9  # chance is a third


def test_its_first_gradient_is_that_of_the_extracted_network(digits: ImageSet) -> None:
    """Against the plain modules and torch's own optimiser."""
    made = training(digits, subnet=replace(SUBNET, norms=("bn", "bn")), shift=0.0, warmup=0.0, weight_decay=0.0)
    plain = nn.Sequential(made.supernet.extract(made.subnet, None), nn.Linear(20, 3))
    plain[1].load_state_dict(made.classifier.state_dict())
    plain.train().requires_grad_(True)
    first = training(digits, subnet=made.subnet, shift=0.0)._next_batch()
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    loss = cross_entropy(plain(first[0]), first[1])
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(plain.parameters(), 2.0)
    optimiser.step()
    assert float(made.step(0.0)) == pytest.approx(float(loss.detach()), abs=1e-5)
    moved = nn.Sequential(made.supernet.extract(made.subnet, None), made.classifier).state_dict()
    for name, tensor in plain.state_dict().items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(moved[name], tensor, rtol=1e-4, atol=1e-5)


def test_its_statistics_are_those_of_the_training_images(digits: ImageSet) -> None:
    made = run(training(digits), 3, 10)
    backbone, *_ = made.network(10_000)
    plain = backbone.stem(
        (pixels(digits).float() - backbone.pixel_mean_C[:, None, None]) / backbone.pixel_std_C[:, None, None]
    )
    torch.testing.assert_close(backbone.stem_norm.running_mean, plain.mean((0, 2, 3)), rtol=0, atol=1e-4)


def test_it_goes_on_bit_for_bit(digits: ImageSet, tmp_path: Path) -> None:
    whole = run(training(digits, "deferred"), 12, 12)
    run(training(digits, "deferred"), 5, 12).save(tmp_path)
    rest = training(digits, "deferred")
    rest.resume(tmp_path)
    assert rest.steps_done == 5
    run(rest, 12, 12)
    for name, tensor in whole._both.state_dict().items():
        assert torch.equal(tensor, rest._both.state_dict()[name]), name


@pytest.mark.parametrize("other", [{"loss": "focal"}, {"seed": 1}, {"learning_rate": 0.3}, {"subnet": SPACE.largest()}])
def test_it_goes_on_with_nothing_else(digits: ImageSet, tmp_path: Path, other: dict[str, object]) -> None:
    run(training(digits), 1, 2).save(tmp_path)
    with pytest.raises(ResumeError, match="what it was started with"):
        training(digits, **other).resume(tmp_path)  # type: ignore[arg-type]


def test_a_classifier_may_come_from_before(digits: ImageSet) -> None:
    weight_KD, bias_K = torch.randn(3, 20, generator=generator_for(5)), torch.tensor([0.1, 0.2, 0.3])
    options = {"seed": 0, "device": CPU, "flip": False, "fresh": False}
    given = supernet_of(digits), SUBNET, digits, parse_loss("cross_entropy"), SubnetRecipe()
    made = SubnetTraining(*given, **options, first=(weight_KD, bias_K))
    assert torch.equal(made.classifier.weight, weight_KD)
    assert torch.equal(made.classifier.bias, bias_K)
    with pytest.raises(InputError, match=r"\[3, 20\]"):
        SubnetTraining(*given, **options, first=(weight_KD[:, :7], bias_K))
