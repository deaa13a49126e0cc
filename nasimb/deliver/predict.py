"""`nasimb predict`: a table of classes for image files, a row an image.

Shapes: B images of a batch, K classes, T most probable classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nasimb.data.transfer import send
from nasimb.deliver.decoding import Decoded, decoded
from nasimb.deliver.writing import Lines, rows_into
from nasimb.errors import InputError, Interrupted
from nasimb.export import Model
from nasimb.progress import Progress, Silent, Watcher
from nasimb.session import Stop
from nasimb.supernet.base import images_at_a_time

DIGITS = 6
"""Of a probability in the table: float32 has seven."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What became of the files.

    Attributes:
        images: how many stand in the table.
        unreadable: (file, reason) of the others.
        seconds: from the first file to the last row.
    """

    images: int
    unreadable: tuple[tuple[Path, str], ...]
    seconds: float

    def sentence(self, file: str | None) -> str:
        """For people: how many, how fast, and where they are."""
        count = f"{self.images:,} images" if self.images != 1 else "1 image"
        speed = f"{self.images / self.seconds:,.0f} images/s" if self.seconds else ""
        left_out = [f"{len(self.unreadable):,} could not be read and were left out"] if self.unreadable else []
        return ", ".join(
            [f"{count} in {self.seconds:.1f} s ({speed})", *left_out, *([f"written to {file}"] if file else [])]
        )


def columns(model: Model, top: int, probabilities: bool) -> list[str]:
    """The header: path, class, probability, then class_2, probability_2 and so on, then `p_` + each class."""
    more = [name for rank in range(2, top + 1) for name in (f"class_{rank}", f"probability_{rank}")]
    return ["path", "class", "probability", *more, *(f"p_{name}" for name in model.classes if probabilities)]


@torch.no_grad()
def write_predictions(
    model: Model,
    paths: Sequence[Path],
    file: Lines,
    *,
    top: int = 1,
    probabilities: bool = False,
    batch_size: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = int,
) -> Predicted:
    """Write CSV rows as they come, in the order of the files; those that cannot be read are left out.

    Args:
        top: so many of the most probable classes.
        probabilities: also that of every class, in the model's order.
        batch_size: None is what is quick on the model's device.

    Raises:
        InputError: the model has fewer classes than `top`. Interrupted: `stop` gave a signal; rows so far are written.

    Example:
        >>> import io, nasimb
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> model, table = nasimb.load("runs/digits/best"), io.StringIO()
        >>> with TemporaryDirectory() as folder:
        ...     dark, broken = Path(folder) / "dark.png", Path(folder) / "broken.png"
        ...     Image.new("L", (28, 28)).save(dark)
        ...     _ = broken.write_bytes(b"no image")
        ...     found = write_predictions(model, [dark, broken], table, top=2)
        >>> found.images, [(file.name, reason) for file, reason in found.unreadable]
        (1, [('broken.png', 'not an image in a known format')])
        >>> table.getvalue().splitlines()[0]
        'path,class,probability,class_2,probability_2'
    """
    if top > len(model.classes):
        do = "Ask for fewer."
        raise InputError(f"--top-k must be at most the model's {len(model.classes)} classes", got=top, do=do)
    device = next(model.parameters()).device
    size, channels = model.description.size, model.description.channels
    batch_size = batch_size or images_at_a_time(model.description.space, device)
    watcher, begun, done = watcher or Silent(), time.monotonic(), 0
    unreadable: list[tuple[Path, str]] = []
    rows = rows_into(file)
    rows.writerow(columns(model, top, probabilities))
    for batch in decoded(paths, size=size, channels=channels, batch_size=batch_size):
        if number := stop():
            raise Interrupted(
                number, must_hold="every image must be seen", kept=f"{done:,} of {len(paths):,} files were seen",
                resume="Give the same command again to begin anew.",
            )  # fmt: skip
        if batch.paths:
            probabilities_BK = model(send(batch.images_BCHW, device)).softmax(1).cpu()
            rows.writerows(_rows(batch, probabilities_BK, model.classes, top, probabilities))
        for path, reason in batch.unreadable:
            watcher.say(f"left out: {path} ({reason})")
        unreadable += batch.unreadable
        done += len(batch.paths) + len(batch.unreadable)
        watcher.show(
            Progress("predict", done / len(paths), time.monotonic() - begun, None, f"{done:,} of {len(paths):,} files")
        )
    return Predicted(done - len(unreadable), tuple(unreadable), time.monotonic() - begun)


def _rows(
    batch: Decoded, probabilities_BK: Tensor, classes: tuple[str, ...], top: int, every: bool
) -> Iterator[list[str]]:
    """One row an image."""
    best_BT, classes_BT = probabilities_BK.topk(top, dim=1)
    shown: Callable[[float], str] = f"{{:.{DIGITS}g}}".format
    all_BK = probabilities_BK.tolist() if every else [[]] * len(batch.paths)
    for path, best_T, names_T, all_K in zip(batch.paths, best_BT.tolist(), classes_BT.tolist(), all_BK, strict=True):
        row = [str(path)]
        for probability, k in zip(best_T, names_T, strict=True):
            row += [classes[k], shown(probability)]
        yield [*row, *map(shown, all_K)]
