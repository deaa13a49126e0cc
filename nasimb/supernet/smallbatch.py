"""Whether batch norms of a training see enough images at a time."""

from __future__ import annotations

from nasimb.nn.norms.choices import norm_spec, stem_norm
from nasimb.space import SearchSpace
from nasimb.supernet.ranks import Ranks
from nasimb.supernet.recipe import Recipe

FEWEST = 16
"""Heuristic: below it the statistics of a batch are noise (arXiv 1803.08494, figure 5: errors rise from 16 down)."""


def small_batch_note(space: SearchSpace, recipe: Recipe, ranks: Ranks) -> str | None:
    """A sentence for the user if batch norms are trained on fewer than 16 images at a time; None if all is well."""
    together = ranks.size if recipe.sync_bn else 1
    images = recipe.batch_size * together // (recipe.accumulation * ranks.size)
    if images >= FEWEST or not _uses_batches(space):
        return None
    more = "sync_bn for the images of all processes; " if ranks.size > 1 and not recipe.sync_bn else ""
    return (
        f"Batch norms see {images} images at a time; below {FEWEST} their statistics are noisy. Others do not mind:"
        f" {more}gn, ln, in, frn and evonorm_s0 normalise every image by itself (inside blocks too with where: all)."
        " Accumulation does not help, as each micro-batch is normalised by itself; nor does ghost_bn, whose"
        " batches are smaller still."
    )


def _uses_batches(space: SearchSpace) -> bool:
    """Whether any norm of the space takes its statistics from a batch in training."""
    specs = [stem_norm(space)[1]]
    for name in {name for stage in space.stages for name in stage.norms}:
        specs.append(norm_spec(space, name))
    return any(spec.over_batches for spec in specs) or any(not spec.everywhere for spec in specs)
