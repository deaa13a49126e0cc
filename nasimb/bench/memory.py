"""Peak memory of one large head fit, in a process of its own: `python -m nasimb.bench.memory WORK --images N ...`.

The features come from a stream or lie in a memory map, as those of a large target would. Prints one line of JSON on
stdout: {"peak_gib": ..., "started_gib": ..., "seconds": ...}.

Shapes: N images, B images of one chunk, D features, K classes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from nasimb.bench.made import GIB, Chunks, long_tailed_labels, stream
from nasimb.heads.base import fit_stream
from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.features import mapped
from nasimb.heads.gda import GdaSpec
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.ridge import RidgeSpec

PENALTY = 1e-4


def peak_gib() -> float:
    """Most memory that this process has held at any time, GiB.

    Linux counts it anew for the new program in VmHWM; ru_maxrss keeps that of whoever started the process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / GIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / GIB if sys.platform == "darwin" else most * 1024 / GIB


def on_disk(chunks: Chunks, num_images: int, num_features: int, folder: Path) -> Tensor:
    """The same features as a memory map of float16 in `folder`: features_ND."""
    path = folder / "features.f16"
    with path.open("wb") as file:
        for features_BD, _ in chunks():
            features_BD.half().numpy().tofile(file)
    return mapped(path, num_images, num_features, torch.float16)


def fit(work: str, num_images: int, num_features: int, num_classes: int, folder: Path, seed: int = 0) -> None:
    """One head: "ridge" or "gda" from the stream, "balanced_softmax" from the memory map."""
    labels_N = long_tailed_labels(num_images, num_classes, torch.Generator().manual_seed(seed))
    chunks = stream(labels_N, num_features, seed)
    if work == "balanced_softmax":
        features_ND = on_disk(chunks, num_images, num_features, folder)
        LogisticSpec(penalties=(PENALTY,)).fit(
            features_ND, labels_N, num_classes, PENALTY,
            checkpoint=Checkpoint(folder / "fit.safetensors"), progress=_show,
        )  # fmt: skip
        return
    spec = RidgeSpec() if work == "ridge" else GdaSpec()
    setting = spec.grid[len(spec.grid) // 2]
    fit_stream(spec, chunks, torch.bincount(labels_N, minlength=num_classes), setting)


def _show(share: float, objective: float) -> None:
    print(f"{share:.0%}  objective {objective:.6f}", file=sys.stderr)


def main() -> None:
    """Fit, then say what it took."""
    parser = argparse.ArgumentParser(prog="python -m nasimb.bench.memory")
    parser.add_argument("work", choices=("ridge", "gda", "balanced_softmax"))
    for name in ("images", "features", "classes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    started, start = peak_gib(), time.perf_counter()
    fit(given.work, given.images, given.features, given.classes, given.folder)
    seconds = time.perf_counter() - start
    print(json.dumps({"peak_gib": peak_gib(), "started_gib": started, "seconds": seconds}))


if __name__ == "__main__":
    main()
