"""Search spaces and subnets: which networks there are, as plain values.

A `SearchSpace` lists the choices (read from YAML); a `Subnet` is one combination of them. Both are frozen and
hashable, so a subnet is a dict key, a cache key and a table column, and it is always an argument, never a state.
Depths are counts of residual blocks, widths are channels, kernel sizes and resolutions are pixels; never indices.
Start with `SearchSpace.load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import prod
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from nasimb.errors import IllegalSubnetError
from nasimb.spec import Spec, find_shipped, parse, read_yaml

__all__ = ["SearchSpace", "Stage", "Subnet"]

Value = int | str
Choices = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Option = bool | int | float | str


def _as_pairs(values: Any) -> Any:
    """A mapping of mappings as pairs, which can be hashed."""
    if isinstance(values, tuple):
        return values
    if not (isinstance(values, Mapping) and all(isinstance(inner, Mapping) for inner in values.values())):
        raise ValueError("write a mapping for every name, such as {gn_4: {name: gn, group_size: 4}}")
    for name, inner in values.items():
        for key, value in inner.items():
            if not isinstance(value, bool | int | float | str):
                raise ValueError(f"the option {name}.{key} must be a number, a word, true or false; got {value!r}")
    return tuple((name, tuple(inner.items())) for name, inner in values.items())


def _as_mapping(pairs: tuple[tuple[str, tuple[tuple[str, Option], ...]], ...]) -> dict[str, dict[str, Option]]:
    return {name: dict(options) for name, options in pairs}


NormOptions = Annotated[
    tuple[tuple[str, tuple[tuple[str, Option], ...]], ...], BeforeValidator(_as_pairs), PlainSerializer(_as_mapping)
]
"""Norms under names of one's own, each with its options; written and read as a mapping of mappings."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """One network of a search space; per-stage fields have one entry a stage.

    Attributes:
        resolution: side of the square input, pixels.
        depths: residual blocks a stage.
        widths: channels a stage.
        kernel_sizes: side of the first convolution's kernel in every block of a stage, pixels.
        norms: name of the normaliser that ends every block of a stage.
        taps: how many of the last stages the head sees, globally average pooled and concatenated (1: the last alone).

    Example:
        >>> subnet = Subnet(12, depths=(1, 2), widths=(8, 16), kernel_sizes=(3, 5), norms=("bn", "nbn"), taps=1)
        >>> str(subnet)
        'r12 d1-2 w8-16 k3-5 bn-nbn t1'
        >>> Subnet.from_dict(subnet.to_dict()) == subnet
        True
    """

    resolution: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    norms: tuple[str, ...]
    taps: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `Subnet.from_dict` undoes it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Subnet:
        """Undo `to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    def __str__(self) -> str:
        """Short and unique within a space, e.g. `r12 d1-2-1 w8-16-32 k3-5-3 bn-nbn-bn t2`."""
        per_stage = (self.depths, self.widths, self.kernel_sizes, self.norms)
        d, w, k, n = ("-".join(map(str, values)) for values in per_stage)
        return f"r{self.resolution} d{d} w{w} k{k} {n} t{self.taps}"


class Stage(Spec):
    """The choices of one stage: the blocks between two changes of resolution.

    Example:
        >>> stage = Stage(depths=(1, 2), widths=(8, 16, 32), norms=("bn", "nbn"), stride=2)
        >>> SearchSpace(name="mine", backbone="resnet", stem_width=8, resolutions=(16,), stages=(stage,)).size()
        12
    """

    depths: Choices
    widths: Choices
    kernel_sizes: Choices = (3,)
    norms: Annotated[tuple[str, ...], Field(min_length=1)] = ("bn",)
    stride: PositiveInt = 1

    @field_validator("depths", "widths", "kernel_sizes")
    @classmethod
    def _ascending(cls, values: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        return _strictly_ascending(values, str(info.field_name))

    @field_validator("kernel_sizes")
    @classmethod
    def _odd(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(value % 2 == 0 for value in values):
            raise ValueError("kernel sizes must be odd, so that a smaller kernel is the centre of a larger one")
        return values

    @field_validator("norms")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError("norms must differ from each other")
        return values


class SearchSpace(Spec):
    """Everything a subnet may be. Choices only: data, never code.

    Attributes:
        norm_options: norms with options under names that stages may list, such as
            `{nbn_published: {name: nbn, bias: normalised, start: one}}`. What each option means, the norm says.

    Example:
        >>> space = SearchSpace.load("digits-resnet")
        >>> space.size()
        124416
        >>> str(space.smallest()), str(space.sample(np.random.default_rng(0)))
        ('r8 d1-1-1 w8-16-32 k3-3-3 bn-bn-bn t1', 'r12 d2-1-2 w12-16-48 k3-3-5 bn-bn-nbn t2')
    """

    name: str
    backbone: str
    stem_width: PositiveInt
    resolutions: Choices
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    taps: Choices = (1,)
    norm_options: NormOptions = ()

    @field_validator("resolutions", "taps")
    @classmethod
    def _ascending(cls, values: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        return _strictly_ascending(values, str(info.field_name))

    @model_validator(mode="after")
    def _taps_within_stages(self) -> SearchSpace:
        if self.taps[-1] > len(self.stages):
            raise ValueError(f"taps must be at most the number of stages, {len(self.stages)}")
        return self

    @model_validator(mode="after")
    def _norm_options_are_used(self) -> SearchSpace:
        listed = {norm for stage in self.stages for norm in stage.norms}
        for name, options in self.norm_options:
            if "name" not in dict(options):
                raise ValueError(f"norm_options.{name} must have a name, that of the norm whose options it gives")
            if name == "bn":
                raise ValueError("norm_options must leave the name bn alone: it also is the norm inside blocks")
            if name not in listed:
                raise ValueError(f"norm_options.{name} must be listed among the norms of a stage")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A space without options is written, and hashed, as it was before there were any.
        written: dict[str, Any] = handler(self)
        if not self.norm_options:
            written.pop("norm_options", None)
        return written

    def norm(self, name: str) -> str | dict[str, Option]:
        """What a norm's name means here: itself, or the options given under it."""
        return dict(dict(self.norm_options).get(name, ())) or name

    @classmethod
    def load(cls, name: str) -> SearchSpace:
        """The space of a YAML file, by path (`my/space.yaml`) or by the stem of a shipped one (`cifar-resnet`).

        >>> SearchSpace.load("cifar-resnet").resolutions
        (16, 20, 24, 28, 32)
        """
        path = find_shipped("search_spaces", name)
        return parse(cls, {"name": path.stem, **read_yaml(path)}, what=f"search space {path.stem}")

    @property
    def max_resolution(self) -> int:
        """Side at which images are stored, pixels; smaller resolutions are resized from it."""
        return self.resolutions[-1]

    def choices(self) -> dict[str, tuple[Value, ...]]:
        """Every elastic dimension by name, stages counted from 1.

        >>> choices = SearchSpace.load("digits-resnet").choices()
        >>> choices["resolution"], choices["stage1.norm"], choices["stage3.width"]
        ((8, 10, 12), ('bn', 'nbn'), (32, 48, 64))
        """
        found: dict[str, tuple[Value, ...]] = {"resolution": self.resolutions}
        for number, stage in enumerate(self.stages, start=1):
            found[f"stage{number}.depth"] = stage.depths
            found[f"stage{number}.width"] = stage.widths
            found[f"stage{number}.kernel_size"] = stage.kernel_sizes
            found[f"stage{number}.norm"] = stage.norms
        return {**found, "taps": self.taps}

    def subnet(self, values: Mapping[str, Any]) -> Subnet:
        """The subnet that picks `values[name]` in every dimension of `choices()`.

        Raises:
            IllegalSubnetError: a dimension is missing, or its value is not among the choices.

        >>> space = SearchSpace.load("digits-resnet")
        >>> str(space.subnet({**space.values(space.largest()), "stage2.norm": "nbn"}))
        'r12 d2-2-2 w16-32-64 k5-5-5 bn-nbn-bn t3'
        """
        for name, allowed in self.choices().items():
            if values.get(name) not in allowed:
                raise IllegalSubnetError(
                    f"{name} must be one of {list(allowed)} in {self.name}",
                    got=values.get(name),
                    do="Choose one of these.",
                )

        def per_stage(dimension: str) -> tuple[Any, ...]:
            return tuple(values[f"stage{number}.{dimension}"] for number in range(1, len(self.stages) + 1))

        return Subnet(
            resolution=values["resolution"],
            depths=per_stage("depth"),
            widths=per_stage("width"),
            kernel_sizes=per_stage("kernel_size"),
            norms=per_stage("norm"),
            taps=values["taps"],
        )

    def values(self, subnet: Subnet) -> dict[str, Value]:
        """Undo `subnet()`: the value of every dimension by name."""
        found: dict[str, Value] = {"resolution": subnet.resolution}
        for number in range(1, len(subnet.depths) + 1):
            found[f"stage{number}.depth"] = subnet.depths[number - 1]
            found[f"stage{number}.width"] = subnet.widths[number - 1]
            found[f"stage{number}.kernel_size"] = subnet.kernel_sizes[number - 1]
            found[f"stage{number}.norm"] = subnet.norms[number - 1]
        return {**found, "taps": subnet.taps}

    def check(self, subnet: Subnet) -> None:
        """Raise IllegalSubnetError unless the space contains `subnet`."""
        if len(subnet.depths) != len(self.stages):
            raise IllegalSubnetError(
                f"a subnet of {self.name} must have {len(self.stages)} stages",
                got=len(subnet.depths),
                do="Use the space it was sampled from.",
            )
        self.subnet(self.values(subnet))

    def sample(self, rng: np.random.Generator) -> Subnet:
        """A subnet drawn uniformly from all of them."""
        return self.subnet({name: allowed[rng.integers(len(allowed))] for name, allowed in self.choices().items()})

    def smallest(self) -> Subnet:
        """The cheapest subnet: the first choice everywhere (norms: the first listed)."""
        return self.subnet({name: allowed[0] for name, allowed in self.choices().items()})

    def largest(self) -> Subnet:
        """The most expensive subnet: the last choice everywhere, but the first listed norm."""
        return self.subnet(
            {name: allowed[0 if name.endswith(".norm") else -1] for name, allowed in self.choices().items()}
        )

    def size(self) -> int:
        """How many different subnets there are."""
        return prod(len(allowed) for allowed in self.choices().values())


def _strictly_ascending(values: tuple[int, ...], name: str) -> tuple[int, ...]:
    if any(b <= a for a, b in pairwise(values)):
        raise ValueError(f"{name} must be in ascending order without repeats")
    return values
