"""Which norms a residual search space uses where: names become options."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from torch import nn

from nasimb.errors import InputError, unknown_name
from nasimb.nn.norms import NORMS
from nasimb.nn.norms.base import NormSpec
from nasimb.space import SearchSpace, Stage
from nasimb.spec import from_table

INNER_NORM = "bn"
"""The norm of the stem and in the middle of every block, where the searched norm does not say `where: all`."""


def norm_spec(space: SearchSpace, name: str) -> NormSpec:
    """The options of the norm that a stage of `space` calls `name`.

    Raises:
        InputError: there is no such norm, or it has no such option.
    """
    variants = dict(space.norm_options)
    if name not in variants:
        if name not in NORMS and ":" not in name:
            raise unknown_name("norm", name, [*NORMS, *variants])
        return from_table(NORMS, name, what="norm")
    if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
        raise InputError(
            "a name in norm_options must be a word of letters, digits and underscores that torch has no other use for",
            got=name, do=f"Call it {space.norm(name)['name']}_1, for example."  # type: ignore[index]
        )  # fmt: skip
    return from_table(NORMS, space.norm(name), what=f"norm_options.{name}:")


def stage_norms(space: SearchSpace, stage: Stage) -> dict[str, NormSpec]:
    """The norms that a stage chooses from, by name."""
    return {name: norm_spec(space, name) for name in stage.norms}


def inner_norms(choices: Mapping[str, NormSpec]) -> dict[str, NormSpec]:
    """The norms in the middle of the blocks of a stage with these choices, by name."""
    everywhere = {name: spec for name, spec in choices.items() if spec.everywhere}
    inner = {} if len(everywhere) == len(choices) else {INNER_NORM: from_table(NORMS, INNER_NORM, what="norm")}
    return inner | everywhere


def stem_norm(space: SearchSpace) -> tuple[str, NormSpec]:
    """Name and options of the stem's norm.

    It is the same for every subnet, whose stems are computed once for all: the usual one, unless every norm of the
    first stage is to be everywhere, when it is the first of them.
    """
    first = space.stages[0].norms
    if all(norm_spec(space, name).everywhere for name in first):
        return first[0], norm_spec(space, first[0])
    return INNER_NORM, from_table(NORMS, INNER_NORM, what="norm")


@lru_cache(maxsize=16)
def parameters_per_channel(space: SearchSpace) -> tuple[int, Mapping[str, tuple[int, int]]]:
    """Of the stem's norm; and by name of each norm of a stage, of the one inside a block and of the last one.

    Kept, since options take longer to read than a subnet takes to count.
    """
    usual = norm_spec(space, INNER_NORM).parameters_per_channel
    found = {}
    for name in {name for stage in space.stages for name in stage.norms}:
        spec = norm_spec(space, name)
        last = spec.parameters_per_channel
        found[name] = (last if spec.everywhere else usual, last)
    return stem_norm(space)[1].parameters_per_channel, found


def trained_norms(space: SearchSpace) -> list[NormSpec]:
    """Every norm that a super-network of this space trains, those inside blocks and the stem's included."""
    found = [stem_norm(space)[1]]
    for stage in space.stages:
        norms = stage_norms(space, stage)
        found += [*norms.values(), *inner_norms(norms).values()]
    return found
