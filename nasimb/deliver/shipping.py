"""`nasimb export`: a folder that holds a model in another format, how to feed it, and its card.

```
DIR/model.onnx | model.pt2 | model.safetensors (and model.json)
DIR/preprocessing.json    from an image file to the input, and what the output means
DIR/README.md             the model card
```
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nasimb.cost.latency import latency
from nasimb.data.base import ImageSet
from nasimb.deliver.card import model_card
from nasimb.deliver.formats import FORMATS
from nasimb.deliver.formats.base import Format, Runner
from nasimb.deliver.network import Shipped, ship
from nasimb.durable import making_folder, replace_whole
from nasimb.errors import InputError, WorkError, unknown_name
from nasimb.export import WEIGHTS, Model, save
from nasimb.heads.head import ABSENT_LOGIT

RECIPE, CARD = "preprocessing.json", "README.md"
CHECKED = 512
"""Images at most; more tell nothing new about rounding."""
TOLERANCE = 1e-3
"""Of probabilities, and of logits as a share of the largest: float32 sums in another order."""
USE = {
    "torch-export": (
        "```python\nimport torch\n\nnetwork = torch.export.load(\"model.pt2\").module()\n"
        "logits = network(images)  # see preprocessing.json\n```"
    ),
    "onnx": (
        "```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession(\"model.onnx\")\n"
        "(logits,) = session.run([\"logits\"], {\"images\": images})  # see preprocessing.json\n```"
    ),
    "safetensors": (
        "```python\nimport nasimb\n\nnasimb.load(\".\").predict([\"photo.jpg\"])\n```"
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checked:
    """The exported file against the model that it was made from, on real images.

    Attributes:
        logit_difference, probability_difference: the largest; of logits only classes that can be predicted.
        same_class: images that both give the same class.
        seconds_before, seconds_after: of one image from pixels to logits, in this process.
    """

    images: int
    logit_difference: float
    probability_difference: float
    same_class: int
    seconds_before: float
    seconds_after: float


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        bytes_before, bytes_after: of the weights file that nasimb keeps, and of the exported file.
        checked: None where nobody asked.

    Example:
        >>> import nasimb
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export(nasimb.load("runs/digits/best"), "safetensors", Path(folder) / "shipped")
        >>> found.file, found.checked, found.bytes_after >= found.bytes_before
        ('model.safetensors', None, True)
    """

    folder: Path
    file: str
    bytes_before: int
    bytes_after: int
    checked: Checked | None
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        said = [f"{self.folder / self.file}: {self.bytes_after:,} bytes ({self.bytes_before:,} before)"]
        if self.checked is not None:
            one = self.checked
            said += [
                f"checked on {one.images:,} images: logits differ by at most {one.logit_difference:.2g}, probabilities "
                f"by {one.probability_difference:.2g}; {one.same_class:,} have the same class",
                f"one image takes {1e3 * one.seconds_after:.2f} ms ({1e3 * one.seconds_before:.2f} ms before)",
            ]
        return [*said, *(f"note: {note}" for note in self.notes)]


def check_target(form: str, out: Path, *, with_preprocessing: bool) -> Format:
    """The format, if all is ready for writing it.

    Raises:
        InputError: an unknown format, one that is not installed, or `out` exists or has no place.
    """
    if form not in FORMATS:
        raise unknown_name("the format", form, FORMATS)
    found = FORMATS[form]()
    found.check()
    if out.exists() or not out.parent.is_dir():
        got = f"{out}, which exists" if out.exists() else f"{out} without a folder {out.parent}"
        raise InputError("an export needs a new folder", got=got, do="Choose another --out.")
    if with_preprocessing and found.always_prepares:
        do = "Leave --with-preprocessing out."
        raise InputError(f"{form} has no preprocessing to put inside", got="nasimb.load, which does it anyway", do=do)
    return found


def export(
    model: Model, form: str, out: Path, *, with_preprocessing: bool = False, images: ImageSet | None = None
) -> Exported:
    """Write the folder whole or not at all.

    Args:
        model: on the CPU.
        form: "torch-export", "onnx" or "safetensors".
        images: to check the written file with, before it takes its place; None checks nothing.

    Raises:
        InputError: as `check_target`. WorkError: the written file does not say what the model says.

    Example:
        >>> import nasimb
        >>> from nasimb.data import LoadRequest, parse_dataset
        >>> images = parse_dataset("digits:0-2").load(LoadRequest(size=12)).test
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export(nasimb.load("runs/digits/best"), "safetensors", Path(folder) / "shipped", images=images)
        ...     print(sorted(file.name for file in found.folder.iterdir()))
        ['README.md', 'model.json', 'model.safetensors', 'preprocessing.json']
        >>> found.checked.same_class == found.checked.images, found.checked.probability_difference < 1e-3
        (True, True)
    """
    found = check_target(form, out, with_preprocessing=with_preprocessing)
    shipped = ship(model, with_preprocessing=with_preprocessing or found.always_prepares)
    metadata = _metadata(shipped)
    with making_folder(out) as folder:
        file = folder / found.file
        found.write(shipped, metadata, file)
        checked = None if images is None else check(shipped, found.runner(file), images)
        replace_whole(folder / RECIPE, (json.dumps(shipped.recipe(), indent=2, ensure_ascii=False) + "\n").encode())
        card = model_card(model.description, use=[_use(form, shipped)], notes=_notes(shipped, form, checked))
        replace_whole(folder / CARD, card.encode("utf-8", errors="replace"))
        size = file.stat().st_size
    return Exported(out, found.file, _own_size(model), size, checked, shipped.notes)


def _own_size(model: Model) -> int:
    """Bytes of the weights file that nasimb keeps."""
    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        return (Path(scratch) / WEIGHTS).stat().st_size


def check(shipped: Shipped, runner: Runner, images: ImageSet) -> Checked:
    """Compare what was written with the model on some images, spread evenly.

    Raises:
        WorkError: they differ by more than rounding.
    """
    positions = torch.linspace(0, len(images) - 1, min(CHECKED, len(images))).round().long()
    pixels_BCSS = next(images.subset(positions).batches(len(positions), torch.device("cpu")))[0]
    with torch.no_grad():
        # The first image once more, alone: another batch size than the rest.
        parts = [pixels_BCSS, pixels_BCSS[:1]]
        before_BK = torch.cat([shipped.model(part) for part in parts])
        after_BK = torch.cat([runner(shipped.prepare(part)) for part in parts])
    can_be_K = (before_BK > ABSENT_LOGIT / 2).all(0)
    logits = float((before_BK - after_BK)[:, can_be_K].abs().max())
    probabilities = float((before_BK.softmax(1) - after_BK.softmax(1)).abs().max())
    scale = max(1.0, float(before_BK[:, can_be_K].abs().max()))
    if not (logits <= TOLERANCE * scale and probabilities <= TOLERANCE):  # NaN is neither
        raise WorkError(
            "an exported model must say what the model says",
            got=f"logits that differ by {logits:.3g} and probabilities by {probabilities:.3g}",
            do="Choose another format, and report this.",
        )
    one = pixels_BCSS[:1]
    return Checked(
        images=len(positions),
        logit_difference=logits,
        probability_difference=probabilities,
        same_class=int((before_BK.argmax(1) == after_BK.argmax(1))[:-1].sum()),
        seconds_before=latency(shipped.model, one),
        seconds_after=latency(_Whole(shipped, runner), one),
    )


class _Whole(nn.Module):
    """From pixels to logits by what was written, so that both ways are timed alike."""

    def __init__(self, shipped: Shipped, runner: Runner) -> None:
        super().__init__()
        self._prepare, self._runner = shipped.prepare, runner

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        return self._runner(self._prepare(pixels_BCSS))


def _metadata(shipped: Shipped) -> dict[str, str]:
    d = shipped.model.description
    about = {
        "class_counts": list(d.class_counts_K), "subnet": d.subnet.to_dict(), "calibration": d.calibration,
        "head": d.head, "metrics": d.metrics, "provenance": d.provenance,
    }  # fmt: skip
    return {
        "classes": json.dumps(list(d.classes), ensure_ascii=False),
        "preprocessing": json.dumps(shipped.recipe(), ensure_ascii=False),
        "description": json.dumps(about, ensure_ascii=False),
    }


def _use(form: str, shipped: Shipped) -> str:
    channels, height, width = shipped.input_shape
    if form == "safetensors":
        return USE[form]
    kind = "uint8 pixels" if shipped.inside else "float32 values, resized and standardised"
    return (
        f"`images`: {kind} of shape [batch, {channels}, {height}, {width}], any batch; `preprocessing.json` says how "
        f"they come from a file. The file holds the names of the classes in the order of the logits.\n\n{USE[form]}"
    )


def _notes(shipped: Shipped, form: str, checked: Checked | None) -> list[str]:
    said = [f"Exported as {form}.", *shipped.notes]
    if checked is not None:
        said.append(
            f"Checked on {checked.images} images: probabilities differ by at most {checked.probability_difference:.2g} "
            f"from nasimb's own."
        )
    return said
