"""A network of one's own: it learns, is plain, and follows from its arguments alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nasimb.bench.trained import NetworkRecipe, kept_network, labelled, network_space, predict, train_network
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.errors import InputError, ResumeError
from nasimb.losses import parse_loss
from nasimb.losses.base import Phase, loss_at
from nasimb.nn.norms import NORMS
from nasimb.spec import parse
from nasimb.supernet.pixels import pixel_mean_and_std

TINY = NetworkRecipe(widths=(8, 16), depths=(1, 1), stem_width=8, epochs=4, batch_size=32, learning_rate=0.2)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    parts = parse_dataset({"name": "digits", "digits": (0, 1, 4), "test_per_class": 1}).load(LoadRequest(size=8))
    return parts.train


def pixels(images: ImageSet) -> Tensor:
    return images.store.read(images.indices_N, torch.device("cpu"))


def test_it_learns_the_images(digits: ImageSet) -> None:
    network = train_network(digits, TINY, seed=0, flip=False)
    right_N = predict(network, pixels(digits), 50) == digits.labels_N
    assert right_N.float().mean() > 0.95  # chance is a third


def test_it_is_a_plain_network_ready_for_use(digits: ImageSet) -> None:
    network = train_network(digits, TINY.model_copy(update={"epochs": 1}), seed=0, flip=False)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 1 + 3 + 3  # stem, and two a block with its shortcut's
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images_BCHW = pixels(digits)[:5]
    assert torch.equal(network(images_BCHW), network(images_BCHW.float()))
    assert network(images_BCHW).shape == (5, 3)


def test_its_first_statistics_are_those_of_the_training_images(digits: ImageSet) -> None:
    # So few images that every one of them is used, against torch's own batch norm over the same maps.
    network = train_network(digits, TINY.model_copy(update={"epochs": 1}), seed=0, flip=False)
    backbone = network[0]
    mean_C, std_C = pixel_mean_and_std(digits)
    x_BCHW = (pixels(digits).float() - mean_C[:, None, None]) / std_C[:, None, None]
    maps_BCHW = backbone.stem(x_BCHW)
    assert backbone.stem_norm.running_mean == pytest.approx(maps_BCHW.mean((0, 2, 3)), abs=1e-4)


def test_the_same_seed_gives_the_same_network_and_another_another(digits: ImageSet) -> None:
    recipe = TINY.model_copy(update={"epochs": 1})
    first, again, other = (train_network(digits, recipe, seed=seed, flip=False).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_whole_norms_are_chosen_by_name_and_by_options(digits: ImageSet) -> None:
    recipe = TINY.model_copy(update={"epochs": 1})
    one = train_network(digits, recipe, seed=0, norm="gn", flip=False)
    assert sum(isinstance(module, nn.GroupNorm) for module in one.modules()) == 4  # last of a block and shortcut's
    everywhere = network_space(8, recipe, {"name": "nbn", "where": "all", "start": "one"})
    assert everywhere.norm("chosen") == {"name": "nbn", "where": "all", "start": "one"}
    network = train_network(digits, recipe, seed=0, norm={"name": "nbn", "where": "all"}, flip=False)
    assert network(pixels(digits)[:2]).isfinite().all()


@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"sync_bn"}))
def test_every_norm_trains(digits: ImageSet, norm: str) -> None:
    network = train_network(digits, TINY.model_copy(update={"epochs": 1}), seed=0, norm=norm, flip=False)
    assert network(pixels(digits)[:4]).isfinite().all()


def test_a_deferred_loss_takes_its_turn() -> None:
    first, second = Phase(0.75, lambda logits, labels: logits), Phase(0.25, lambda logits, labels: labels)
    assert [loss_at((first, second), progress) for progress in (0.0, 0.74, 0.75, 0.99)] == [
        first.loss, first.loss, second.loss, second.loss,
    ]  # fmt: skip


def test_what_it_cannot_do_it_says(digits: ImageSet) -> None:
    with pytest.raises(InputError, match=r"must take logits of any size.*ldam"):
        train_network(digits, TINY, seed=0, loss=parse_loss("ldam"))
    with pytest.raises(InputError, match="there must be a batch of images; got 20"):
        train_network(digits.subset(torch.arange(20)), TINY, seed=0)
    with pytest.raises(InputError, match="one entry a stage"):
        parse(NetworkRecipe, {"widths": (8,), "depths": (1, 1)}, what="recipe")


def test_a_tick_may_stop_it(digits: ImageSet) -> None:
    def stop(progress: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(digits, TINY, seed=0, tick=stop)


def test_labelled_tensors_are_an_image_set() -> None:
    images = labelled(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([2, 0, 2]), 4)
    assert images.class_counts_K.tolist() == [1, 0, 2, 0]
    assert (len(images), images.channels, images.size) == (3, 1, 4)


def test_a_network_is_trained_once_and_kept(digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(seed: int) -> nn.Sequential:
        return kept_network(
            tmp_path / "kept" / "0.safetensors", digits, TINY, seed=seed, flip=False, device=torch.device("cpu"),
            tick=lambda progress: None,
        )  # fmt: skip

    first = kept(0)
    monkeypatch.setattr("nasimb.bench.trained.train_network", None)
    again = kept(0)
    assert torch.equal(first(pixels(digits)), again(pixels(digits)))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert not any(module.training for module in again.modules())
    with pytest.raises(ResumeError, match=r"these images, recipe and seed; got another"):
        kept(1)
