"""What training images look like inside a network, class by class: how much of a shift other classes would explain.

Shapes: N images, B images of a batch, K classes, C channels, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from nasimb.adapt.evidence import information
from nasimb.adapt.layers import channels_over_images
from nasimb.adapt.passes import Passes, Seen, check_images
from nasimb.errors import InputError
from nasimb.nn.mixing import EPSILON, Sampled, sampled
from nasimb.nn.moments import Moments, moments
from nasimb.supernet.checkpoint import read_tensors, write_tensors

SCHEMA = "nasimb-class-profile-1"
WINDOW, WINDOWS, FEWEST = 64, 8, 16
"""Images of a reference window, at most so many windows of each kind, and images below which a window says nothing."""


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """One layer's maps on training images, each class by itself.

    Attributes:
        mean_KC, var_KC: over images and pixels of the class (biased).
        image_var_C, third_C, fourth_C: second, third and fourth cumulant of the means of single images.
        noise_KC: estimated variance of `mean_KC`, large where a class has few images.
    """

    mean_KC: Tensor
    var_KC: Tensor
    image_var_C: Tensor
    third_C: Tensor
    fourth_C: Tensor
    noise_KC: Tensor

    def moments(self, shares_K: Tensor) -> Moments:
        """Of a mixture of the classes in these shares (law of total variance)."""
        mean_C = shares_K @ self.mean_KC
        return Moments(mean_C, shares_K @ (self.var_KC + (self.mean_KC - mean_C) ** 2))


@dataclass(frozen=True)
class Reference:
    """What windows of training images give, against which those of a stream are judged.

    Attributes:
        mixed_information, single_information: of windows of many classes and of one (nats), with statistics of their
            own; None where no class has enough images.
        unexplained: largest shift that the class mix does not explain (`unexplained_shift`), although nothing is
            wrong with the images.
    """

    mixed_information: float
    single_information: float | None
    unexplained: float


@dataclass(frozen=True, eq=False)
class ClassProfile:
    """Of one trained model.

    Attributes:
        shares_K: of the classes behind the model's statistics. Those of the images, if it was trained on images like
            them; but statistics may come from elsewhere, from balanced images for instance: so what fits them best
            between the images' shares and equal ones.
        predicted_K: mean prediction of training images in these shares.
        layers: of every layer that can be adapted, by name.
        running: whether each of them has running statistics (else its outputs are described).

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> images_NCHW, labels_N = torch.randn(64, 1, 2, 2), torch.arange(64) % 2
        >>> profile = class_profile(model, images_NCHW, labels_N)
        >>> with TemporaryDirectory() as folder:
        ...     profile.save(Path(folder) / "profile.safetensors")
        ...     again = ClassProfile.load(Path(folder) / "profile.safetensors")
        >>> list(again.layers), again.running, tuple(again.layers["0"].mean_KC.shape)
        (['0'], {'0': True}, (2, 1))
    """

    shares_K: Tensor
    predicted_K: Tensor
    layers: Mapping[str, LayerProfile]
    running: Mapping[str, bool]
    reference: Reference

    def outputs(self) -> dict[str, Moments]:
        """Moments of the layers whose outputs are described, as `adaptable` takes them."""
        return {name: one.moments(self.shares_K) for name, one in self.layers.items() if not self.running[name]}

    def to(self, device: torch.device) -> ClassProfile:
        """The same on a device."""
        layers = {
            name: LayerProfile(**{key: value.to(device) for key, value in vars(one).items()})
            for name, one in self.layers.items()
        }
        return ClassProfile(self.shares_K.to(device), self.predicted_K.to(device), layers, self.running, self.reference)

    def save(self, file: Path) -> None:
        """As safetensors; on the disk on return."""
        tensors = {"shares_K": self.shares_K, "predicted_K": self.predicted_K}
        for name, layer in self.layers.items():
            tensors |= {f"layers.{name}.{key}": value for key, value in vars(layer).items()}
        description = {"schema": SCHEMA, "running": dict(self.running), "reference": asdict(self.reference)}
        write_tensors(file, {name: value.cpu().contiguous() for name, value in tensors.items()},
                      {"profile": json.dumps(description)})  # fmt: skip

    @staticmethod
    def load(file: Path) -> ClassProfile:
        """What `save` wrote.

        Raises:
            InputError: there is no such file, or it is something else.
        """
        if not file.is_file():
            raise InputError("a class profile must exist", got=file, do="Make one: nasimb.adapt.class_profile.")
        tensors, metadata = read_tensors(file)
        try:
            description = json.loads(metadata["profile"])
            if description["schema"] != SCHEMA:
                raise KeyError(description["schema"])
            keys = LayerProfile.__dataclass_fields__
            layers = {
                name: LayerProfile(**{key: tensors[f"layers.{name}.{key}"] for key in keys})
                for name in description["running"]
            }
            return ClassProfile(tensors["shares_K"], tensors["predicted_K"], layers, description["running"],
                                Reference(**description["reference"]))  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            do = "Make it again with this version of nasimb."
            raise InputError(f"{file} must be a class profile", got=f"something missing ({error})", do=do) from None


def check_profile(profile: ClassProfile, passes: Passes) -> None:
    """Raises InputError where a profile is of another model, as far as its layers tell."""
    do = "Make one with class_profile of this very model."
    missing = [name for name in passes.layers if name not in profile.layers]
    if missing:
        raise InputError("a profile must describe every layer that is adapted", got=f"none of {missing[0]}", do=do)
    for name, layer in passes.layers.items():
        here, there = len(layer.source.mean_C), profile.layers[name].mean_KC.shape[1]
        if here != there:
            raise InputError(f"a profile must have the channels of the model ({name}: {here})", got=there, do=do)


def check_classes(profile: ClassProfile | None, classes: int) -> None:
    """Raises InputError where predictions say nothing, or a profile is of a model of other classes."""
    if classes < 2:
        do = "Give both classes a logit, torch.cat([torch.zeros_like(logit), logit], 1), or set safety=None."
        raise InputError("a model must have 2 classes at least to be watched", got=f"{classes} logit an image", do=do)
    if profile is not None and len(profile.shares_K) != classes:
        do = "Make one with class_profile of this very model."
        raise InputError(f"a profile must have the {classes} classes of the model", got=len(profile.shares_K), do=do)


def unexplained_shift(profile: Mapping[str, LayerProfile], shares_K: Tensor, seen: Mapping[str, Sampled]) -> float:
    """What another mix of classes does not explain of a shift: mean over the layers of `square_shift`.

    Args:
        shares_K: of the classes in what was seen, as the unadapted model predicts them: if nothing else is wrong with
            the images, it predicts well.
        seen: maps of the unadapted model.
    """
    return fmean(
        square_shift(profile[name].moments(shares_K), sample, shares_K**2 @ profile[name].noise_KC)
        for name, sample in seen.items()
    )


def square_shift(expected: Moments, sample: Sampled, noise_C: Tensor | float = 0.0) -> float:
    """Mean square shift of one layer, in standard deviations, less the noise of so few images: about 0 without one.

    Of the means, plus half that of the logarithm of the variances.

    Args:
        noise_C: variance of the expected means.
    """
    scale_C = torch.maximum(expected.var_C, sample.moments.var_C) + EPSILON
    means_C = ((sample.moments.mean_C - expected.mean_C) ** 2 - sample.mean_variance_C - noise_C) / scale_C
    ratio_C = ((sample.moments.var_C + EPSILON) / (expected.var_C + EPSILON)).log()
    variances_C = ratio_C**2 - sample.var_variance_C / (sample.moments.var_C + EPSILON) ** 2
    return float((means_C + variances_C / 2).mean())


def class_profile(
    model: nn.Module, images_NCHW: Tensor, labels_N: Tensor, *, batch_size: int = 256, seed: int = 0
) -> ClassProfile:
    """Describe training images as a model sees them; a few thousand are enough.

    Args:
        model: trained; neither changed nor moved. It gives logits_BK.
        labels_N: integers from 0, below K.
        seed: of the reference windows.

    Raises:
        InputError: there is nothing to adapt in the model, or images and labels do not fit.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> dark, bright = torch.full((30, 1, 2, 2), -1.0), torch.full((10, 1, 2, 2), 1.0)
        >>> profile = class_profile(model, torch.cat([dark, bright]), torch.tensor([0] * 30 + [1] * 10))
        >>> profile.layers["0"].mean_KC.tolist()
        [[-1.0], [1.0]]
        >>> mixed = profile.layers["0"].moments(torch.tensor([0.5, 0.5]))  # what other shares of the classes would give
        >>> mixed.mean_C, mixed.var_C
        (tensor([0.]), tensor([1.]))
    """
    _check(images_NCHW, labels_N)
    labels_N = labels_N.long()
    passes = Passes(model, _described_outputs(model))
    sums: dict[str, ClassSums] = {}
    predictions: list[Tensor] = []
    for images, labels in zip(torch.split(images_NCHW, batch_size), torch.split(labels_N, batch_size), strict=True):
        maps: dict[str, Tensor] = {}
        logits_BK = passes.run(images.to(passes.device), _keep(maps))
        classes = logits_BK.shape[1]
        if int(labels.max()) >= classes:
            do = "Number the classes as the model does."
            raise InputError(f"labels must be below the {classes} classes of the model", got=int(labels.max()), do=do)
        for name, x_BCHW in maps.items():
            of_layer = sums.setdefault(name, ClassSums(classes, x_BCHW.shape[1], x_BCHW.device))
            of_layer.add(x_BCHW, labels.to(x_BCHW.device))
        predictions.append(logits_BK.float().softmax(1))
    predictions_NK = torch.cat(predictions)
    layers = {name: one.profile() for name, one in sums.items()}
    shares_K = _shares_behind(passes, layers, labels_N.to(passes.device), predictions_NK.shape[1])
    running = {name: passes.layers[name].running for name in layers}
    reference = _reference(passes, layers, images_NCHW, labels_N.cpu(), torch.Generator().manual_seed(seed))
    predicted_K = _mean_prediction(predictions_NK, labels_N.to(passes.device), shares_K)
    return ClassProfile(shares_K, predicted_K, layers, running, reference)


def _shares_behind(passes: Passes, layers: Mapping[str, LayerProfile], labels_N: Tensor, classes: int) -> Tensor:
    """See `ClassProfile.shares_K`: least squares over all layers, in standard deviations of each channel."""
    counts_K = torch.bincount(labels_N, minlength=classes).float()
    own_K, equal_K = counts_K / counts_K.sum(), (counts_K > 0).float() / (counts_K > 0).sum()
    along, length = 0.0, 0.0
    for name, layer in layers.items():
        if passes.layers[name].running and passes.layers[name].knows_mean:
            source, own, equal = passes.layers[name].source, layer.moments(own_K), layer.moments(equal_K)
            weight_C = 1 / (own.var_C + EPSILON)
            step_C = equal.mean_C - own.mean_C
            along += float((weight_C * step_C * (source.mean_C - own.mean_C)).sum())
            length += float((weight_C * step_C**2).sum())
    return torch.lerp(own_K, equal_K, min(1.0, max(0.0, along / length))) if length > 0 else own_K


def _mean_prediction(predictions_NK: Tensor, labels_N: Tensor, shares_K: Tensor) -> Tensor:
    """Of images whose classes are in these shares; a class without images has none."""
    of_image_K = shares_K / torch.bincount(labels_N, minlength=len(shares_K)).clamp(min=1)
    return of_image_K[labels_N] @ predictions_NK


class ClassSums:
    """Adds up what a `LayerProfile` is made of, in float64, batch by batch."""

    def __init__(self, classes: int, channels: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self._images_K, self._powers_4C = zeros(classes), zeros(4, channels)
        self._mean_KC, self._square_KC = zeros(classes, channels), zeros(classes, channels)

    def add(self, x_BCHW: Tensor, labels_B: Tensor) -> None:
        """Maps of some images, with their classes."""
        x_BCHW = x_BCHW.float()
        means_BC, squares_BC = x_BCHW.mean((2, 3)).double(), x_BCHW.square().mean((2, 3)).double()
        self._images_K.index_add_(0, labels_B, torch.ones_like(labels_B, dtype=torch.float64))
        self._mean_KC.index_add_(0, labels_B, means_BC)
        self._square_KC.index_add_(0, labels_B, squares_BC)
        self._powers_4C += torch.stack([means_BC**power for power in (1, 2, 3, 4)]).sum(1)

    def profile(self) -> LayerProfile:
        """Of everything added; classes that had no image have the moments of all images together."""
        images = self._images_K.sum()
        counts_K1 = self._images_K.clamp(min=1)[:, None]
        empty_K1 = (self._images_K == 0)[:, None]
        mean_KC = torch.where(empty_K1, self._mean_KC.sum(0) / images, self._mean_KC / counts_K1)
        square_KC = torch.where(empty_K1, self._square_KC.sum(0) / images, self._square_KC / counts_K1)
        one_C, two_C, three_C, four_C = self._powers_4C / images
        var_C = two_C - one_C**2
        third_C = three_C - 3 * one_C * two_C + 2 * one_C**3
        fourth_C = four_C - 4 * one_C * three_C + 6 * one_C**2 * two_C - 3 * one_C**4 - 3 * var_C**2
        var_KC = (square_KC - mean_KC**2).clamp(min=0)
        # Images vary around the mean of their class alike in all classes, as far as a few of each can tell.
        between_C = (self._images_K[:, None] * (mean_KC - one_C) ** 2).sum(0) / images
        present = int((self._images_K > 0).sum())
        within_C = (var_C - between_C).clamp(min=0) * images / (images - present).clamp(min=1)
        noise_KC = within_C / counts_K1
        return LayerProfile(*(value.float() for value in (mean_KC, var_KC, var_C, third_C, fourth_C, noise_KC)))


def _reference(
    passes: Passes, layers: Mapping[str, LayerProfile], images_NCHW: Tensor, labels_N: Tensor, rng: torch.Generator
) -> Reference:
    """Windows of many classes and of one, once with statistics of their own and once with the source's."""
    order_N = torch.randperm(len(labels_N), generator=rng)
    many = [part for part in torch.split(order_N, WINDOW) if len(part) >= min(FEWEST, len(order_N))][:WINDOWS]
    of_class = [order_N[labels_N[order_N] == k][:WINDOW] for k in labels_N.bincount().argsort(descending=True).tolist()]
    single = [part for part in of_class if len(part) >= FEWEST][:WINDOWS]
    found: dict[str, list[float]] = {"many": [], "single": []}
    shifts = []
    for kind, windows in (("many", many), ("single", single)):
        for window in windows:
            images = images_NCHW[window.to(images_NCHW.device)].to(passes.device)
            seen: dict[str, Sampled] = {}
            passes.write_source()
            probabilities_NK = passes.run(images, _sample(seen)).float().softmax(1)
            if len(window) >= FEWEST:
                shifts.append(unexplained_shift(layers, probabilities_NK.mean(0), seen))
            found[kind].append(information(passes.run(images, lambda name, x_BCHW: moments(x_BCHW)).float().softmax(1)))
    single_information = fmean(found["single"]) if found["single"] else None
    return Reference(fmean(found["many"]), single_information, max(shifts, default=0.0))


def _described_outputs(model: nn.Module) -> dict[str, Moments]:
    """Group and layer norms, with moments that say nothing yet."""
    found = {name: channels_over_images(module) for name, module in model.named_modules()}
    return {
        name: Moments(torch.zeros(channels), torch.ones(channels))
        for name, channels in found.items()
        if channels is not None
    }


def _keep(maps: dict[str, Tensor]) -> Seen:
    def seen(name: str, x_BCHW: Tensor) -> None:
        maps[name] = x_BCHW.clone()

    return seen


def _sample(into: dict[str, Sampled]) -> Seen:
    def seen(name: str, x_BCHW: Tensor) -> None:
        into[name] = sampled(x_BCHW)

    return seen


def _check(images_NCHW: Tensor, labels_N: Tensor) -> None:
    if labels_N.ndim != 1 or len(images_NCHW) != len(labels_N) or len(labels_N) == 0:
        raise InputError(
            "every image must have a label", got=f"{len(images_NCHW)} images, labels {list(labels_N.shape)}",
            do="Give both in the same order.",
        )  # fmt: skip
    if labels_N.is_floating_point() or int(labels_N.min()) < 0:
        got = f"{labels_N.dtype} from {labels_N.min().item():g}"
        raise InputError("labels must be integers from 0", got=got, do="Number the classes from 0.")
    check_images(images_NCHW)
