"""A finished model as a folder, and back: plain weights, a readable description, nothing that unpickles.

```
MODEL/model.safetensors   weights of the backbone and the head, norms folded
MODEL/model.json          classes, preprocessing, subnet, norms, head, metrics, provenance
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nasimb.data.decode import UnreadableImage, decode
from nasimb.data.resize import convert_channels, resize
from nasimb.errors import DataError, InputError
from nasimb.heads import Head
from nasimb.space import SearchSpace, Subnet
from nasimb.spec import parse
from nasimb.supernet import plain_backbone

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Description:
    """What model.json says: enough to rebuild the network and to judge it.

    Attributes:
        classes: class names in the order of the logits.
        class_counts_K: training images of every class.
        channels, size: images are brought to these before the network, which resizes to the subnet's resolution.
        calibration: policy of the BN statistics.
        head: {"name", "setting"} of the linear head.
        metrics, provenance: as in result.json.
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
    """One extracted network with its head: images in, logits out. A plain module in evaluation mode."""

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
        """Softmax probabilities [N, K] of images in any form that `pixels` reads."""
        device = next(self.parameters()).device
        images_NCHW = self.pixels(images)
        parts = [images_NCHW[start : start + batch_size] for start in range(0, len(images_NCHW), batch_size)]
        probabilities = [self(part.to(device)).softmax(1).cpu() for part in parts]
        empty = torch.empty(0, len(self.classes))
        return np.asarray(torch.cat([empty, *probabilities]))

    def predict(self, images: Images, *, batch_size: int = 256) -> NDArray[np.str_]:
        """The class name of every image, as an array of strings [N]."""
        best_N = self.predict_proba(images, batch_size=batch_size).argmax(1)
        return np.array([self.classes[k] for k in best_N.tolist()], dtype=np.str_)

    def pixels(self, images: Images) -> Tensor:
        """uint8 [N, C, S, S] as the network was trained on.

        Args:
            images: file paths; or uint8 arrays [N, H, W], [N, H, W, C]; or a uint8 tensor [N, C, H, W].

        Raises:
            DataError: a file that does not decode, or an array of another shape or type.
        """
        size, channels = self.description.size, self.description.channels
        if isinstance(images, str | Path):
            images = [images]
        if isinstance(images, np.ndarray | Tensor):
            return resize(convert_channels(_channels_first(images), channels), size)
        try:
            decoded = [decode(Path(path), size, channels) for path in images]
        except UnreadableImage as error:
            raise DataError("every file must be an image", got=error, do="Leave it out, or mend it.") from None
        return torch.from_numpy(np.stack(decoded)) if decoded else torch.empty(0, channels, size, size)


Images = str | Path | Sequence[str | Path] | np.ndarray | Tensor


def save(model: Model, folder: Path) -> None:
    """Write the model; a reader sees the old model or the new one, never half of each."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    values = asdict(model.description)
    values.update(space=model.description.space.model_dump(mode="json"), subnet=model.description.subnet.to_dict())
    values["norms"] = list(model.description.subnet.norms)
    head_kind = type(model.head).__name__
    text = json.dumps({"schema": SCHEMA, **values, "head_module": head_kind}, indent=2, ensure_ascii=False)
    # The description travels inside the weights too, so the pair cannot come apart if a kill falls between the files.
    save_file(tensors, folder / ".model.safetensors.part", metadata={"model.json": text})
    (folder / ".model.json.part").write_text(text + "\n", encoding="utf-8")
    os.replace(folder / ".model.safetensors.part", folder / "model.safetensors")
    os.replace(folder / ".model.json.part", folder / "model.json")


def load(folder: str | Path) -> Model:
    """The model that a run left in `RUN/best` (or any model folder), ready to predict.

    Raises:
        InputError: there is no model, or its files are damaged or of another version.
    """
    folder = Path(folder)
    if not (folder / "model.safetensors").is_file():
        raise InputError(
            "a model folder must hold model.safetensors", got=str(folder), do="Name RUN/best of a finished run."
        )
    try:
        values = _read_description(folder / "model.safetensors")
        tensors = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} must hold a whole model", got=error, do="Copy it again.") from None
    if values.get("schema") != SCHEMA:
        raise InputError(
            f"a model's schema must be {SCHEMA}",
            got=values.get("schema"),
            do="Use the nasimb version it was made with.",
        )
    space = parse(SearchSpace, values["space"], what="the model's search space")
    subnet = Subnet.from_dict(values["subnet"])
    description = Description(
        classes=tuple(values["classes"]), class_counts_K=tuple(values["class_counts_K"]), channels=values["channels"],
        size=values["size"], space=space, subnet=subnet, calibration=values["calibration"], head=values["head"],
        metrics=values["metrics"], provenance=values["provenance"],
    )  # fmt: skip
    backbone = plain_backbone(space, subnet, description.channels)
    try:
        backbone.load_state_dict(_under("backbone.", tensors))
        head = Head.module_from(values["head_module"], _under("head.", tensors))
    except (RuntimeError, KeyError) as error:
        raise InputError(f"the weights of {folder} must fit its description", got=error, do="Copy it again.") from None
    return Model(backbone, head, description)


def _read_description(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        found = json.loads(opened.metadata()["model.json"])
    if not isinstance(found, dict):
        raise ValueError("its description is no mapping")
    return found


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _channels_first(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [N, C, H, W] from [N, H, W], [N, H, W, C] (arrays) or [N, C, H, W] (tensors)."""
    if isinstance(images, np.ndarray):
        if images.ndim == 3:
            images = images[..., None]
        images = torch.from_numpy(np.ascontiguousarray(images))
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        raise DataError(
            "images must be uint8 of shape [N, H, W], [N, H, W, C] or (as a tensor) [N, C, H, W] with 1 or 3 channels",
            got=f"{images.dtype} {list(images.shape)}",
            do="Convert them, or give file paths.",
        )
    return images
