"""A finished model as a folder, and back: plain weights, a readable description, nothing that unpickles.

```
MODEL/model.safetensors   weights of the backbone and the head, norms folded
MODEL/model.json          classes, preprocessing, subnet, norms, head, metrics, provenance
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasimb.data.decode import UnreadableImage, decode
from nasimb.data.resize import convert_channels, resize
from nasimb.durable import replace_whole
from nasimb.errors import DataError, InputError
from nasimb.heads import Head
from nasimb.space import SearchSpace, Subnet
from nasimb.spec import parse
from nasimb.supernet import plain_backbone
from nasimb.supernet.checkpoint import load_weights, read_tensors, write_tensors

__all__ = ["Description", "Images", "Model", "load", "save"]

SCHEMA = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True, slots=True)
class Description:
    """What model.json says: enough to rebuild the network and to judge it.

    Attributes:
        classes: class names in the order of the logits.
        class_counts_K: training images of every class.
        channels, size: images are brought to these before the network, which resizes to the subnet's resolution.
        calibration: policy of the BN statistics.
        head: {"name", "setting", "crops", "solver"} of the linear head.
        metrics, provenance: as in result.json.

    Example:
        >>> about = load("runs/digits/best").description
        >>> about.classes, about.class_counts_K, about.size, about.channels
        (('0', '1', '2'), (60, 13, 3), 12, 1)
        >>> sorted(about.head)
        ['crops', 'name', 'setting', 'solver']
    """

    classes: tuple[str, ...]
    class_counts_K: tuple[int, ...]
    channels: int
    size: int
    space: SearchSpace
    subnet: Subnet
    calibration: str
    head: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


class Model(nn.Module):
    """One extracted network with its head: images in, logits out. A plain module in evaluation mode.

    Example:
        >>> model = load("runs/digits/best")
        >>> images_B1HW = torch.zeros(5, 1, 12, 12, dtype=torch.uint8)
        >>> tuple(model(images_B1HW).shape), model.classes
        ((5, 3), ('0', '1', '2'))
        >>> sum(parameter.requires_grad for parameter in model.parameters())
        0
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, description: Description) -> None:
        super().__init__()
        self.backbone, self.head, self.description = backbone, head, description
        self.eval().requires_grad_(False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.description.classes

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """logits_BK of images with values in 0..255 (uint8 or float), of the model's channels."""
        logits_BK: Tensor = self.head(self.backbone(images_BCHW))
        return logits_BK

    @torch.no_grad()
    def predict_proba(self, images: Images, *, batch_size: int = 256) -> NDArray[np.float32]:
        """Softmax probabilities [N, K] of images in any form that `pixels` reads.

        >>> probabilities_NK = load("runs/digits/best").predict_proba(np.zeros((4, 28, 28), np.uint8))
        >>> probabilities_NK.shape, bool(np.allclose(probabilities_NK.sum(1), 1))
        ((4, 3), True)
        """
        device = next(self.parameters()).device
        images_NCHW = self.pixels(images)
        parts = [images_NCHW[start : start + batch_size] for start in range(0, len(images_NCHW), batch_size)]
        probabilities = [self(part.to(device)).softmax(1).cpu() for part in parts]
        empty = torch.empty(0, len(self.classes))
        return np.asarray(torch.cat([empty, *probabilities]))

    def predict(self, images: Images, *, batch_size: int = 256) -> NDArray[np.str_]:
        """The class name of every image, as an array of strings [N].

        >>> from sklearn.datasets import load_digits
        >>> digits = load_digits(n_class=3)
        >>> names_N = load("runs/digits/best").predict((digits.images * 15.9).astype(np.uint8))
        >>> bool((names_N == digits.target.astype(str)).mean() > 0.6)
        True
        """
        best_N = self.predict_proba(images, batch_size=batch_size).argmax(1)
        return np.array([self.classes[k] for k in best_N.tolist()], dtype=np.str_)

    def pixels(self, images: Images) -> Tensor:
        """uint8 [N, C, S, S] as the network was trained on.

        Args:
            images: file paths; or uint8 arrays [N, H, W], [N, H, W, C]; or a uint8 tensor [N, C, H, W].

        Raises:
            DataError: a file that does not decode, or an array of another shape or type: a single image [H, W, C] too,
                which would read as H images otherwise.
        """
        size, channels = self.description.size, self.description.channels
        if isinstance(images, str | Path):
            images = [images]
        if isinstance(images, np.ndarray | Tensor):
            return resize(convert_channels(_channels_first(images), channels), size)
        strange = next((item for item in images if not isinstance(item, str | Path)), None)
        if strange is not None:
            do = "Stack arrays into one: numpy.stack(images)."
            raise DataError("a list of images must hold file paths", got=type(strange).__name__, do=do)
        decoded = [_decoded(Path(path), size, channels) for path in images]
        pixels_NCHW = np.stack(decoded) if decoded else np.empty((0, channels, size, size), np.uint8)
        return torch.from_numpy(pixels_NCHW)


Images = str | Path | Sequence[str | Path] | np.ndarray | Tensor
"""What `Model.pixels` reads."""


def save(model: Model, folder: Path) -> None:
    """Write the model; a reader sees the old model or the new one, never half of each. On the disk on return.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> model = load("runs/digits/best")
        >>> with TemporaryDirectory() as folder:
        ...     save(model, Path(folder))
        ...     print(sorted(file.name for file in Path(folder).iterdir()))
        ...     print(load(folder).description == model.description)
        ['model.json', 'model.safetensors']
        True
    """
    values = asdict(model.description)
    values.update(space=model.description.space.model_dump(mode="json"), subnet=model.description.subnet.to_dict())
    values["norms"] = list(model.description.subnet.norms)
    head_kind = type(model.head).__name__
    text = json.dumps({"schema": SCHEMA, **values, "head_module": head_kind}, indent=2, ensure_ascii=False)
    # The description travels inside the weights too, so the pair cannot come apart if a kill falls between the files.
    write_tensors(folder / WEIGHTS, model.state_dict(), {DESCRIPTION: text})
    replace_whole(folder / DESCRIPTION, (text + "\n").encode())


def model_folder(path: Path) -> Path:
    """Where the model is that a user means: of a run its best, else the folder itself."""
    return path / "best" if (path / "best").is_dir() else path


def load(folder: str | Path) -> Model:
    """The model that a run left in `RUN/best` (or any model folder), ready to predict.

    Raises:
        InputError: there is no model, or its files are damaged or of another version.

    Example:
        >>> model = load("runs/digits/best")
        >>> one_image_NHW = np.zeros((1, 8, 8), np.uint8)
        >>> model.predict(one_image_NHW).shape, model.predict_proba(one_image_NHW).shape
        ((1,), (1, 3))
    """
    folder = Path(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"a model folder must hold {WEIGHTS}", got=folder, do="Name RUN/best of a finished run.")
    tensors, metadata = read_tensors(file)
    description, head_kind = _described(file, metadata)
    backbone = plain_backbone(description.space, description.subnet, description.channels)
    load_weights(backbone, _under("backbone.", tensors), file)
    try:
        head = Head.module_from(head_kind, _under("head.", tensors))
    except (RuntimeError, KeyError) as error:
        raise _damaged(file, f"a head that does not fit ({error})") from None
    return Model(backbone, head, description)


def _described(file: Path, metadata: Mapping[str, str]) -> tuple[Description, str]:
    """The description in a weights file, and the kind of its head."""
    try:
        values = json.loads(metadata[DESCRIPTION])
        schema = values["schema"]
    except (KeyError, TypeError, ValueError):
        raise _damaged(file, "weights without their description") from None
    if schema != SCHEMA:
        do = "Use the nasimb version it was made with."
        raise InputError(f"the schema of {file} must be {SCHEMA}", got=schema, do=do)
    try:
        return Description(
            classes=tuple(values["classes"]), class_counts_K=tuple(values["class_counts_K"]),
            channels=values["channels"], size=values["size"],
            space=parse(SearchSpace, values["space"], what=f"the search space of {file}"),
            subnet=Subnet.from_dict(values["subnet"]), calibration=values["calibration"], head=values["head"],
            metrics=values["metrics"], provenance=values["provenance"],
        ), values["head_module"]  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"a description with something missing ({error})") from None


def _damaged(file: Path, found: str) -> InputError:
    return InputError(f"{file} must be a whole model", got=found, do="Copy it again, or let the run make it again.")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _decoded(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    try:
        return decode(path, size, channels)
    except UnreadableImage as error:
        do = "Leave it out, or mend it."
        raise DataError("every file must be a readable image", got=f"{path} ({error})", do=do) from None


def _channels_first(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [N, C, H, W] from [N, H, W], [N, H, W, C] (arrays) or [N, C, H, W] (tensors)."""
    shape = list(images.shape)
    if isinstance(images, np.ndarray) and images.ndim == 3 and shape[2] in (1, 3):
        raise DataError(
            "an array of three dimensions must be grey images [N, H, W]",
            got=f"{images.dtype} {shape}, which looks like one image [H, W, C]",
            do="Add an axis: image[None] for one image, images[..., None] for grey images that are this narrow.",
        )
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        images = images[..., None] if images.ndim == 3 else images
        images = torch.from_numpy(np.ascontiguousarray(images))
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images
    fits = images.ndim == 4 and images.shape[1] in (1, 3) and 0 not in images.shape[2:]
    if not (isinstance(images, Tensor) and images.dtype == torch.uint8 and fits):
        raise DataError(
            "images must be uint8 of shape [N, H, W], [N, H, W, C] or (as a tensor) [N, C, H, W] with 1 or 3 channels",
            got=f"{images.dtype} {shape}",
            do="Convert them, or give file paths.",
        )
    return images
