"""One residual network trained on all of its images, for benchmarks that need a network of their own.

Shapes: B images, C channels, H and W pixels, D features, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.errors import InputError, ResumeError
from nasimb.losses import LossSpec
from nasimb.losses.cross_entropy import CrossEntropySpec
from nasimb.space import SearchSpace, Stage
from nasimb.spec import Spec
from nasimb.supernet import build_supernet, plain_backbone
from nasimb.supernet.checkpoint import load_weights, read_tensors, write_tensors
from nasimb.supernet.pixels import pixel_mean_and_std
from nasimb.supernet.sampling import generator_for
from nasimb.supernet.subnet_training import SubnetRecipe, SubnetTraining

CALIBRATION_IMAGES = 2048
STEPS_BETWEEN_TICKS = 20

Widths = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class NetworkRecipe(Spec):
    """What network, and how it is trained: SGD with Nesterov's look-ahead, a linear warm-up, then cosine to 0.

    Attributes:
        widths: channels of every stage; every stage but the first halves the resolution.
        first_stride: 2: so does the first.
        depths: residual blocks of every stage.
        stem_width: channels of the first convolution.
        epochs: passes over the images.
        learning_rate: its peak.
        weight_decay: of convolutions and the classifier; norm parameters and biases have none.
        warmup: share of the steps over which the learning rate rises.
        clip_norm: longest gradient over all parameters.
        shift: furthest random shift of an image, as a share of its side.
        precision: number format of forward and backward; weights and statistics are float32.
    """

    widths: Widths = (16, 32, 64)
    depths: Widths = (1, 1, 1)
    stem_width: PositiveInt = 16
    first_stride: PositiveInt = 1
    epochs: PositiveInt = 10
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: PositiveFloat = 0.3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.25
    clip_norm: PositiveFloat = 2.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.125
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _one_depth_a_stage(self) -> NetworkRecipe:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"widths and depths must have one entry a stage each; got {self.widths}, {self.depths}")
        return self


def labelled(images_NCHW: Tensor, labels_N: Tensor, num_classes: int) -> ImageSet:
    """uint8 square images and their labels (0..K-1) in memory as an image set."""
    store = TensorStore(images_NCHW, [("image", len(images_NCHW))])
    return ImageSet(store, torch.arange(len(labels_N)), labels_N.long().cpu(), tuple(map(str, range(num_classes))))


def train_network(
    images: ImageSet,
    recipe: NetworkRecipe,
    *,
    seed: int,
    norm: str | Mapping[str, Any] = "bn",
    loss: LossSpec | None = None,
    flip: bool = True,
    device: torch.device | None = None,
    tick: Callable[[float], None] = lambda progress: None,
) -> nn.Sequential:
    """A backbone and a linear classifier, trained together; in eval mode.

    On a CPU the result follows from the arguments alone. Batch norms end with the exact moments of up to 2048 training
    images, drawn as the classes are spread, instead of running averages.

    Args:
        norm: a name of `nasimb.nn.norms.NORMS`, or a mapping with the name and options: `{name: nbn, where: all}`. It
            ends every block unless its `where` says more, as in a search space.
        loss: None is cross-entropy. It is built from the class counts of `images`.
        flip: whether a mirrored image keeps its label.
        device: where it is trained, and is afterwards; None is the CPU.
        tick: is told the share that is done every few steps, and may raise to stop.

    Returns:
        uint8 or float images_BCHW in 0..255 -> logits_BK. `network[0]` gives features_BD.

    Raises:
        InputError: a loss that expects cosines, a norm that does not exist, a class without images where the loss
            needs counts, or fewer images than a batch.
        NotFiniteError: the loss is no longer finite.
    """
    device = device or torch.device("cpu")
    loss = loss or CrossEntropySpec()
    _check_loss(loss)
    steps = recipe.epochs * len(images) // recipe.batch_size
    if len(images) < recipe.batch_size:
        raise InputError("there must be a batch of images", got=len(images), do="Lower batch_size.")
    mean_C, std_C = pixel_mean_and_std(images)
    space = network_space(images.size, recipe, norm)
    supernet = build_supernet(space, images.channels, images.num_classes, mean_C, std_C, generator_for(seed, 0))
    options = SubnetRecipe(**recipe.model_dump(include=set(SubnetRecipe.model_fields)))
    learned = cast(nn.Module, supernet.classifier).state_dict()
    training = SubnetTraining(
        supernet, space.largest(), images, loss, options, seed=seed, device=device, flip=flip, fresh=True,
        first=(learned["weight"], learned["bias"]),
    )  # fmt: skip
    for step in range(steps):
        training.step(step / steps)
        if step % STEPS_BETWEEN_TICKS == 0:
            tick(step / steps)
    backbone, weight_KD, bias_K = training.network(CALIBRATION_IMAGES)
    classifier = nn.Linear(weight_KD.shape[1], weight_KD.shape[0], device="meta")
    classifier.load_state_dict({"weight": weight_KD, "bias": bias_K}, assign=True)
    return nn.Sequential(backbone, classifier).to(device).eval().requires_grad_(False)


def kept_network(
    file: Path | None, images: ImageSet, recipe: NetworkRecipe, *, seed: int, flip: bool, device: torch.device,
    tick: Callable[[float], None],
) -> nn.Sequential:  # fmt: skip
    """`train_network` with batch norms, or what `file` kept of it: trained once, however often a benchmark goes on.

    Raises:
        ResumeError: the file keeps a network of other images, another recipe or seed.
    """
    identity = json.dumps([images.fingerprint(), recipe.model_dump(mode="json"), seed, flip])
    if file is None or not file.exists():
        network = train_network(images, recipe, seed=seed, flip=flip, device=device, tick=tick)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(file, network.state_dict(), {"identity": identity})
        return network
    tensors, metadata = read_tensors(file)
    if metadata.get("identity") != identity:
        raise ResumeError(
            f"{file} must keep a network of these images, recipe and seed", got="another",
            do="Use another --out, or delete the file.",
        )  # fmt: skip
    space = network_space(images.size, recipe, "bn")
    network = nn.Sequential(
        plain_backbone(space, space.largest(), images.channels), nn.Linear(recipe.widths[-1], images.num_classes)
    )
    load_weights(network, tensors, file)
    return network.to(device).eval().requires_grad_(False)


@torch.no_grad()
def predict(network: Callable[[Tensor], Tensor], images_NCHW: Tensor, batch_size: int) -> Tensor:
    """predicted_N of images in this order; a network that adapts sees batch after batch of them."""
    return torch.cat([network(images_BCHW).argmax(1).cpu() for images_BCHW in torch.split(images_NCHW, batch_size)])


def network_space(size: int, recipe: NetworkRecipe, norm: str | Mapping[str, Any]) -> SearchSpace:
    """The search space of this one network, for images of `size` pixels."""
    name, options = (norm, {}) if isinstance(norm, str) else ("chosen", {"chosen": dict(norm)})
    stages = tuple(
        Stage(depths=(depth,), widths=(width,), norms=(name,), stride=recipe.first_stride if number == 0 else 2)
        for number, (depth, width) in enumerate(zip(recipe.depths, recipe.widths, strict=True))
    )
    return SearchSpace(
        name="one-network", backbone="resnet", stem_width=recipe.stem_width, resolutions=(size,), stages=stages,
        norm_options=cast(Any, options),
    )  # fmt: skip


def _check_loss(loss: LossSpec) -> None:
    if loss.cosine:
        raise InputError(
            "the loss must take logits of any size, since the classifier is linear", got=f"{loss.name}, for cosines",
            do="Use cross_entropy, balanced_softmax or another such loss.",
        )  # fmt: skip
