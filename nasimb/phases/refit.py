"""The last refit of a head, to every target image: none is done twice, and a large one goes on where a kill left it.

```
RUN/refit/DIGEST.safetensors          the head, once it is fitted
RUN/refit/DIGEST.fitting.safetensors  the state of a large fit under way
RUN/refit/DIGEST.json                 a subnet's latency
```
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import InputError, ResumeError
from nasimb.heads import Head
from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.compare import label
from nasimb.phases.choice import Choice
from nasimb.phases.comparison import LARGE_PROBLEM
from nasimb.phases.crops import solver_notes
from nasimb.phases.heads import HeadWork
from nasimb.session import Session
from nasimb.space import Subnet
from nasimb.supernet.checkpoint import read_tensors, write_tensors

FOLDER, FITTED = "refit", "fitted"
HOW_GOOD = ("value", "balanced_loss", "metrics", "estimator", "seconds")
"""What a choice tells besides what is to be fitted."""


class Refits:
    """Heads fitted to every target image, and latencies; large fits save themselves, show how far they are and obey
    signals.

    Args:
        work: how heads are fitted.
        large: images x features x classes above which a problem is large; others take no longer than a kill may cost.
    """

    def __init__(self, session: Session, work: HeadWork, large: int = LARGE_PROBLEM) -> None:
        self.work = work
        self._session, self._large = session, large
        self._folder = session.run.path / FOLDER

    def fit(
        self, choice: Choice, target: ImageSet, features: Callable[[], Tensor],
        progress: Callable[[float], None] = lambda share: None,
    ) -> Head:  # fmt: skip
        """The head of `choice`; one that was fitted before a kill is read, one that was interrupted goes on.

        Args:
            features: features_ND as `HeadWork.features_to_fit` gives them; called where they are needed.
            progress: told how much of a large fit is done; what it raises ends the fit, which can be continued.
        """
        dimension = self.work.scoring.supernet.feature_dim(choice.candidate.subnet)
        name = self._name(choice)
        head = self._read(name)
        if head is None:
            self._folder.mkdir(exist_ok=True)
            if self.work.crops.count * len(target) * dimension * target.num_classes <= self._large:
                head = self._fit(choice, target, features())
            else:
                head = self._long_fit(name, choice, target, features(), progress)
            about = {key: value for key, value in vars(head).items() if not isinstance(value, Tensor)}
            write_tensors(self._file(name), head.tensors(), {FITTED: json.dumps(about)})
        for note in solver_notes(head, self.work.compared_images, dimension, target.class_counts_K):
            self._session.watcher.say(f"{label(choice.head)}: {note}")
        return head

    def latency(self, subnet: Subnet, measure: Callable[[], float]) -> float:
        """Seconds, as measured now or before a kill, which took as long as all else of a small network's test."""
        name = f"{FOLDER}/{_digest(subnet.to_dict())}.json"
        found = self._session.run.read_derived(name, self._session.watcher.say)
        if found is None:
            self._folder.mkdir(exist_ok=True)
            found = self._session.run.write_json(name, {"latency_seconds": measure()})
        return float(found["latency_seconds"])

    def remove(self) -> None:
        """All that was saved; the heads are in models now."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fit(self, choice: Choice, target: ImageSet, features_ND: Tensor) -> Head:
        return self.work.fit(choice, features_ND, target.labels_N.to(features_ND.device))

    def _long_fit(
        self, name: str, choice: Choice, target: ImageSet, features_ND: Tensor, progress: Callable[[float], None]
    ) -> Head:
        labels_N = target.labels_N.to(features_ND.device)
        checkpoint = Checkpoint(self._folder / f"{name}.fitting.safetensors", clock=self._session.clock)

        def fit() -> Head:
            return self.work.fit(
                choice, features_ND, labels_N, checkpoint=checkpoint, progress=lambda share, objective: progress(share)
            )

        try:
            head = fit()
        except ResumeError as error:
            # Features computed on another device differ in their last bits, and then the fit is another one.
            self._session.watcher.say(f"{label(choice.head)} is fitted from the start: {error}")
            checkpoint.remove()
            head = fit()
        return head

    def _read(self, name: str) -> Head | None:
        file = self._file(name)
        if not file.exists():
            return None
        try:
            tensors, metadata = read_tensors(file)
        except InputError as error:
            self._session.watcher.say(f"A head that was fitted before is fitted again: {error}")
            return None
        about = json.loads(metadata[FITTED])
        return replace(Head.from_tensors(tensors, name=about["name"], setting=about["setting"]), **about)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _name(self, choice: Choice) -> str:
        """Of everything that decides on the head; after a kill the heads may have been compared for longer."""
        asked = {key: value for key, value in choice.to_line().items() if key not in HOW_GOOD}
        return _digest([asked, self.work.crops.count])


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
