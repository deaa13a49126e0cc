"""Who is told that batch norms see too few images."""

from __future__ import annotations

from typing import Any

import pytest

from nasimb.space import SearchSpace
from nasimb.supernet.ranks import ONE_PROCESS, Ranks
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.smallbatch import fewest_images, small_batch_note

TWO = Ranks(0, 2, 0)


def space(*norms: str, **norm_options: dict[str, Any]) -> SearchSpace:
    stage = {"depths": [1], "widths": [4], "norms": list(norms)}
    values = {"name": "s", "backbone": "resnet", "stem_width": 4, "resolutions": [8], "stages": [stage]}
    return SearchSpace.model_validate({**values, "norm_options": norm_options})


@pytest.mark.parametrize(
    ("options", "ranks", "images"),
    [
        ({"batch_size": 15}, ONE_PROCESS, 15),
        ({"batch_size": 16}, ONE_PROCESS, None),
        ({"batch_size": 64, "accumulation": 8}, ONE_PROCESS, 8),
        ({"batch_size": 24}, TWO, 12),
        ({"batch_size": 24, "sync_bn": True}, TWO, None),
        ({"batch_size": 24, "accumulation": 2, "sync_bn": True}, TWO, 12),
    ],
)
def test_what_counts_are_the_images_of_one_pass(options: dict[str, Any], ranks: Ranks, images: int | None) -> None:
    note = small_batch_note(space("bn", "nbn"), Recipe(**options), ranks)
    if images is None:
        assert note is None
    else:
        assert note is not None
        assert note.startswith(f"Batch norms see {images} images at a time")
        assert "\n" not in note
        assert all(
            word in note for word in ("gn, ln, in, frn", "evonorm_s0", "ccumulation does not help", "nor does ghost_bn")
        )
        assert ("sync_bn" in note) == (ranks is TWO and not options.get("sync_bn", False))


def test_a_network_without_batch_statistics_has_nothing_to_fear() -> None:
    few, everywhere = Recipe(batch_size=4), {"name": "gn", "where": "all"}
    assert small_batch_note(space("gn"), few, ONE_PROCESS) is not None, "bn is inside the blocks"
    assert small_batch_note(space("gn_all", gn_all=everywhere), few, ONE_PROCESS) is None
    assert small_batch_note(space("gn_all", "nbn", gn_all=everywhere), few, ONE_PROCESS) is not None
    batch = {"name": "evonorm_b0", "where": "all"}
    assert small_batch_note(space("b0_all", b0_all=batch), few, ONE_PROCESS) is not None


def test_images_are_counted_as_far_as_a_norm_reaches() -> None:
    alone, together = Recipe(batch_size=24), Recipe(batch_size=24, sync_bn=True)
    synchronised = space("sync", sync={"name": "sync_bn", "where": "all"})
    ghosts = space("ghost", ghost={"name": "ghost_bn", "where": "all"})
    assert small_batch_note(synchronised, alone, TWO) is None, "all 24, whatever the recipe says of others"
    for recipe in (alone, together):
        assert str(small_batch_note(ghosts, recipe, TWO)).startswith("Batch norms see 12 images")
    assert fewest_images(synchronised, together) == 1
    assert fewest_images(ghosts, together) == 2, "no process shares its ghosts"
    assert fewest_images(synchronised, alone) == 2
