"""Several subnets as one tree of shared prefixes: what they have in common is computed once.

Subnets that begin with the same steps (resolution and stem, then block by block) have the same maps after them, so a
batch of subnets is a tree, calibrated and folded node by node. For every part of the images the tree is walked depth
first; the maps of a node are kept while the nodes below it are computed, and no longer. Each subnet's features are
bit-equal to those it would have alone.

Shapes: B images of one part, C channels, H and W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasimb.errors import MemoryLimitError
from nasimb.nn.estimators import NewEstimator
from nasimb.nn.moments import Statistics
from nasimb.space import Subnet
from nasimb.supernet.base import Step, Supernet, pooled
from nasimb.supernet.calibrate import Calibration


@dataclass(eq=False)
class Node:
    """One step of one or more subnets, behind the same steps before it.

    Attributes:
        step: what it computes; None for a root, which is a calibration policy.
        members: which subnets go through it.
        folded: the step as a module, once it is calibrated.
    """

    step: Step | None
    members: list[int] = field(default_factory=list)
    below: dict[Step, Node] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)
    folded: nn.Module | None = None


class SubnetTree:
    """Calibrated, folded subnets, ready to compute features.

    Args:
        supernet: frozen.
        requests: subnets, each with the name of its calibration policy.
        calibrations: what every policy calibrates with, by its name.
        dtype: number format of the folded steps; statistics are float32 in any case.
        limit_bytes: most that maps of calibration images may take at a time.
        calibration_batch: images of one calibration pass; None: as many as are quick.
        between: called between two steps; what it raises ends the work.

    Raises:
        MemoryLimitError: the maps of calibration images exceed `limit_bytes`.
    """

    def __init__(
        self,
        supernet: Supernet,
        requests: Sequence[tuple[str, Subnet]],
        calibrations: Mapping[str, Calibration],
        *,
        dtype: torch.dtype = torch.float32,
        limit_bytes: float = float("inf"),
        calibration_batch: int | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._roots: dict[str, Node] = {}
        self._paths: list[list[Node]] = []
        self._taps = [supernet.taps(subnet) for _, subnet in requests]
        for member, (policy, subnet) in enumerate(requests):
            self._paths.append(self._grow(member, policy, supernet.steps(subnet)))
        with torch.no_grad():
            for policy, root in self._roots.items():
                calibration = calibrations[policy]
                settling = _Settling(supernet, dtype, limit_bytes, between, calibration.estimator)
                settling.below(root, calibration.parts(supernet, calibration_batch), 0)

    @classmethod
    def alone(
        cls, supernet: Supernet, subnet: Subnet, statistics: Statistics, *, dtype: torch.dtype = torch.float32
    ) -> SubnetTree:
        """One subnet with statistics that are known already."""
        tree = cls(supernet, [], {})
        tree._taps.append(supernet.taps(subnet))
        tree._paths.append(tree._grow(0, "given", supernet.steps(subnet)))
        for node in tree._paths[0]:
            node.statistics, node.folded = statistics, supernet.fold(node.step, statistics).eval().to(dtype)
        return tree

    def _grow(self, member: int, policy: str, steps: Iterable[Step]) -> list[Node]:
        node, path = self._roots.setdefault(policy, Node(None)), []
        node.members.append(member)
        for step in steps:
            node = node.below.setdefault(step, Node(step))
            node.members.append(member)
            path.append(node)
        return path

    def statistics(self, member: int) -> Statistics:
        """BN statistics of one subnet, as `calibrate` would give them."""
        return {key: moments for node in self._paths[member] for key, moments in node.statistics.items()}

    @torch.no_grad()
    def features(self, images_BCHW: Tensor, members: Collection[int] | None = None) -> dict[int, Tensor]:
        """features_BD, float32, of these subnets (all by default) for one part of the images."""
        chosen = range(len(self._paths)) if members is None else members
        active = {node for member in chosen for node in self._paths[member]}
        tapped = {self._paths[member][step] for member in chosen for step in self._taps[member]}
        features_of: dict[Node, Tensor] = {}

        def walk(node: Node, maps_BCHW: Tensor) -> None:
            for child in node.below.values():
                if child in active:
                    assert child.folded is not None
                    outputs_BCHW = child.folded(maps_BCHW)
                    if child in tapped:
                        features_of[child] = pooled(outputs_BCHW)
                    walk(child, outputs_BCHW)

        for root in self._roots.values():
            walk(root, images_BCHW)
        return {
            member: torch.cat([features_of[self._paths[member][step]] for step in self._taps[member]], dim=1)
            for member in chosen
        }


@dataclass(frozen=True, eq=False)
class _Settling:
    supernet: Supernet
    dtype: torch.dtype
    limit_bytes: float
    between: Callable[[], None]
    new_estimator: NewEstimator

    def below(self, node: Node, parts: list[Tensor], held_bytes: int) -> None:
        """Calibrate everything below `node`, whose outputs on the calibration images are `parts` (emptied)."""
        held_bytes += sum(part.nbytes for part in parts)
        waiting = list(node.below.values())
        while waiting:
            child = waiting.pop(0)
            assert child.step is not None
            self.between()
            child.statistics, outputs = self.supernet.settle(child.step, parts, self.new_estimator)
            child.folded = self.supernet.fold(child.step, child.statistics).eval().to(self.dtype)
            taken = held_bytes + sum(output.nbytes for output in outputs)
            if taken > self.limit_bytes:
                raise MemoryLimitError(
                    f"maps of the calibration images must fit in {self.limit_bytes / 2**20:.0f} MiB",
                    got=f"{taken / 2**20:.0f} MiB for {len(node.members)} subnet(s)",
                    do="Lower calibration_images, or raise memory_mib.",
                )
            if not waiting:  # the maps of a node are kept for the nodes still to come from it, and no longer
                held_bytes -= sum(part.nbytes for part in parts)
                parts.clear()
            if child.below:
                self.below(child, outputs, held_bytes)
            del outputs
