"""What a candidate's score costs: against one inference pass, and in a batch that shares prefixes against one by one.

Shapes: C channels, H and W pixels, B images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from nasimb.bench.base import Conditions, Figure, alternate, ratio_figure, spread, synchronise
from nasimb.bench.testbed import Testbed, load_testbed
from nasimb.data.base import ImageSet
from nasimb.errors import WorkError
from nasimb.search.candidate import Scoring, statistics_of
from nasimb.search.engine import evaluate_batch
from nasimb.search.limits import Limits
from nasimb.search.study import Proposal, Question, Study
from nasimb.search.trial import FINISHED, Candidate, Trial
from nasimb.space import Subnet

BATCH_SIZES = (64, 128, 512)
"""Tried for the forward pass, and that of the scoring besides."""
TUNING_IMAGES, TUNING_TURNS = 2048, 3
RANDOM_SUBNETS, QUICK_SUBNETS = 5, 2
BATCH, QUICK_BATCH = 64, 6
SEARCH_BATCH, QUICK_SEARCH_BATCH = 16, 4
"""Candidates that a search scores at a time."""
SCORED = ("score", "balanced_loss", "head", "setting", "worst_recall")
AGAINST = "full score of one candidate / plain eval forward of the extracted network over the same images"


def candidate_over_forward(conditions: Conditions) -> Iterator[Figure]:
    """candidate_over_forward of the smallest, median and largest subnet, and of random ones."""
    testbed = load_testbed(conditions)
    named = testbed.named_subnets
    for name, subnet in named.items():
        yield _over_forward(testbed, subnet, conditions, name)
    drawn = testbed.random_subnets(QUICK_SUBNETS if conditions.quick else RANDOM_SUBNETS)
    figures = [_over_forward(testbed, subnet, conditions, str(subnet)) for subnet in drawn]
    found = spread([figure.value for figure in figures if figure.value is not None])
    yield Figure(
        "candidate_over_forward", found.median, f"{AGAINST}; median and quartiles over {len(drawn)} random subnets",
        at_most=1.25, low=found.low, high=found.high, repetitions=conditions.repetitions,
        detail={**_sizes(testbed), **{str(subnet): f.value for subnet, f in zip(drawn, figures, strict=True)}},
    )  # fmt: skip


def _over_forward(testbed: Testbed, subnet: Subnet, conditions: Conditions, name: str) -> Figure:
    scoring, candidate = whole(testbed.scoring), Candidate(subnet, testbed.calibration)
    backbone = testbed.scoring.supernet.extract(subnet, statistics_of(scoring, candidate)).eval()
    batch_size = best_batch_size(testbed, backbone, conditions)
    seconds = conditions.compare(
        f"candidate, {name}",
        {
            "score": lambda: score(scoring, [proposal(testbed, candidate)], conditions),
            "forward": lambda: plain_forward(testbed, backbone, batch_size),
        },
    )
    return ratio_figure(
        f"candidate_over_forward_{name}", seconds, "score", "forward", against=f"{AGAINST}; {name}", at_most=1.25,
        detail={
            **_sizes(testbed), "subnet": str(subnet), "macs": scoring.cost_of(subnet)[0],
            "forward_batch_size": batch_size,
        },
    )  # fmt: skip


def tree_over_single(conditions: Conditions) -> Iterator[Figure]:
    """tree_over_single: 64 candidates of the evolution, scored as one batch / one by one."""
    count = QUICK_BATCH if conditions.quick else BATCH
    yield _tree_over_single("tree_over_single", count, conditions, at_most=0.65)


def tree_over_single_16(conditions: Conditions) -> Iterator[Figure]:
    """tree_over_single_16: the same of 16 candidates, which is what a search scores at a time."""
    count = QUICK_SEARCH_BATCH if conditions.quick else SEARCH_BATCH
    yield _tree_over_single("tree_over_single_16", count, conditions, at_most=None)


def _tree_over_single(name: str, count: int, conditions: Conditions, at_most: float | None) -> Figure:
    testbed = load_testbed(conditions)
    scoring, batch = whole(testbed.scoring), evolved(testbed, count)
    found: dict[str, list[Trial]] = {}

    def together() -> None:
        found["tree"] = score(scoring, batch, conditions)

    def one_by_one() -> None:
        found["single"] = [trial for asked in batch for trial in score(scoring, [asked], conditions)]

    seconds = conditions.compare(name, {"tree": together, "single": one_by_one})
    check_identical(found["tree"], found["single"])
    return ratio_figure(
        name, seconds, "tree", "single", at_most=at_most,
        against=f"{len(batch)} candidates of an evolutionary batch as one tree / one by one; identical scores",
        detail={
            **_sizes(testbed), "candidates": len(batch), "steps_shared": _shared(testbed, batch),
        },
    )  # fmt: skip


def check_identical(tree: Sequence[Trial], single: Sequence[Trial]) -> None:
    """Raise WorkError unless both scored every candidate the same, to the bit."""
    for a, b in zip(tree, single, strict=True):
        differences = [f"{name} {getattr(a, name)} / {getattr(b, name)}" for name in SCORED
                       if getattr(a, name) != getattr(b, name)]  # fmt: skip
        if a.state != FINISHED or b.state != FINISHED:
            differences.append(f"state {a.state} ({a.reason}) / {b.state} ({b.reason})")
        if differences:
            raise WorkError(
                "a batch must give every candidate the score that it has alone",
                got=f"{', '.join(differences)} for {a.candidate}",
                do="Mend nasimb.supernet.tree or nasimb.search.engine.",
            )


def score(scoring: Scoring, proposals: Sequence[Proposal], conditions: Conditions) -> list[Trial]:
    """Score candidates as a search does.

    Raises:
        WorkError: one of them was not scored to the end; its seconds would say that scores are quick.
    """
    trials = evaluate_batch(scoring, proposals, [], seed=0, clock=conditions.clock)
    for trial in trials:
        if trial.state != FINISHED:
            raise WorkError(
                "a candidate must be scored on all images to be measured",
                got=f"{trial.state} ({trial.reason}) for {trial.candidate}",
                do="Give it more memory, or mend what the reason names.",
            )
    return trials


def whole(scoring: Scoring) -> Scoring:
    """The same without screening: every candidate sees all images."""
    return replace(scoring, screen=None)


def proposal(testbed: Testbed, candidate: Candidate, number: int = 0) -> Proposal:
    """The candidate as a study would propose it."""
    return Proposal(number, "random", candidate, *testbed.scoring.cost_of(candidate.subnet))


def evolved(testbed: Testbed, count: int) -> list[Proposal]:
    """The first `count` candidates that the evolution sampler proposes after its random generation.

    What it selects by is a number drawn for every candidate: which stages its children share does not depend on the
    scores' meaning.
    """
    question = Question(testbed.space, (testbed.calibration,), Limits(), "evolution", None, testbed.seed)
    study, drawn, found = Study(question, testbed.scoring.cost_of), np.random.default_rng(testbed.seed), []

    def free(proposals: Sequence[Proposal]) -> Iterator[Trial]:
        for asked in proposals:
            yield Trial(
                number=asked.number, state=FINISHED, kind=asked.kind, candidate=asked.candidate, macs=asked.macs,
                params=asked.params, score=float(drawn.random()), balanced_loss=1.0, seconds=1.0,
            )  # fmt: skip

    for trial in study.run(free, len, None):
        if trial.kind == "sampler" and trial.state == FINISHED:
            found.append(Proposal(trial.number, trial.kind, trial.candidate, trial.macs, trial.params))
        if len(found) == count:
            break
    return found


def best_batch_size(testbed: Testbed, backbone: nn.Module, conditions: Conditions) -> int:
    """The fastest of some numbers of images a forward pass, so that the comparison is not an easy one."""
    images = testbed.scoring.fitted
    part = images.subset(torch.arange(min(len(images), TUNING_IMAGES)))
    works: dict[str, Callable[[], object]] = {
        str(size): partial(_forward, testbed.scoring, backbone, part, None, size)
        for size in sorted({*BATCH_SIZES, testbed.scoring.batch_size})
    }
    seconds = alternate(works, TUNING_TURNS, conditions.clock, lambda: synchronise(conditions.device))
    return int(min(works, key=lambda size: float(np.median(seconds[size]))))


def plain_forward(testbed: Testbed, backbone: nn.Module, batch_size: int) -> None:
    """Once over the target and once over the calibration images, no head."""
    _forward(testbed.scoring, backbone, testbed.scoring.fitted, testbed.calibration_BCHW, batch_size)


@torch.inference_mode()
def _forward(
    scoring: Scoring, backbone: nn.Module, images: ImageSet, more_BCHW: Tensor | None, batch_size: int
) -> None:
    with number_format(scoring):
        for images_BCHW in () if more_BCHW is None else torch.split(more_BCHW, batch_size):
            backbone(images_BCHW)
        for images_BCHW, _ in images.batches(batch_size, scoring.device):
            backbone(images_BCHW)


def number_format(scoring: Scoring) -> AbstractContextManager[object]:
    """The number format of the scoring, for the network by itself."""
    return torch.autocast(scoring.device.type, scoring.dtype) if scoring.dtype != torch.float32 else nullcontext()


def _sizes(testbed: Testbed) -> dict[str, float | str | None]:
    return {
        "target_images": len(testbed.scoring.fitted), "calibration_images": len(testbed.calibration_BCHW),
        "classes": testbed.task.target.num_classes, "space": testbed.space.name, "dtype": str(testbed.scoring.dtype),
    }  # fmt: skip


def _shared(testbed: Testbed, batch: Sequence[Proposal]) -> float:
    """Share of all steps of the candidates that sharing prefixes saves."""
    paths = [testbed.scoring.supernet.steps(asked.candidate.subnet) for asked in batch]
    prefixes = {path[:end] for path in paths for end in range(1, len(path) + 1)}
    return 1 - len(prefixes) / sum(map(len, paths))
