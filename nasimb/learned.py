"""Which images a model has learned from, kept beside it, so that nobody takes its figures on them for a test.

```
MODEL/learned.json    hashes of the images that the backbone and the head were trained on
```
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nasimb import seal
from nasimb.data.base import ImageSet
from nasimb.durable import replace_whole
from nasimb.errors import InputError
from nasimb.export import model_folder
from nasimb.phases.supernet import CALIBRATION_FILE
from nasimb.rundir import RunDir
from nasimb.supernet.checkpoint import read_tensors

FILE = "learned.json"


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of a model's training images.

    Attributes:
        backbone, head: hashes (`ImageSet.hashes` at the model's size and channels) of what each was trained on; None
            where that is not known.
    """

    backbone: frozenset[str] | None
    head: frozenset[str] | None


def keep_learned(folder: Path, learned: Learned) -> None:
    """Write the record beside the model in `folder`."""
    parts = {"backbone": learned.backbone, "head": learned.head}
    values = seal.sealed({name: None if hashes is None else sorted(hashes) for name, hashes in parts.items()})
    replace_whole(folder / FILE, (json.dumps(values) + "\n").encode())


def learned_by(source: Path) -> Learned:
    """What the model of a run or a model folder was trained on.

    Where it has no record of its own, that of the super-network of its run tells of the backbone.

    Raises:
        InputError: a record is damaged.
    """
    file = model_folder(source) / FILE
    if not file.is_file():
        return Learned(_trained_on(source), None)
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not (isinstance(found, dict) and seal.is_whole(found)):
        raise InputError(f"{file} must be whole", got="another text", do="Copy the model again.")
    return Learned(*(None if found[name] is None else frozenset(found[name]) for name in ("backbone", "head")))


def seen(images: ImageSet, hashes: Iterable[str]) -> list[int]:
    """Positions of the images that are among those of these hashes."""
    among = frozenset(hashes)
    return [position for position, digest in enumerate(images.hashes()) if digest in among]


def _trained_on(source: Path) -> frozenset[str] | None:
    """What the super-network of the run that a model belongs to was trained on."""
    folder = source.resolve()
    while folder.name == "best" or folder.parent.name == "heads":
        folder = folder.parent if folder.name == "best" else folder.parent.parent
    kept = [folder / "supernet"]
    if (folder / "config.yaml").is_file():
        ready = RunDir(folder).config().get("supernet")
        kept += [] if ready is None else [Path(ready)]
    file = next((place / CALIBRATION_FILE for place in kept if (place / CALIBRATION_FILE).is_file()), None)
    if file is None:
        return None
    try:
        return frozenset(json.loads(read_tensors(file)[1]["source_hashes"]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} must be whole", got=repr(error), do="Copy the run again.") from None
