"""What adaptation of batch norm statistics at test time gains and risks: strategy against strategy, cell by cell.

For every seed a network is trained fully on the (balanced) training images. Its test images then come corrupted, in
batches of several sizes, and in orders that mislead batch statistics: class after class, in runs, in a long tail. Every
strategy sees the same images in the same order and starts anew in every cell. A row a cell and strategy is written
before the next begins.
Shapes: B images of a batch, C channels, N images, M images of a stream, K classes.
Of seconds: T turns, B batches, W works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasimb.adapt import BatchNormAdapter, Safety, class_profile
from nasimb.bench.adaptation_table import figures, table
from nasimb.bench.base import Conditions, Figure, made_with, ratio_figure, synchronise
from nasimb.bench.provenance import identity
from nasimb.bench.rows import Rows
from nasimb.bench.streams import STREAMS
from nasimb.bench.testbed import limited
from nasimb.bench.trained import NetworkRecipe, kept_network, predict
from nasimb.data import parse_dataset
from nasimb.data.base import LoadRequest
from nasimb.data.corruptions import CORRUPTIONS, corrupt
from nasimb.data.digits import DigitsSpec
from nasimb.data.task import Task, load_task
from nasimb.metrics import measure

Predictor = Callable[[Tensor], Tensor]
"""images_BCHW -> logits_BK; what it has seen may change what it says next."""
Adapt = Callable[[str], Predictor]
"""A predictor that has seen nothing yet, by the name of its strategy."""

STRATEGIES = ("source", "batch", "mixed")
SEVERITIES, BATCH_SIZES = (1, 3, 5), (8, 64, 200)
STREAM_SEVERITY, STREAM_BATCH = 3, 64
TIMED_BATCHES = (64, 200)
TIMED_IMAGES = 10_000
BEGUN_IMAGES = 1024
"""After so many (or half of what there is) an adapter has begun, and looks at most batches no more."""

KEY = ("seed", "corruption", "severity", "stream", "batch_size", "strategy")
FILE, TABLE, NETWORKS = "adaptation_rows.csv", "adaptation_table.csv", "adaptation_networks"

# Of the digits' 174 images a class and more: enough to learn from, and as many as can be to test on.
DIGITS = {"name": "digits", "source_per_class": 0, "target_per_class": 74, "test_per_class": 100}
DIGITS_SIDE, SIDE = 8, 32
SMALL = NetworkRecipe(epochs=40, batch_size=64, learning_rate=0.2)
LARGE = NetworkRecipe(
    widths=(32, 64, 128), first_stride=2, epochs=4, batch_size=64, learning_rate=0.2, precision="bfloat16"
)
PROFILED_IMAGES = 10_000
QUICK_EPOCHS, QUICK_CORRUPTIONS = 8, ("noise", "contrast")


class Cell(NamedTuple):
    """One condition: what is done to the images (severity 0: nothing), and how they come."""

    corruption: str
    severity: int
    stream: str
    batch_size: int


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and what it is tested on.

    Attributes:
        adapt: makes its adapters.
    """

    network: nn.Module
    adapt: Adapt
    test_NCHW: Tensor
    labels_N: NDArray[np.int64]
    class_counts_K: NDArray[np.int64]
    seed: int

    def order(self, stream: str) -> NDArray[np.int64]:
        """Positions in which the test images come."""
        return STREAMS[stream](self.labels_N, self.seed)


class Shown:
    """The test images of a subject after one corruption, and what its network says to them as it is."""

    def __init__(self, subject: Subject, corruption: str, severity: int) -> None:
        self._subject = subject
        self.images_NCHW = subject.test_NCHW
        if severity:
            self.images_NCHW = corrupt(subject.test_NCHW, corruption, severity, seed=subject.seed)

    @cached_property
    def _by_source_N(self) -> Tensor:
        return predict(self._subject.network, self.images_NCHW, max(BATCH_SIZES))

    def predicted(self, strategy: str, order_M: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
        """Classes named for the images in this order. The source's depend on no other image: they are kept."""
        positions_M = torch.from_numpy(order_M)
        if strategy == "source":
            return cast("NDArray[np.int64]", self._by_source_N[positions_M].numpy())
        images_MCHW = self.images_NCHW[positions_M.to(self.images_NCHW.device)]
        found_M = predict(self._subject.adapt(strategy), images_MCHW, batch_size)
        return cast("NDArray[np.int64]", found_M.numpy())


def adaptation(conditions: Conditions) -> Iterator[Figure]:
    """Worst cells against source and batch, worst stream against source, mean gain; and the table behind them."""
    yield from measured(conditions, nasimb_adapters)


def measured(conditions: Conditions, adapters: Callable[[nn.Module, Task], Adapt]) -> Iterator[Figure]:
    """`adaptation` with these adapters of a network trained on a task."""
    task, recipe = load(conditions)
    seeds = range(1 if conditions.quick else conditions.seeds)
    cells = wanted(conditions.quick)
    content = " ".join(task.fingerprints().values())
    rows = Rows(
        None if conditions.folder is None else conditions.folder / FILE, KEY,
        identity([], conditions, content=content, recipe=recipe.model_dump_json()),
    )  # fmt: skip
    for seed in seeds:
        missing = [cell for cell in cells if not all(_has(rows, seed, cell, one) for one in STRATEGIES)]
        if missing:
            network = _network(task, recipe, seed, conditions)
            subject = _subject(network, adapters(network, task), task, seed, conditions.device)
            _measure(subject, missing, rows, conditions, (seed, len(seeds)))
    if conditions.folder is not None:
        table(rows).to_csv(conditions.folder / TABLE, index=False, float_format="%.4f")
    yield from made_with(figures(rows), **_provenance(conditions, len(seeds)))


def adaptation_over_plain(conditions: Conditions) -> Iterator[Figure]:
    """adaptation_over_plain_B: a batch of B images through the default adapter / through the network as it is, once it
    has begun; adaptation_from_start_over_plain_B: a stream of images, the beginning included."""
    yield from timed(conditions, nasimb_adapters)


def timed(conditions: Conditions, adapters: Callable[[nn.Module, Task], Adapt]) -> Iterator[Figure]:
    """`adaptation_over_plain` with these adapters."""
    task, recipe = load(conditions)
    network = _network(task, recipe, 0, conditions)
    adapt = adapters(network, task)
    subject = _subject(network, adapt, task, 0, conditions.device)
    order_M = torch.from_numpy(subject.order("iid")[:TIMED_IMAGES])
    images_MCHW = corrupt(subject.test_NCHW[order_M.to(conditions.device)], "noise", STREAM_SEVERITY)
    made = []
    for batch_size in TIMED_BATCHES:
        batches = torch.split(images_MCHW[: max(2, len(images_MCHW) // batch_size) * batch_size], batch_size)
        begun = min(-(-BEGUN_IMAGES // batch_size), len(batches) // 2)
        turns = conditions.repetitions + 1  # the first one warms up
        spent_TBW = np.empty((turns, len(batches), 2))
        for turn in range(turns):
            conditions.tick(f"adaptation_over_plain, batches of {batch_size}", turn / turns)
            # A new adapter every turn, since images that it has seen before would cost it less.
            spent_TBW[turn] = side_by_side(adapt("mixed"), network, batches, conditions)
        for name, first, said, at_most in (
            ("adaptation_over_plain", begun, "once it has begun", 1.10),
            ("adaptation_from_start_over_plain", 0, "from its start", None),
        ):
            adapted_T, plain_T = spent_TBW[1:, first:].sum(1).T.tolist()
            detail = {"images": batch_size * (len(batches) - first), "begun_images": first * batch_size}
            made.append(
                ratio_figure(
                    f"{name}_{batch_size}",
                    {"adapted": adapted_T, "plain": plain_T},
                    "adapted",
                    "plain",
                    at_most=at_most,
                    against=f"batches of {batch_size} images through the mixed adapter, {said} / the network, in turns",
                    detail={**detail, "side": task.test.size},
                )
            )
    yield from made_with(made, **_provenance(conditions, 1))


def side_by_side(
    adapted: Predictor, plain: Predictor, batches: Sequence[Tensor], conditions: Conditions
) -> NDArray[np.float64]:
    """Seconds of every batch through both: [batches, 2].

    In turns, batch by batch: a machine that is slower for a second slows both.
    """
    spent_BW = np.empty((len(batches), 2))
    for number, images_BCHW in enumerate(batches):
        for work in (0, 1) if number % 2 else (1, 0):
            synchronise(conditions.device)
            start = conditions.clock()
            with torch.no_grad():
                (adapted, plain)[work](images_BCHW)
            synchronise(conditions.device)
            spent_BW[number, work] = conditions.clock() - start
    return spent_BW


def nasimb_adapters(network: nn.Module, task: Task) -> Adapt:
    """Those of `nasimb.adapt`, which know the network's training images by their class profile."""
    train, device = task.target, next(network.parameters()).device
    chosen_M = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:PROFILED_IMAGES]
    images_MCHW = train.store.read(train.indices_N[chosen_M], device)
    profile = class_profile(network, images_MCHW, train.labels_N[chosen_M].to(device))

    def adapter(strategy: str) -> Predictor:
        # What others do has no safety to rely on.
        safety = Safety() if strategy == "mixed" else None
        return BatchNormAdapter(network, strategy=strategy, profile=profile, safety=safety)

    return adapter


def load(conditions: Conditions) -> tuple[Task, NetworkRecipe]:
    """Training and test images, and a network that suits them; the embedded digits where no data are named.

    Training images are as they come, unless a long tail other than the data's own default was asked for: the digits,
    whose default a configuration cannot tell from a wish, are then as many of each class.
    """
    config = conditions.config
    spec = parse_dataset(DIGITS if conditions.synthetic else config.data)
    small = isinstance(spec, DigitsSpec)
    default = spec.default_imbalance_factor
    factor = 1.0 if default is not None and config.imbalance_factor in (None, default) else config.imbalance_factor
    request = LoadRequest(
        size=DIGITS_SIDE if small else SIDE, device=conditions.device, skip_bad_images=config.skip_bad_images,
        download=config.download,
    )  # fmt: skip
    task = load_task(
        spec, "elsewhere", request=request, imbalance_factor=factor, profile=config.profile, seed=config.seed,
        test_fraction=config.test_fraction,
    )  # fmt: skip
    task = limited(task, conditions.images)
    counts_K = task.target.class_counts_K
    conditions.watcher.say(
        f"{len(task.target)} training images, {int(counts_K.min())} to {int(counts_K.max())} a class; "
        f"{len(task.test)} test images."
    )
    recipe = SMALL if small else LARGE
    return task, recipe.model_copy(update={"epochs": QUICK_EPOCHS}) if conditions.quick else recipe


def wanted(quick: bool) -> list[Cell]:
    """The cells, those of one corruption and severity side by side."""
    corruptions = QUICK_CORRUPTIONS if quick else tuple(CORRUPTIONS)
    severities, batch_sizes = ((STREAM_SEVERITY,), (STREAM_BATCH,)) if quick else (SEVERITIES, BATCH_SIZES)
    cells = [
        Cell(*one, "iid", batch_size)
        for one in [("clean", 0), *product(corruptions, severities)]
        for batch_size in batch_sizes
    ]
    streamed = [("clean", 0), *((name, STREAM_SEVERITY) for name in corruptions)]
    cells += [Cell(*one, stream, STREAM_BATCH) for one in streamed for stream in STREAMS if stream != "iid"]
    return sorted(cells, key=lambda cell: (cell.corruption != "clean", cell.corruption, cell.severity))


def _measure(
    subject: Subject, cells: Sequence[Cell], rows: Rows, conditions: Conditions, part: tuple[int, int]
) -> None:
    """Rows of these cells, one a strategy; `part`: which seed of how many."""
    shown, now = None, None
    for number, cell in enumerate(cells):
        if (cell.corruption, cell.severity) != now:
            now = cell.corruption, cell.severity
            shown = Shown(subject, *now)
        assert shown is not None
        order_M = subject.order(cell.stream)
        labels_M = subject.labels_N[order_M]
        counts_K = subject.class_counts_K
        if cell.stream == "longtail":  # groups of the stream, where training images are alike
            counts_K = np.bincount(labels_M, minlength=len(counts_K))
        for strategy in STRATEGIES:
            if _has(rows, subject.seed, cell, strategy):
                continue
            conditions.tick("adaptation", (part[0] + number / len(cells)) / part[1], f"{' '.join(map(str, cell))}")
            found = measure(shown.predicted(strategy, order_M, cell.batch_size), labels_M, counts_K)
            rows.append(
                {
                    "seed": subject.seed, **cell._asdict(), "strategy": strategy, "accuracy": found.accuracy,
                    "balanced_accuracy": found.balanced_accuracy, "many": found.many, "medium": found.medium,
                    "few": found.few, "images": found.images,
                }
            )  # fmt: skip


def _has(rows: Rows, seed: int, cell: Cell, strategy: str) -> bool:
    return rows.has(seed=seed, **cell._asdict(), strategy=strategy)


def _network(task: Task, recipe: NetworkRecipe, seed: int, conditions: Conditions) -> nn.Module:
    file: Path | None = None
    if conditions.folder is not None:
        file = conditions.folder / NETWORKS / f"{task.target.fingerprint()}-{seed}.safetensors"
    return kept_network(
        file, task.target, recipe, seed=seed, flip=task.flip, device=conditions.device,
        tick=lambda progress: conditions.tick("training", progress, f"network {seed}"),
    )  # fmt: skip


def _subject(network: nn.Module, adapt: Adapt, task: Task, seed: int, device: torch.device) -> Subject:
    test = task.test
    return Subject(
        network, adapt, test.store.read(test.indices_N, device), test.labels_N.numpy(),
        task.target.class_counts_K.numpy(), seed,
    )  # fmt: skip


def _provenance(conditions: Conditions, seeds: int) -> dict[str, str]:
    data = "digits" if conditions.synthetic else parse_dataset(conditions.config.data).name
    return {"data": data, "supernet": "none", "seed": f"0..{seeds - 1}" if seeds > 1 else "0"}
