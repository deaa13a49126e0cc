"""Whether batch norms of a training see enough images at a time."""

from __future__ import annotations

from nasimb.nn.norms.choices import trained_norms
from nasimb.space import SearchSpace
from nasimb.supernet.ranks import Ranks
from nasimb.supernet.recipe import Recipe

FEWEST = 16
"""Heuristic: below it the statistics of a batch are noise (arXiv 1803.08494: level with group
normalisation at the usual batch, 10.6 points of ImageNet behind it at 2)."""


def small_batch_note(space: SearchSpace, recipe: Recipe, ranks: Ranks) -> str | None:
    """A sentence for the user if batch norms are trained on fewer than 16 images at a time; None if all is well."""
    own, together = (recipe.batch_size // (recipe.accumulation * processes) for processes in (ranks.size, 1))
    seen = {"process": own, "ranks": together, "recipe": together if recipe.sync_bn else own}
    images = min((seen[spec.reach] for spec in trained_norms(space) if spec.over_batches), default=FEWEST)
    if images >= FEWEST:
        return None
    more = "sync_bn for the images of all processes; " if images < together else ""
    return (
        f"Batch norms see {images} images at a time; below {FEWEST} their statistics are noisy. Others do not mind:"
        f" {more}gn, ln, in, frn and evonorm_s0 normalise every image by itself (inside blocks too with where: all)."
        " Accumulation does not help, as each micro-batch is normalised by itself; nor does ghost_bn, whose"
        " batches are smaller still."
    )


def fewest_images(space: SearchSpace, recipe: Recipe) -> int:
    """Images that a process's micro-batch must have for batch norms to have a variance."""
    alone = any(spec.over_batches and spec.reach == "process" for spec in trained_norms(space))
    return 1 if recipe.sync_bn and not alone else 2
