"""The elastic residual network (basic blocks of arXiv 1512.03385), with a searched norm at the end of each block.

Shapes: B images, C channels, H and W pixels, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import accumulate
from typing import NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.nn.elastic import ElasticConv2d, ElasticLinear, ElasticNorm, as_module_name
from nasimb.nn.estimators import NewEstimator
from nasimb.nn.moments import Moments, MomentsFor, Statistics, batch_moments
from nasimb.nn.norms.base import NormSpec
from nasimb.nn.norms.choices import INNER_NORM, inner_norms, stage_norms, stem_norm
from nasimb.nn.norms.nbn import NormalisedBatchNorm, NormalisedBatchNormSpec
from nasimb.space import Stage, Subnet
from nasimb.supernet.base import Step, Supernet, channels_last, pooled, prepare_images
from nasimb.supernet.fold import FoldedBlock, FoldedStem, folded
from nasimb.supernet.plain_resnet import PlainBlock, PlainResNet


class StemStep(NamedTuple):
    """The first step: images of this resolution through the stem."""

    resolution: int


class BlockStep(NamedTuple):
    """A block of a stage (both counted from 0), with what decides its weights."""

    stage: int
    block: int
    in_width: int
    width: int
    kernel_size: int
    norm: str


@final
class ElasticBlock(nn.Module):
    """convolution - bn - relu - 3x3 convolution - norm, plus the shortcut, then relu.

    A norm with `where: all` also takes the place of the bn, and if it has a nonlinearity of its own, of the first relu.
    At the end of the branch, and of the shortcut, such a norm acts whole, before the addition: without its nonlinearity
    it would not normalise.

    The first block of a stage projects its shortcut (1x1 convolution and norm), whatever the widths are, so that
    one set of weights serves all of them; the others, whose width is that of their input, add it as it is.
    """

    def __init__(
        self, key: str, max_in: int, stage: Stage, norms: Mapping[str, NormSpec], *, first: bool,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        max_width, stride = stage.widths[-1], stage.stride if first else 1
        inner, outer = inner_norms(norms), norms
        self.first, self._inner = first, {name: name if name in inner else INNER_NORM for name in norms}
        self.conv1 = ElasticConv2d(max_in, max_width, stage.kernel_sizes[-1], stride, generator)
        self.norm1 = ElasticNorm(f"{key}.norm1", max_width, inner, generator)
        self.conv2 = ElasticConv2d(max_width, max_width, 3, 1, generator)
        self.norm2 = ElasticNorm(f"{key}.norm2", max_width, outer, generator)
        if first:
            self.shortcut = ElasticConv2d(max_in, max_width, 1, stride, generator)
            self.shortcut_norm = ElasticNorm(f"{key}.shortcut_norm", max_width, outer, generator)

    def forward(self, x_BCHW: Tensor, width: int, kernel_size: int, norm: str, moments_for: MomentsFor) -> Tensor:
        """Maps of `width` channels; `kernel_size` is that of the first convolution, `norm` that of the last norm."""
        y_BCHW = self.norm1(self.conv1(x_BCHW, width, kernel_size), self._inner[norm], moments_for)
        if not self.norm1.activates(self._inner[norm]):
            y_BCHW = F.relu(y_BCHW, inplace=True)
        y_BCHW = self.norm2(self.conv2(y_BCHW, width, 3), norm, moments_for)
        if self.first:
            x_BCHW = self.shortcut_norm(self.shortcut(x_BCHW, width, 1), norm, moments_for)
        return F.relu(y_BCHW.add_(x_BCHW), inplace=True)

    def settle(
        self, parts: Sequence[Tensor], step: BlockStep, into: MutableMapping[str, Moments], new_estimator: NewEstimator
    ) -> list[Tensor]:
        """`forward` over parts of the calibration images; see `Supernet.settle`."""
        convolved: Iterable[Tensor] = (self.conv1(x_BCHW, step.width, step.kernel_size) for x_BCHW in parts)
        inner: Iterable[Tensor] = self.norm1.settle(convolved, self._inner[step.norm], into, new_estimator)
        if not self.norm1.activates(self._inner[step.norm]):
            inner = (F.relu(y_BCHW, inplace=True) for y_BCHW in inner)
        convolved = (self.conv2(y_BCHW, step.width, 3) for y_BCHW in inner)
        main, short = self.norm2.settle(convolved, step.norm, into, new_estimator), iter(parts)
        if self.first:
            projected = (self.shortcut(x_BCHW, step.width, 1) for x_BCHW in parts)
            short = self.shortcut_norm.settle(projected, step.norm, into, new_estimator)
        return [F.relu(y_BCHW.add_(x_BCHW), inplace=True) for y_BCHW, x_BCHW in zip(main, short, strict=True)]

    def extract(
        self, in_width: int, width: int, kernel_size: int, norm: str, statistics: Statistics | None
    ) -> PlainBlock:
        """The same block as a plain module."""
        shortcut: nn.Module = nn.Identity()
        if self.first:
            shortcut = nn.Sequential(
                self.shortcut.extract(in_width, width, 1), self.shortcut_norm.extract(width, norm, statistics)
            )
        return PlainBlock(
            conv1=self.conv1.extract(in_width, width, kernel_size),
            norm1=self.norm1.extract(width, self._inner[norm], statistics),
            conv2=self.conv2.extract(width, width, 3),
            norm2=self.norm2.extract(width, norm, statistics),
            shortcut=shortcut,
            activated=self.norm1.activates(self._inner[norm]),
        )

    def layers_of(self, norm: str) -> Iterator[NormalisedBatchNorm]:
        """The layers of this name that learn a scalar."""
        for elastic in (layer for layer in self.children() if isinstance(layer, ElasticNorm)):
            if as_module_name(norm) in elastic.choices and isinstance(
                found := elastic.named(norm), NormalisedBatchNorm
            ):
                yield found


@final
class ResNetSupernet(Supernet):
    """Stem (3x3 convolution, `stem_norm`, relu), then stages of `ElasticBlock`."""

    def _build(self, generator: torch.Generator) -> None:
        space = self.space
        self._stem_choice, stem_spec = stem_norm(space)
        self.stem = ElasticConv2d(self.in_channels, space.stem_width, 3, 1, generator)
        self.stem_norm = ElasticNorm("stem.norm", space.stem_width, {self._stem_choice: stem_spec}, generator)
        self.stages = nn.ModuleList()
        in_width = space.stem_width
        for number, stage in enumerate(space.stages, start=1):
            blocks, norms = nn.ModuleList(), stage_norms(space, stage)
            for index in range(1, stage.depths[-1] + 1):
                key = f"stage{number}.block{index}"
                blocks.append(ElasticBlock(key, in_width, stage, norms, first=index == 1, generator=generator))
                in_width = stage.widths[-1]
            self.stages.append(blocks)
        self.classifier = ElasticLinear(in_width, self.num_classes, generator)
        self._share_scales()

    def _share_scales(self) -> None:
        """Own the scalars of normalised batch norms that several layers share: each once, and saved once."""
        sharing: dict[str, tuple[NormalisedBatchNormSpec, int, list[NormalisedBatchNorm]]] = {}
        for number, (stage, blocks) in enumerate(zip(self.space.stages, self.stages, strict=True), start=1):
            for name, spec in stage_norms(self.space, stage).items():
                if isinstance(spec, NormalisedBatchNormSpec) and spec.scale != "layer":
                    own = as_module_name(name)
                    key = f"all_{own}" if spec.scale == "shared" else f"stage{number}_{own}"
                    _, width, layers = sharing.get(key, (spec, 0, []))
                    for block in cast(nn.ModuleList, blocks):
                        layers += cast(ElasticBlock, block).layers_of(name)
                    if number == 1 and name == self._stem_choice:  # whose norm is one of the first stage's
                        layers.append(cast(NormalisedBatchNorm, self.stem_norm.named(name)))
                    sharing[key] = spec, max(width, stage.widths[-1]), layers
        self.norm_scales = nn.ParameterDict()
        for key, (spec, width, layers) in sharing.items():
            scale = self.norm_scales[key] = nn.Parameter(torch.tensor(spec.first_scale(width)))
            for layer in layers:
                layer.borrow(scale)

    def features(self, images_BCHW: Tensor, subnet: Subnet, moments_for: MomentsFor = batch_moments) -> Tensor:
        """See `Supernet.features`."""
        maps = list(self._stage_outputs(images_BCHW, subnet, moments_for))
        return torch.cat([pooled(maps_BCHW) for maps_BCHW in maps[-subnet.taps :]], dim=1)

    def forward(self, images_BCHW: Tensor, subnet: Subnet, moments_for: MomentsFor = batch_moments) -> Tensor:
        """See `Supernet.forward`."""
        *_, last_BCHW = self._stage_outputs(images_BCHW, subnet, moments_for)
        return cast(Tensor, self.classifier(pooled(last_BCHW)))

    def feature_dim(self, subnet: Subnet) -> int:
        """See `Supernet.feature_dim`."""
        return sum(subnet.widths[-subnet.taps :])

    def extract(self, subnet: Subnet, statistics: Statistics | None) -> PlainResNet:
        """See `Supernet.extract`."""
        stages, in_width = [], self.space.stem_width
        for (width, kernel_size, norm), elastic in self._chosen(subnet):
            blocks = []
            for block in elastic:
                blocks.append(block.extract(in_width, width, kernel_size, norm, statistics))
                in_width = width
            stages.append(blocks)
        return PlainResNet(
            resolution=subnet.resolution,
            taps=subnet.taps,
            stem=self.stem.extract(self.in_channels, self.space.stem_width, 3),
            stem_norm=self.stem_norm.extract(self.space.stem_width, self._stem_choice, statistics),
            stem_activated=self.stem_norm.activates(self._stem_choice),
            stages=stages,
            pixel_mean_C=self.pixel_mean_C,
            pixel_std_C=self.pixel_std_C,
        ).eval()

    def steps(self, subnet: Subnet) -> tuple[Step, ...]:
        """See `Supernet.steps`: the stem, then every block."""
        found: list[Step] = [StemStep(subnet.resolution)]
        in_width = self.space.stem_width
        for stage, depth in enumerate(subnet.depths):
            width, kernel_size, norm = subnet.widths[stage], subnet.kernel_sizes[stage], subnet.norms[stage]
            for index in range(depth):
                found.append(BlockStep(stage, index, in_width, width, kernel_size, norm))
                in_width = width
        return tuple(found)

    def taps(self, subnet: Subnet) -> tuple[int, ...]:
        """See `Supernet.taps`: the last block of each of the last stages."""
        return tuple(accumulate(subnet.depths))[-subnet.taps :]

    def settle(
        self, step: Step, parts: Sequence[Tensor], new_estimator: NewEstimator
    ) -> tuple[Statistics, list[Tensor]]:
        """See `Supernet.settle`."""
        into: dict[str, Moments] = {}
        if isinstance(step, StemStep):
            convolved = (self._stem(images_BCHW, step.resolution) for images_BCHW in parts)
            maps = self.stem_norm.settle(convolved, self._stem_choice, into, new_estimator)
            return into, [self._rectified(x_BCHW) for x_BCHW in maps]
        assert isinstance(step, BlockStep)
        return into, self._block(step).settle(parts, step, into, new_estimator)

    def fold(self, step: Step, statistics: Statistics) -> nn.Module:
        """See `Supernet.fold`."""
        if isinstance(step, StemStep):
            width = self.space.stem_width
            stem = self.stem.extract(self.in_channels, width, 3)
            norm = self.stem_norm.extract(width, self._stem_choice, statistics)
            activated = self.stem_norm.activates(self._stem_choice)
            return FoldedStem(step.resolution, folded(stem, norm), self.pixel_mean_C, self.pixel_std_C, activated)
        assert isinstance(step, BlockStep)
        block = self._block(step).extract(step.in_width, step.width, step.kernel_size, step.norm, statistics)
        return FoldedBlock(block)

    def _block(self, step: BlockStep) -> ElasticBlock:
        return cast(ElasticBlock, cast(nn.ModuleList, self.stages[step.stage])[step.block])

    def _stem(self, images_BCHW: Tensor, resolution: int) -> Tensor:
        x_BCHW = prepare_images(images_BCHW, resolution, self.pixel_mean_C, self.pixel_std_C)
        return channels_last(self.stem(x_BCHW, self.space.stem_width, 3))

    def _rectified(self, x_BCHW: Tensor) -> Tensor:
        """What follows the stem's norm."""
        return x_BCHW if self.stem_norm.activates(self._stem_choice) else F.relu(x_BCHW, inplace=True)

    def _stage_outputs(self, images_BCHW: Tensor, subnet: Subnet, moments_for: MomentsFor) -> Iterator[Tensor]:
        x_BCHW = self._stem(images_BCHW, subnet.resolution)
        x_BCHW = self._rectified(self.stem_norm(x_BCHW, self._stem_choice, moments_for))
        for (width, kernel_size, norm), blocks in self._chosen(subnet):
            for block in blocks:
                x_BCHW = block(x_BCHW, width, kernel_size, norm, moments_for)
            yield x_BCHW

    def _chosen(self, subnet: Subnet) -> Iterator[tuple[tuple[int, int, str], list[ElasticBlock]]]:
        """For each stage what the subnet chose (width, kernel size, norm), and the blocks it keeps."""
        choices = zip(subnet.widths, subnet.kernel_sizes, subnet.norms, strict=True)
        for choice, blocks, depth in zip(choices, self.stages, subnet.depths, strict=True):
            yield choice, [cast(ElasticBlock, block) for block in cast(nn.ModuleList, blocks)[:depth]]
